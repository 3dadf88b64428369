"""Smaller files of the same networks: low rank, pruning, clustering, 8 bits; without training.

The steps of the SqueezeNet paper (arXiv:1602.07360, section 4 and table 2) as they come from Deep
Compression (arXiv:1510.00149). Each takes a network's weights of two or more axes and packs them
(`heads.packing`); norms and biases stay. The network keeps its shape, so it runs at the same speed;
what it loses in accuracy must be measured, and is what `hrpose compress` prints.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from heads.checkpoint import save_arrays
from heads.network import Network
from heads.packing import (
    Array,
    FloatArray,
    as_half,
    pack_clusters,
    pack_int8,
    pack_low_rank,
    pack_sparse,
)
from models.errors import SpecError

Pack = Callable[[Tensor], dict[str, Array] | None]
"""A weight -> its parts; None where packing would not make it smaller."""


def low_rank(rank: int) -> Pack:
    """The best approximation of that rank of each weight seen as [out, in * kernel] (SVD)."""
    if rank < 1:
        raise SpecError(f"a rank is at least 1; got {rank}")

    def pack(weight: Tensor) -> dict[str, Array] | None:
        matrix = weight.flatten(1)
        out, width = matrix.shape
        # float16 against what is stored otherwise, float16 as well.
        if rank * (out + width) >= out * width:
            return None
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        root = s[:rank].sqrt()
        left, right = u[:, :rank] * root, root[:, None] * v[:rank]
        return pack_low_rank(left.numpy(), right.numpy(), tuple(weight.shape))

    return pack


def clusters(count: int) -> Pack:
    """Each weight's entries moved to the nearest of `count` values (k-means in one dimension).

    A weight of so few entries that the values take more than they save is left as it is.
    """
    if not 2 <= count <= 256:
        raise SpecError(f"clusters number 2 to 256; got {count}")

    def pack(weight: Tensor) -> dict[str, Array] | None:
        entries = weight.numpy().astype(np.float32)
        values = np.unique(entries)
        if len(values) > count:  # else it is clustered already
            values = _k_means(entries.ravel(), count)
        codes = _nearest(entries.ravel(), values).reshape(entries.shape)
        return _if_smaller(pack_clusters(codes.astype(np.uint8), values), weight)

    return pack


def eight_bits(weight: Tensor) -> dict[str, Array]:
    """Symmetric 8-bit codes, one scale an output channel."""
    scale = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    by_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    codes = (weight / by_channel).round().clamp(-127, 127).to(torch.int8)
    return pack_int8(codes.numpy(), scale.numpy())


def sparse(weight: Tensor) -> dict[str, Array] | None:
    """The entries that pruning left; None where it left too many for a mask to pay."""
    return _if_smaller(pack_sparse(weight.numpy()), weight)


def _if_smaller(parts: dict[str, Array], weight: Tensor) -> dict[str, Array] | None:
    """The parts, where they take less than the weight as float16."""
    return parts if sum(part.nbytes for part in parts.values()) < 2 * weight.numel() else None


def prune_smallest(network: nn.Module, share: float) -> None:
    """Sets the smallest weights of each layer to 0, that share of them, in place.

    Not of the whole network: where norms are folded into convolutions, layers differ in scale.
    """
    if not 0 < share < 1:
        raise SpecError(f"a share to prune lies between 0 and 1; got {share}")
    for layer in _layers(network):
        assert isinstance(layer.weight, Tensor)
        layer.weight.data = layer.weight.data.contiguous()  # torch's pruning takes no other
        prune.l1_unstructured(layer, "weight", amount=share)
        prune.remove(layer, "weight")


def save_packed(path: Path, network: Network, pack: Pack) -> None:
    """Writes a checkpoint with every weight of two or more axes packed, the rest as float16.

    It is called `<name>_packed`, and scores that the network was published with are not its own.
    """
    stored: dict[str, Array] = {}
    for name, tensor in network.state_dict().items():
        parts = pack(tensor.detach()) if tensor.ndim >= 2 else None
        if parts is None:
            stored[name] = as_half(tensor.numpy())
        else:
            stored |= {f"{name}|{part}": array for part, array in parts.items()}
    spec = network.spec
    provenance = spec.provenance.model_copy(update={"scores": {}})
    packed = {"name": f"{spec.name}_packed", "provenance": provenance}
    save_arrays(path, spec.model_copy(update=packed), stored)


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return (layer for layer in network.modules() if isinstance(layer, kinds))


def _k_means(entries: FloatArray, count: int, rounds: int = 30) -> FloatArray:
    """Lloyd's algorithm, on one tensor's entries.

    Half of the values start evenly spaced, so that the few large weights have theirs, half where
    weights are dense.
    """
    spread = np.linspace(entries.min(), entries.max(), count - count // 2)
    dense = np.quantile(entries, (np.arange(count // 2) + 0.5) / (count // 2))
    values = np.sort(np.concatenate([spread, dense])).astype(np.float32)
    for _ in range(rounds):
        nearest = _nearest(entries, values)
        sums = np.bincount(nearest, entries, count)
        members = np.bincount(nearest, minlength=count)
        values = np.where(members > 0, sums / np.maximum(members, 1), values).astype(np.float32)
        values.sort()
    return values


def _nearest(entries: FloatArray, values: FloatArray) -> np.ndarray:
    """Index of the nearest of sorted values for each entry."""
    return np.searchsorted((values[1:] + values[:-1]) / 2, entries)
