"""`make bench`: how fast the parts are, each against the plain way, in one run on one machine.

Times are the best of interleaved rounds, so that a busy neighbour disturbs both sides alike; only
the ratios mean something on another machine.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hrpose
from heads.codec import HeatmapCodec
from heads.geometry import Crop
from heads.image import decode_image, warp
from heads.network import input_tensor
from service.inference.runtime import TorchRuntime
from tests.conftest import ROOT

ROUNDS = 12
NETWORKS = ("movenet_thunder", "hrnet_w18_small")


def race(plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Best milliseconds of the plain way and of ours."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for side, call in enumerate((plain, ours)):
            start = time.perf_counter()
            call()
            best[side] = min(best[side], (time.perf_counter() - start) * 1000)
    return best[0], best[1]


def networks(table: Table) -> None:
    """One crop and eight through the runtime, against the module called the plain way."""
    for name in NETWORKS:
        for count in (1, 8):
            add(table, f"{name}, {count} crops", "torch eager, NCHW", *network_times(name, count))


def network_times(name: str, count: int) -> tuple[float, float]:
    """Best milliseconds of a batch of `count` crops, plain and by the runtime."""
    # The runtime keeps its module in its own memory layout, so the plain way gets another.
    plain_network, estimator = hrpose.load(name).network, hrpose.load(name)
    spec = estimator.spec
    plain_network.to(memory_format=torch.contiguous_format)
    runtime = TorchRuntime(estimator.network, spec)
    batch = np.random.default_rng(0).integers(0, 255, (count, *spec.input_size, 3), np.uint8)

    def plain() -> None:
        with torch.no_grad():
            plain_network(input_tensor(spec, torch.from_numpy(batch)))

    return race(plain, lambda: runtime.run(batch))


def decoding(table: Table) -> None:
    """DARK on windows of the peaks for all people at once, against one map after another."""
    codec = HeatmapCodec((256, 192), (64, 48))
    rng = np.random.default_rng(0)
    maps, _ = codec.encode(rng.uniform(20, 150, (32, 17, 2)), np.ones((32, 17)))

    def plain() -> None:
        for person in maps:
            for k in range(17):
                codec.decode(person[None, k : k + 1])

    add(table, "decode 32 people, DARK", "map by map", *race(plain, lambda: codec.decode(maps)))


def cropping(table: Table) -> None:
    """A person's crop from a large photograph: averaged first, against plain bilinear."""
    photo = decode_image((ROOT / "docs" / "street.jpg").read_bytes())
    large = np.repeat(np.repeat(photo, 6, axis=0), 6, axis=1)
    crop = Crop.around((2000.0, 1000.0, 420.0, 1200.0), (256, 192))
    times = race(lambda: warp(large, crop, antialias=False), lambda: warp(large, crop))
    add(table, "crop of a 10 megapixel photo", "bilinear (aliased)", *times)


def add(table: Table, what: str, against: str, plain_ms: float, ours_ms: float) -> None:
    """One row: what, against what, the ratio, and both times."""
    ratio = f"{plain_ms / ours_ms:.2f}x"
    table.add_row(what, against, ratio, f"{plain_ms:.2f}", f"{ours_ms:.2f}")


def main() -> None:
    """Prints the table."""
    table = Table("what", "against", "faster by", "plain ms", "ours ms", box=None)
    networks(table)
    decoding(table)
    cropping(table)
    console = Console(width=110)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    console.print(table)


if __name__ == "__main__":
    main()
