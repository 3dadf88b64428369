"""`make bench`, training: our loop against the plain way, and the data beside the network.

The plain way is the shape of the official HRNet repository's loop, written anew: one target after
another in Python, planes of float32 (NCHW), no reduced precision, a loss for each keypoint in turn,
Adam as it comes. Both see the same crops of the photographs in docs/ and update all weights.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader

from heads.geometry import Crop
from heads.image import read_image
from heads.network import build
from heads.skeleton import COCO_17
from heads.spec import NetworkSpec, default_spec
from models.memory import keep_freed
from models.profile import profile
from tests.bench_networks import MATRIX
from tests.conftest import ROOT
from tests.report import Report
from training.augment import Augmentation
from training.data import EpochSampler, PoseDataset, Sample
from training.loop import _backward, _step
from training.pose import PoseTask
from training.precision import arithmetic
from training.recipe import Optimisation
from training.schedule import make_optimizer

PHOTOS = ("street", "keeper", "skateboard", "mirror")
NETWORKS = (("hrnet_w18_small+simple", 16, 6), ("hrnet_w32+simple", 4, 3))
"""Each with its batch, and the batches of a round."""

ROUNDS = 3
PEOPLE = 64
PRODUCTS = 20
"""Of matrices one after another: a single one is over too soon to be timed beside a loop."""


def people() -> list[Sample]:
    """Boxes and keypoints anywhere in real photographs: what they show does not matter here."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(PEOPLE):
        path = ROOT / "docs" / f"{PHOTOS[i % len(PHOTOS)]}.jpg"
        height, width = read_image(path).shape[:2]
        size = rng.uniform(0.3, 0.8) * height
        left, top = rng.uniform(0, width - 0.5 * size), rng.uniform(0, height - size)
        box = (float(left), float(top), float(0.5 * size), float(size))
        points = rng.uniform((left, top), (left + 0.5 * size, top + size), (17, 2))
        weights = np.ones(17, np.float32)
        samples.append(Sample(path, (height, width), box, points.astype(np.float32), weights, ""))
    return samples


class PlainDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A crop, then one keypoint's target after another."""

    def __init__(self, samples: list[Sample], spec: NetworkSpec) -> None:
        self._samples = samples
        self._spec = spec

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised float32 [3, H, W], heatmaps [K, h, w], weights [K]."""
        sample, spec = self._samples[index], self._spec
        crop = Crop.around(sample.box_xywh, spec.input_size)
        height, width = spec.input_size
        view = cv2.warpAffine(read_image(sample.path), crop.matrix, (width, height))
        image = torch.from_numpy(view.transpose(2, 0, 1).copy()).float() / 255
        mean, std = (
            torch.tensor(v)[:, None, None]
            for v in (spec.normalisation.mean, spec.normalisation.std)
        )
        rows, columns = spec.heatmap_size
        targets = np.zeros((17, rows, columns), np.float32)
        for k, (x, y) in enumerate(crop.to_input(sample.keypoints) / 4):
            for row in range(max(0, int(y) - 6), min(rows, int(y) + 7)):
                for column in range(max(0, int(x) - 6), min(columns, int(x) + 7)):
                    squared = (column - x) ** 2 + (row - y) ** 2
                    targets[k, row, column] = np.exp(-squared / (2 * spec.codec.sigma**2))
        return (image - mean) / std, torch.from_numpy(targets), torch.from_numpy(sample.weights)


def plain_loop(spec: NetworkSpec, samples: list[Sample], batch: int) -> Callable[[int], None]:
    """A function that does so many steps."""
    network = build(spec).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = cycle(DataLoader(PlainDataset(samples, spec), batch, shuffle=True))
    criterion = nn.MSELoss()

    def steps(count: int) -> None:
        for images, targets, weights in islice(loader, count):
            predicted = network(images)
            losses = [
                criterion(
                    predicted[:, k] * weights[:, k, None, None],
                    targets[:, k] * weights[:, k, None, None],
                )
                for k in range(17)
            ]
            loss = 0.5 * sum(losses) / 17
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def our_loop(spec: NetworkSpec, samples: list[Sample], batch: int) -> Callable[[int], None]:
    """The same by the parts of `training.loop`."""
    how = Optimisation(epochs=1, batch=batch)
    network = build(spec).to(memory_format=torch.channels_last).train()
    optimizer, scaler = make_optimizer(network, how), GradScaler("cpu", enabled=False)
    task: Any = object.__new__(PoseTask)  # its loss alone, without files
    task.spec, task._how, task._teaching, task._teacher = spec, how, None, None
    loader = cycle(our_data(spec, samples, batch))

    def steps(count: int) -> None:
        for images, *targets in islice(loader, count):
            loss = _backward(network, task, images, targets, scaler, how, torch.device("cpu"))
            _step(network, optimizer, scaler, how, loss)

    return steps


def our_data(spec: NetworkSpec, samples: list[Sample], batch: int) -> DataLoader[Any]:
    """The loader of a run, without augmentation that the plain way does not have."""
    still = {
        "scale": 0.0,
        "rotation_deg": 0.0,
        "shift": 0.0,
        "flip": 0.0,
        "half_body": 0.0,
        "colour": 0.0,
    }
    views = Augmentation(COCO_17, spec.input_size, spec.alignment, **still)
    dataset = PoseDataset(samples, spec.heatmap_codec(), views)
    return DataLoader(dataset, batch, sampler=EpochSampler(np.ones(PEOPLE, np.float32), 0, 0))


def best_seconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Of each call, the best of interleaved rounds."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for side, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[side] = min(best[side], time.perf_counter() - start)
    return best


@contextmanager
def apart(work: Callable[[str, int, Connection], None], name: str, batch: int) -> Iterator[Any]:
    """Does it in a process of its own; gives a function that takes a number of steps and waits."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=work, args=(name, batch, there))
    process.start()
    there.close()

    def steps(count: int) -> None:
        here.send(count)
        here.recv()

    try:
        steps(1)  # kernels are chosen in the first step
        yield steps
    finally:
        here.close()  # ends it
        process.join()


