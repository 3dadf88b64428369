"""What the tests of models share: the reference material beside the repository, and one thread."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SHARED = Path(__file__).parents[2].parent / "shared"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and busy cores lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints_folder() -> Path:
    return _present(SHARED / "checkpoints")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    return _present(SHARED / "weights")


@pytest.fixture(scope="session")
def public_keys(checkpoints_folder: Path) -> dict[str, Any]:
    """Names and shapes of the public files."""
    keys: dict[str, Any] = json.loads((checkpoints_folder / "public_keys.json").read_text())
    return keys


@pytest.fixture(scope="session")
def parity(checkpoints_folder: Path) -> dict[str, Any]:
    """Outputs of the official networks, by case."""
    cases = json.loads((checkpoints_folder / "parity.json").read_text())["cases"]
    return {case["id"]: case for case in cases}


@pytest.fixture(scope="session")
def fill(checkpoints_folder: Path) -> ModuleType:
    """The module that makes weights and inputs by formula."""
    spec = importlib.util.spec_from_file_location("fill", checkpoints_folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"reference material not here: {folder.parent.name}/{folder.name}")
    return folder
