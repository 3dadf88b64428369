"""Parts of a network that are not trained: they stay as they began, their norms' means too."""

from collections.abc import Sequence

from torch import nn

from training.errors import RecipeError


def freeze(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Takes parts out of training; returns them, to be kept in `eval()` whenever it trains.

    names: of parts as the network's own paths have them: `backbone`, `backbone.layer1`.
    Raises RecipeError for a part that it has not, or where nothing would be left to train.
    """
    parts = [_part(network, name) for name in names]
    for part in parts:
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise RecipeError("optimisation.frozen leaves nothing to train")
    return parts


def _part(network: nn.Module, path: str) -> nn.Module:
    part = network
    for name in path.split("."):
        inside = dict(part.named_children())
        if name not in inside:
            raise RecipeError(
                f"optimisation.frozen: there is no {path}; where {name!r} stands it has "
                f"{', '.join(inside) or 'nothing'}"
            )
        part = inside[name]
    return part
