"""The state of a run on disk: written whole or not at all, the last few kept, read strictly."""

import os
import pickle  # nosec B403 # only its error is named; torch loads with weights_only
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.errors import StateError
from training.recipe import Recipe


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

    keep: so many files in all.
    """

    def __init__(self, folder: Path, recipe: Recipe, keep: int) -> None:
        self._paths = [folder / ("state.pt" if i == 0 else f"state.{i}.pt") for i in range(keep)]
        self._identity = identity(recipe)

    @property
    def newest(self) -> Path | None:
        """The file that a resume goes back to; None: the run begins."""
        return next((path for path in self._paths if path.is_file()), None)

    def save(self, state: dict[str, Any], progress: Progress) -> None:
        """Writes all that a resume needs; a crash or a full disk leaves the files before."""
        content = {name: part.state_dict() for name, part in state.items()}
        content["progress"] = asdict(progress)
        content["rng"] = torch.get_rng_state()
        content["recipe"] = self._identity
        temporary = self._paths[0].with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            for older, newer in zip(self._paths[:0:-1], self._paths[-2::-1], strict=True):
                if newer.is_file():
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
            content = torch.load(path, map_location="cpu", weights_only=True)
            before = content["recipe"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as e:
            older = any(other.is_file() for other in self._paths if other != path)
            then = "go on from the state before" if older else "start again from the beginning"
            raise StateError(f"{path} cannot be read; delete it to {then}") from e
        if before != self._identity:
            raise StateError(
                f"{path} is of another recipe; give this one another name, or delete the folder"
            )
        for name, part in state.items():
            part.load_state_dict(content[name])
        for name, value in content["progress"].items():
            setattr(progress, name, value)
        torch.set_rng_state(content["rng"])


def identity(recipe: Recipe) -> str:
    """What must not change between a run's parts; how long and where it runs may.

    A key that a later version adds is not in the way, as long as it has its default.
    """
    free: Any = {
        "network": {"init", "init_without"},
        "data": {"root"},
        "optimisation": {"epochs", "device", "workers", "threads", "save_every_s", "compile"},
        "watch": True,
    }
    return recipe.model_dump_json(exclude=free, exclude_defaults=True)
