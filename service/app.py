"""The application: settings, engine and routes wired together. Importing it starts nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI

from models.extras import explained
from service import cors, openapi, problems
from service.errors import Conflict
from service.guard import Guard
from service.metrics import Metrics
from service.routes import classify, detect, health, models, page, pose, segment, v2
from service.server import serve
from service.serving import PoseEngine, Serving
from service.settings import Settings, words_of
from service.siblings import Order, Seat, Siblings
from service.supervisor import Supervisor
from service.tracing import create_tracer

DESCRIPTION = "Keypoints of people in photographs. Errors are RFC 9457 problems."


def create_app(
    settings: Settings | None = None,
    engine: PoseEngine | None = None,
    seat: Seat | None = None,
) -> FastAPI:
    """An application with an engine of its own, which its lifespan starts and closes.

    settings: None reads the environment.  engine: None makes one as the settings say.
    seat: its place among several processes, whose /metrics it answers; None is alone.
    """
    settings = settings or Settings()
    serving = Serving(settings, engine or create_engine(settings), seat.entry if seat else None)
    metrics = Metrics(serving)
    siblings = None
    if seat and seat.folder:
        siblings = Siblings(seat, seat.folder, metrics.text, serving.change)
    tracer = create_tracer(settings.otel_endpoint, _version())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with siblings.answering() if siblings else nullcontext(), serving.lifespan():
            yield
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

    app = FastAPI(
        title="hrpose",
        description=DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # would send clients to what the Host header says
    )
    app.state.serving = serving
    app.state.metrics_text = siblings.text if siblings else metrics.text
    app.state.pass_on = _passing_on(seat, siblings)
    for routes in (pose, detect, classify, segment, models, v2, health, page):
        app.include_router(routes.router)
    app.mount("/static", page.page_files())
    openapi.install(app)
    problems.install(app)
    app.add_middleware(Guard, serving=serving, metrics=metrics, tracer=tracer)
    cors.install(app, words_of(settings.cors_origins))
    return app


def _passing_on(seat: Seat | None, siblings: Siblings | None) -> Callable[[Order], None]:
    """What has a change of networks done by the other processes too."""
    if siblings is not None:
        return siblings.pass_on
    if seat is None or seat.workers == 1:
        return lambda _: None

    def cannot(_: Order) -> None:
        raise Conflict(
            "this process did, but the others of this server cannot be told: there was no room for "
            "the folder in which they meet (TMPDIR)"
        )

    return cannot


def create_engine(settings: Settings) -> PoseEngine:
    """The engine that the settings describe, not started."""
    from service.inference.engine import Engine

    return Engine(
        model=settings.model,
        detector=settings.detector,
        device=settings.device,
        runtime=settings.runtime,
        precision=settings.precision,
        threads=settings.threads,
        threads_per_image=settings.threads_per_image,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
        max_queue=settings.max_queue,
        max_megapixels=settings.max_megapixels,
        max_pixels_mb=settings.max_pixels_mb,
        max_people=settings.max_people,
        max_models=settings.max_models,
        allow_random=settings.allow_random,
        models_dir=Path(settings.models_dir) if settings.models_dir else None,
    )


def run(settings: Settings) -> int:
    """Serves until told to stop: what `hrpose serve` calls; the exit status."""
    if settings.engine == "ray":
        with explained():
            from service import ray_app
        ray_app.run(settings)
        return 0
    if settings.workers > 1:
        return Supervisor(settings, _serve_on).run()
    serve(create_app(settings))
    return 0


def _serve_on(settings: Settings, listening: socket.socket, seat: Seat) -> None:
    serve(create_app(settings, seat=seat), listening)


def _version() -> str:
    try:
        return version("hrpose")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
