"""Where the time of one photograph goes: processor time by phase, measured part by part."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from heads.geometry import Crop
from heads.image import decode_image, warp
from heads.onnx_file import OUTPUT
from heads.photo import Photo
from service.accept import JSON
from service.inference.answers import PoseOptions
from service.inference.catalogue import resolve_default
from service.inference.engine import DEFAULT_DETECTOR, Engine
from service.inference.job import Job
from service.inference.pipeline import Pipeline
from service.written import write_pose
from tests.report import Report

CALLS = 40


def cpu_ms(call: Callable[[], object]) -> float:
    """Processor milliseconds of one call in this process; the tenth percentile of many."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.percentile(times, 10)) * 1000


def phases(report: Report, network: str, photo: Path, whole_ms: float) -> None:
    """One person, the whole photograph as the box. whole_ms: what a server spends on a request."""
    data = photo.read_bytes()
    engine = Engine(model=network, detector="none", threads=1)
    engine.start()
    with (
        closing(engine),
        engine.pipeline(network) as pose,
        engine.pipeline(DEFAULT_DETECTOR) as people,
        engine.pipeline(resolve_default()) as default,
    ):
        spec = pose.spec
        image = decode_image(data)
        box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
        crop = warp(image, spec.crop(box))
        maps = pose.network.batcher.run([crop], Job())[0].maps
        codec = spec.heatmap_codec()
        answer = engine.pose(data, network, PoseOptions(), Job())
        size, glance = (image.shape[0], image.shape[1]), people.spec.view.glance
        assert glance is not None
        coarse, fine = people.spec.whole(size, glance.short_side), people.spec.whole(size)

        def pass_of(pipeline: Pipeline, view: Crop) -> Callable[[], object]:
            """A view is cut from pixels and goes through the network."""
            return lambda: pipeline.network.batcher.run(Photo.of(image).views([view]), Job())

        parts = {
            "decode and crop": cpu_ms(lambda: Photo(data).views([spec.crop(box)])),
            "network": cpu_ms(lambda: pose.network.batcher.run([crop], Job())),
            "codec": cpu_ms(lambda: codec.decode(maps[OUTPUT][None])),
            "write JSON": cpu_ms(lambda: write_pose(answer, JSON)),
        }
        beside = {
            "all pixels and crop": cpu_ms(lambda: warp(decode_image(data), spec.crop(box))),
            "detect: decode and view": cpu_ms(lambda: Photo(data).views([fine])),
            "detect: glance": cpu_ms(pass_of(people, coarse)),
            "detect: closer look": cpu_ms(pass_of(people, fine)),
            f"one person by {default.spec.name}": cpu_ms(pass_of(default, default.spec.crop(box))),
        }
    parts["HTTP and the rest"] = whole_ms - sum(parts.values())
    around = whole_ms - parts["network"]
    report.part("phases, 0.9 MP, people: 1, clients: 1", "the network", "")
    rows = {**parts, "a request": whole_ms, "all but the network": around, **beside}
    for name, ms in rows.items():
        report.add(name, "hrpose, exact", ratio=ms / parts["network"], cpu_ms=ms)
