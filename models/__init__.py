"""Backbones: images in, feature maps out. Knows nothing of heads, data or HTTP.

The names below are loaded on first use, so that `import models.errors` needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.backbone import Backbone, FeatureSpec, create_backbone, list_backbones

__all__ = ["Backbone", "FeatureSpec", "create_backbone", "list_backbones"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.extras import explained

    with explained():
        from models import backbone
    return getattr(backbone, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
