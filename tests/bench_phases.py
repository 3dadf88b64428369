"""Where the time of one photograph goes: processor time by phase, measured part by part.

The server's requests and the parts take turns, so that what disturbs one disturbs all.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from heads.geometry import Crop
from heads.image import decode_image, warp
from heads.onnx_file import OUTPUT
from heads.photo import Photo
from service.accept import JSON
from service.inference.answers import PoseOptions
from service.inference.catalogue import resolve_default
from service.inference.engine import DEFAULT_DETECTOR, Engine, serve_network
from service.inference.job import Job
from service.inference.loading import Loader, choose
from service.inference.pipeline import PeopleNetwork, PoseNetwork
from service.inference.turns import Turns
from service.written import write_pose
from tests.report import Report

ROUNDS = 12
CALLS = 5
"""Of each part in a round."""


class Asked(Protocol):
    """A server that answers photographs."""

    def cpu_ms(self, photo: Path, clients: int, seconds: float) -> float:
        """Processor milliseconds of the server for each photograph."""


def cpu_ms(call: Callable[[], object]) -> float:
    """Processor milliseconds of a call in this process, the mean of a few."""
    call()
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) * 1000 / CALLS


def phases(report: Report, network: str, photo: Path, server: Asked, seconds: float) -> None:
    """One person, the whole photograph as the box. seconds: of loading the server, a round."""
    data = photo.read_bytes()
    engine = Engine(model=network, detector="none", threads=1)
    engine.start()
    detector = serve_network(
        Loader(choose(threads=1)).load(DEFAULT_DETECTOR, boxes_only=True), Turns(1)
    )
    assert isinstance(detector, PeopleNetwork)
    with (
        closing(engine),
        closing(detector.batcher),
        engine.pipeline(network) as pose,
        engine.pipeline(resolve_default()) as default,
    ):
        assert isinstance(pose.network, PoseNetwork)
        spec = pose.spec
        image = decode_image(data)
        box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
        crop = warp(image, spec.crop(box))
        maps = pose.network.batcher.run([crop], Job())[0].maps
        codec = spec.heatmap_codec()
        answer = engine.pose(data, network, PoseOptions(), Job())
        size, glance = (image.shape[0], image.shape[1]), detector.spec.view.glance
        assert glance is not None
        coarse = detector.spec.whole(size, glance.short_side)
        fine = detector.spec.whole(size)

        def pass_of(asked: PeopleNetwork | PoseNetwork, view: Crop) -> Callable[[], object]:
            """A view is cut from pixels and goes through the network."""
            return lambda: asked.batcher.run(Photo.of(image).views([view]), Job())

        parts: dict[str, Callable[[], object]] = {
            "decode and crop": lambda: Photo(data).views([spec.crop(box)]),
            "network": lambda: pose.network.batcher.run([crop], Job()),
            "codec": lambda: codec.decode(maps[OUTPUT][None]),
            "write JSON": lambda: write_pose(answer, JSON),
        }
        beside: dict[str, Callable[[], object]] = {
            "all pixels and crop": lambda: warp(decode_image(data), spec.crop(box)),
            "detect: decode and view": lambda: Photo(data).views([fine]),
            "detect: glance": pass_of(detector, coarse),
            "detect: closer look": pass_of(detector, fine),
            f"one person by {default.spec.name}": pass_of(default.network, default.spec.crop(box)),
        }
        times: dict[str, list[float]] = {name: [] for name in ("a request", *parts, *beside)}
        for _ in range(ROUNDS):
            times["a request"].append(server.cpu_ms(photo, 1, seconds))
            for name, call in (parts | beside).items():
                times[name].append(cpu_ms(call))
    ms = {name: float(np.median(met)) for name, met in times.items()}
    of_parts = {name: ms[name] for name in parts}
    rows = of_parts | {
        "HTTP and the rest": ms["a request"] - sum(of_parts.values()),
        "a request": ms["a request"],
        "all but the network": ms["a request"] - ms["network"],
    }
    report.part(
        f"phases, 0.9 MP, people: 1, clients: 1, median of {ROUNDS} rounds", "the network", ""
    )
    for name, spent in (rows | {name: ms[name] for name in beside}).items():
        report.add(name, "hrpose, exact", ratio=spent / ms["network"], cpu_ms=spent)
