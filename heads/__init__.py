"""What turns feature maps into answers: heads, codecs, geometry and network files.

The names below are imported on first use, because `heads.skeleton`, `geometry`, `image`, `codec`
and `spec` must stay importable without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.checkpoint import load_checkpoint, read_spec, save_checkpoint
    from heads.network import Network, build
    from heads.skeleton import COCO_17, Skeleton
    from heads.spec import NetworkSpec

__all__ = [
    "COCO_17",
    "Network",
    "NetworkSpec",
    "Skeleton",
    "build",
    "load_checkpoint",
    "read_spec",
    "save_checkpoint",
]

_HOME = {
    "COCO_17": "heads.skeleton",
    "Network": "heads.network",
    "NetworkSpec": "heads.spec",
    "Skeleton": "heads.skeleton",
    "build": "heads.network",
    "load_checkpoint": "heads.checkpoint",
    "read_spec": "heads.checkpoint",
    "save_checkpoint": "heads.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.extras import explained

    with explained():
        return getattr(importlib.import_module(_HOME[name]), name)
