"""GET /health/live, /health/ready and /metrics: how the server is."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.routes.dependencies import KEY_NEEDED, ServingState
from service.schemas import Health, problem_responses

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> Health:
    """The process answers; also while networks are being loaded."""
    return Health(status="live")


@router.get("/health/ready", responses=problem_responses(503))
async def ready(serving: ServingState) -> Health:
    """Networks are loaded and warm, queues are below their bound, and nobody said stop."""
    serving.check_ready()
    return Health(status="ready")


@router.get(
    "/metrics",
    dependencies=KEY_NEEDED,
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problem_responses(401, 403, 429)},
)
def metrics(request: Request) -> Response:
    """Counters in Prometheus's text format, of all processes of the server."""
    return Response(request.app.state.metrics_text(), media_type=CONTENT_TYPE_LATEST)
