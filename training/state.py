"""The state of a run on disk: written whole or not at all, the last few kept, read strictly."""

import json
import os
import pickle  # nosec B403 # only its error is named; torch loads with weights_only
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from heads.spec import NetworkSpec
from training.errors import StateError
from training.recipe import Recipe

FREE = {
    "network": ("init", "init_without"),
    "data": ("root", "description"),
    "optimisation": (
        "epochs", "learning_rate", "clip_norm", "device", "workers", "threads", "save_every_s",
        "compile",
    ),
}  # fmt: skip
"""What may change between a run's parts: how long, how fast and where it goes on."""

UNREADABLE = (
    OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError,
    OverflowError, struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip
"""What reading a damaged state may raise."""


@dataclass
class Progress:
    """Where a run is: epochs done, batches done in this one, samples seen, the best score so far.

    crops: samples of this process and of all others.
    """

    epoch: int = 0
    step: int = 0
    crops: int = 0
    best_score: float = -1.0


class StateFile:
    """`state.pt` in a run's folder, and before it `state.1.pt`, `state.2.pt` ..., older and older.

    keep: so many files in all.  processes: of the run, which a resume must have as many of.
    learned: what the answers mean, see `learned`; a resume must find the same.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        keep: int,
        processes: int = 1,
        learned: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> None:
        self._paths = [folder / ("state.pt" if i == 0 else f"state.{i}.pt") for i in range(keep)]
        self._identity = identity(recipe)
        self._learned = json.loads(json.dumps(dict(learned)))
        self._processes = processes

    @property
    def newest(self) -> Path | None:
        """The file that a resume goes back to; None: the run begins."""
        return next((path for path in self._paths if path.is_file()), None)

    def save(self, state: dict[str, Any], progress: Progress, *, instead: bool = False) -> None:
        """Writes all that a resume needs; a crash or a full disk leaves the files before.

        instead: in place of the newest file, which does not become an older one.
        """
        content = {name: part.state_dict() for name, part in state.items()}
        content["progress"] = asdict(progress)
        content["rng"] = torch.get_rng_state()
        content["recipe"] = json.dumps(self._identity)
        content["learned"] = json.dumps(self._learned)
        content["processes"] = self._processes
        temporary = self._paths[0].with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            for older, newer in zip(self._paths[:0:-1], self._paths[-2::-1], strict=True):
                if newer.is_file() and not instead:
                    os.replace(newer, older)
            os.replace(temporary, self._paths[0])
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise StateError(f"{self._paths[0].name} cannot be written: {error}") from error

    def resume(self, state: dict[str, Any], progress: Progress) -> None:
        """Goes back to the newest file, if there is one; a damaged or foreign one is an error."""
        path = self.newest
        if path is None:
            return
        try:
            content = _read(path)
            before, processes = _fixed(json.loads(content["recipe"])), content.get("processes")
            learned = json.loads(content.get("learned", "{}"))  # earlier versions say nothing
        except UNREADABLE as error:
            raise self._unreadable(path) from error
        if before != self._identity:
            raise StateError(
                f"{path} is of another recipe, which differs in "
                f"{_listed(_differing(before, self._identity))}; give this one another name, or "
                "delete the folder"
            )
        for what, values in learned.items():
            if values != self._learned.get(what, values):
                raise StateError(
                    f"{path} is of the {what} {_listed(values)}; the data now has "
                    f"{_listed(self._learned[what])}: give the recipe another name"
                )
        if processes not in (None, self._processes):
            raise StateError(
                f"{path} is of a run of {processes} processes, this one has {self._processes}: "
                "samples and learning rates would not go on where they were; start as many again"
            )
        try:
            for name, part in state.items():
                part.load_state_dict(content[name])
            for name, value in content["progress"].items():
                setattr(progress, name, value)
            torch.set_rng_state(content["rng"])
        except UNREADABLE as error:
            raise self._unreadable(path) from error

    def _unreadable(self, path: Path) -> StateError:
        older = any(other.is_file() for other in self._paths if other != path)
        then = "go on from the state before" if older else "start again from the beginning"
        return StateError(f"{path} cannot be read; delete it to {then}")


def _read(path: Path) -> dict[str, Any]:
    """A state file's content; torch itself does not look at the checksums of its tensors."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise zipfile.BadZipFile(f"{damaged} is not what was written")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def learned(spec: NetworkSpec) -> dict[str, Sequence[Any]]:
    """What a network's answers mean, which is the data's and not the recipe's."""
    skeleton = spec.skeleton
    return {
        "keypoints": skeleton.keypoints,
        "flip pairs": skeleton.flip_pairs,
        "classes": spec.classes,
    }


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys of two recipes that do not say the same, as `table.key`."""
    found = []
    for table in sorted(before.keys() | now.keys()):
        old, new = before.get(table, {}), now.get(table, {})
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(old.keys() | new.keys())
            found += [f"{table}.{key}" for key in keys if old.get(key) != new.get(key)]
        elif old != new:
            found.append(table)
    return found


def _listed(values: Sequence[Any], most: int = 20) -> str:
    return ", ".join(map(str, values[:most])) + ", ..." * (len(values) > most)


def identity(recipe: Recipe) -> dict[str, Any]:
    """What must not change between a run's parts.

    A key that a later version adds is not in the way, as long as it has its default.
    """
    return _fixed(recipe.model_dump(mode="json", exclude={"watch"}, exclude_defaults=True))


def _fixed(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without what is free; of the state of an earlier version too, where less was."""
    return {
        table: {key: value for key, value in keys.items() if key not in FREE[table]}
        if table in FREE
        else keys
        for table, keys in recipe.items()
    }
