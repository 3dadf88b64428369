"""What a run says while it goes: a line of the terminal, log.jsonl, TensorBoard, pictures."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from heads.image import Image, encode_image
from models.extras import install
from training.errors import RecipeError, StateError
from training.state import Progress


class Log:
    """The log of one run, in its folder.

    tensorboard: also writes events for TensorBoard, in the folder `tensorboard`.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._folder = folder
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise RecipeError(
                    "watch.tensorboard needs the package tensorboard; run in hrpose's folder: "
                    + install("train")
                ) from error
            self._events = SummaryWriter(folder / "tensorboard")

    def write(self, progress: Progress, **values: float | str) -> None:
        """A line of log.jsonl; numbers also for TensorBoard, over the samples seen. StateError."""
        line = asdict(progress) | {"time": round(time.time(), 1)} | values
        with _writing(path := self._folder / "log.jsonl"), path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # a crash tore the last line
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
        if self._events is not None:
            for name, value in values.items():
                if not isinstance(value, str):
                    self._events.add_scalar(name, value, progress.crops)
            self._events.flush()

    def picture(self, progress: Progress, image: Image) -> None:
        """A JPEG in `pictures`, of the epoch that was just done. StateError."""
        path = self._folder / "pictures" / f"epoch_{progress.epoch:03}.jpg"
        with _writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_image(image, "jpeg"))
        if self._events is not None:
            self._events.add_image("validation", image, progress.crops, dataformats="HWC")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}") from error


def bar(progress: Progress, epochs: int, steps: int, shown: bool) -> ProgressBar:
    """An epoch as a line of the terminal; nothing where there is none."""
    line = ProgressBar(
        TextColumn("epoch {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.5f}  {task.fields[crops_per_s]:.0f} crops/s"),
        TimeRemainingColumn(),
        disable=not (shown and sys.stdout.isatty()),
    )
    name = f"{progress.epoch + 1}/{epochs}"
    line.add_task(name, total=steps, completed=progress.step, loss=math.nan, crops_per_s=0.0)
    return line