def plainly(name: str, batch: int, orders: Connection) -> None:
    """Steps of the plain loop, as many as are asked for."""
    _obey(plain_loop(default_spec(name), people(), batch), orders)


def as_here(name: str, batch: int, orders: Connection) -> None:
    """Steps of our loop, started as `hrpose train` starts it."""
    keep_freed()
    _obey(our_loop(default_spec(name), people(), batch), orders)


def _obey(loop: Callable[[int], None], orders: Connection) -> None:
    while True:
        try:
            loop(orders.recv())
            orders.send(None)
        except EOFError:
            return


def products(kind: torch.dtype) -> Callable[[], object]:
    """A function that multiplies square matrices."""
    matrix = torch.rand(MATRIX, MATRIX).to(kind)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)

    return multiply


def training(report: Report) -> None:
    """Each network by both loops, and the data without a network.

    Of the rate of products: what share of a loop's time its multiply-adds take as products of
    matrices, forth, for the gradient of the maps and for that of the weights.
    """
    report.part(f"training, 256x192, best of {ROUNDS}", "the plain loop", "images")
    ours_in = arithmetic(Optimisation(epochs=1, batch=1).precision, torch.device("cpu"))
    for name, batch, count in NETWORKS:
        spec = default_spec(name)
        data = our_data(spec, people(), batch)
        with apart(plainly, name, batch) as plain, apart(as_here, name, batch) as ours:
            ways: list[Callable[[], object]] = [
                partial(plain, count),
                partial(ours, count),
                partial(list, data),
                products(torch.float32),
                products(ours_in),
            ]
            times = best_seconds(ways)
        slow, fast, alone = batch * count / times[0], batch * count / times[1], PEOPLE / times[2]
        size = 3 * profile(build(spec), spec.input_size).multiply_adds / MATRIX**3 / PRODUCTS
        shares = [
            f"{rate * size * t:.0%} of the rate of products"
            for rate, t in zip((slow, fast), times[3:], strict=True)
        ]
        report.add(name, "plain loop", ratio=1, a_second=slow, beside=shares[0])
        report.add(name, "hrpose", ratio=fast / slow, a_second=fast, beside=shares[1])
        over = f"{alone / fast:.1f}x the loop"
        report.add(name, "hrpose, data alone", ratio=alone / slow, a_second=alone, beside=over)
