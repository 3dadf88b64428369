"""`make bench`: networks alone by every runtime, and the parts that are ours against plain ones.

Times are the best of interleaved rounds, so that a busy neighbour disturbs both sides alike; only
the ratios mean something on another machine.
"""

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from heads.codec import HeatmapCodec
from heads.errors import CheckpointError, ExportError
from heads.export import export_onnx
from heads.geometry import Crop
from heads.image import decode_image, warp
from heads.load import load
from heads.network import Network, build, input_tensor
from heads.spec import default_spec
from models.profile import profile
from service.errors import RuntimeMissing
from service.inference.runtime import OnnxRuntime, OpenVinoRuntime, Precision, Runtime, TorchRuntime
from tests.conftest import ROOT
from tests.report import Report

ROUNDS = 12
NETWORKS = ("movenet_thunder", "movenet_multipose", "hrnet_w18_small")
LARGE = "hrnet_w32+simple"  # random weights: speed is real, answers are not
WHOLE_SIZE = (320, 480)  # a photograph of 3:2, as a people network sees it
BATCHES = (1, 8)
PLAIN = "torch, as it is built"
MATRIX = 1024
"""Side of the square matrices whose product tells how fast this processor can multiply and add."""


def race(
    ways: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Best milliseconds of each way; the first call of each is not counted."""
    for call in ways.values():
        call()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for way, call in ways.items():
            start = clock()
            call()
            best[way] = min(best[way], (clock() - start) * 1000)
    return best


def networks(report: Report) -> None:
    """Networks alone on one thread, by each runtime.

    Of the floor: how many times longer than the same multiply-adds take in a product of matrices.
    """
    report.part(f"networks alone, one thread, best of {ROUNDS}", PLAIN, "images")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for network in (*map(load, NETWORKS), build(default_spec(LARGE)).eval()):
        for count in BATCHES:
            times, floors = network_times(network, count)
            for way, ms in times.items():
                floor_ms = floors[torch.bfloat16 if way.endswith(" fast") else torch.float32]
                report.add(
                    f"{network.spec.name}, crops: {count}", way,
                    ratio=times[PLAIN] / ms, cpu_ms=ms, beside=f"{ms / floor_ms:.2f}x of the floor",
                )  # fmt: skip
    torch.set_num_threads(threads)


def network_times(
    network: Network, count: int
) -> tuple[dict[str, float], dict[torch.dtype, float]]:
    """Best CPU milliseconds an image of `count` crops, by the plain way and by each runtime.

    Second, the milliseconds that its multiply-adds take at the speed of a product of matrices.
    """
    spec = network.spec
    size = WHOLE_SIZE if spec.task == "people" else spec.input_size
    batch = np.random.default_rng(0).integers(0, 255, (count, *size, 3), np.uint8)
    # Runtimes keep the module in a memory layout of their own, so the plain way gets a copy.
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def run_plain() -> None:
        with torch.no_grad():
            plain(input_tensor(spec, torch.from_numpy(batch)))

    ways: dict[str, Callable[[], object]] = {PLAIN: run_plain}
    with tempfile.TemporaryDirectory() as folder:
        for way, runtime in runtimes(network, Path(folder) / "network.onnx").items():
            ways[way] = partial(runtime.run, batch)
        # Measured between the others, so that all meet the same neighbours.
        products = {torch.float32: "float32"}
        if any(way.endswith(" fast") for way in ways):
            products[torch.bfloat16] = "bfloat16"
        for kind, name in products.items():
            matrix = torch.rand(MATRIX, MATRIX).to(kind)
            ways[name] = partial(torch.mm, matrix, matrix)
        best = race(ways, time.process_time)
    share = profile(network, size).multiply_adds / MATRIX**3
    floors = {kind: best.pop(name) * share for kind, name in products.items()}
    return {way: ms / count for way, ms in best.items()}, floors


def runtimes(network: Network, file: Path) -> dict[str, Runtime]:
    """Every runtime that is installed, ready to run the network."""
    made: dict[str, Runtime] = {
        "torch, NHWC": TorchRuntime(copy.deepcopy(network), network.spec, fold=False),
        "torch, NHWC, folded": TorchRuntime(copy.deepcopy(network), network.spec),
    }
    with contextlib.suppress(RuntimeMissing, ExportError):
        export_onnx(network, file)
        made["ONNX Runtime"] = OnnxRuntime(file)
    with contextlib.suppress(RuntimeMissing, CheckpointError):
        for precision in get_args(Precision):
            openvino = OpenVinoRuntime(file, precision=precision)
            made[openvino.words.replace("openvino", "OpenVINO")] = openvino
    return made


def parts(report: Report) -> None:
    """Codec and crop, each against the plain way."""
    report.part(f"parts, best of {ROUNDS}", "the plain way", "calls")
    decoding(report)
    cropping(report)


def decoding(report: Report) -> None:
    """DARK on windows of the peaks for all people at once, against one map after another."""
    codec = HeatmapCodec((256, 192), (64, 48))
    rng = np.random.default_rng(0)
    maps, _ = codec.encode(rng.uniform(20, 150, (32, 17, 2)), np.ones((32, 17)))

    def plain() -> None:
        for person in maps:
            for k in range(17):
                codec.decode(person[None, k : k + 1])

    add(report, "decode 32 people, DARK", "map by map", plain, lambda: codec.decode(maps))


def cropping(report: Report) -> None:
    """A person's crop from a large photograph: averaged first, against plain bilinear."""
    photo = decode_image((ROOT / "docs" / "street.jpg").read_bytes())
    large = np.repeat(np.repeat(photo, 6, axis=0), 6, axis=1)
    crop = Crop.around((2000.0, 1000.0, 420.0, 1200.0), (256, 192))
    add(
        report, "crop of a 10 megapixel photo", "bilinear (aliased)",
        lambda: warp(large, crop, antialias=False), lambda: warp(large, crop),
    )  # fmt: skip


def add(
    report: Report,
    what: str,
    against: str,
    plain: Callable[[], object],
    ours: Callable[[], object],
) -> None:
    """Two rows: the plain way and ours."""
    best = race({"plain": plain, "ours": ours})
    for by, ms in ((against, best["plain"]), ("hrpose", best["ours"])):
        report.add(what, by, ratio=best["plain"] / ms, a_second=1000 / ms)
