"""Fixtures that every part of the tests uses: the reference material, and photographs."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: public networks in the user's would change what is the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRPOSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material, which a user's clone does not have."""
    if not SHARED.is_dir():
        pytest.skip("the reference material (../shared) is not here")
    return SHARED


@pytest.fixture(scope="session")
def fill(shared: Path) -> ModuleType:
    """The module that makes reference weights, inputs and heatmaps by formula."""
    path = shared / "checkpoints" / "fill.py"
    spec = importlib.util.spec_from_file_location("reference_fill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def legacy(shared: Path) -> Any:
    """Numbers of the official pre- and post-processing."""
    return json.loads((shared / "checkpoints" / "legacy.json").read_text())


@pytest.fixture(scope="session")
def street() -> npt.NDArray[np.uint8]:
    """Three people on a street, RGB uint8 [428, 640, 3]."""
    from heads.image import read_image

    return read_image(ROOT / "docs" / "street.jpg")
