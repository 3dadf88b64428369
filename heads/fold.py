"""Batch norms folded into the convolutions before them: the same answers with less work."""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_eval

from heads.classify import ClassificationHead
from heads.network import Maps, Network
from models.blocks import MixConv2d

PROBE_SIZE = (64, 96)

TOLERANCE = 1e-4
"""Of the largest value: what rounding may change; another graph would change everything."""


def folded(network: Network) -> nn.Module:
    """A copy of a network in evaluation mode with its batch norms folded, for inference only.

    The network itself where no graph can be taken of it because its code branches on what it reads
    (Res2Net). A norm that does not follow a convolution stays (ResNetV2).
    """
    whole = network.spec.task in ("people", "segment")
    probe = torch.rand(1, 3, *(PROBE_SIZE if whole else network.spec.input_size))
    try:
        unchecked = _Unchecked(network).eval()
        graph = _fused(fx.GraphModule(unchecked, _Tracer().trace(unchecked)))
        with torch.inference_mode():
            same = _same(network(probe), graph(probe))
    except (TraceError, TypeError, ValueError, IndexError, RuntimeError):
        return network  # tracing runs the network's code on what is no tensor: it may fail anyhow
    return graph if same else network


def without_mixed_norms(network: Network) -> Network:
    """A copy in evaluation mode whose norms after mixed maps are folded.

    torch's exporter folds those that follow a plain convolution by itself.
    """
    changed = copy.deepcopy(network).eval()
    for module in changed.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        mix, norm = module[0], module[1]
        if isinstance(mix, MixConv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0], module[1] = fuse_conv_bn_eval(mix, norm), nn.Identity()
    return changed


class _Unchecked(nn.Module):
    """A network without its checks of the input's shape, which a symbolic input cannot pass."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone = copy.copy(network.backbone)  # shares all tensors; only the check differs
        self.backbone.__dict__["check_input"] = lambda x: None  # noqa: ARG005
        self.form = network.form
        self.neck = network.neck
        self.head = network.head

    def forward(self, x: Tensor) -> Maps:
        maps = self.backbone(x)
        if self.form is not None:
            maps = self.form(maps)
        answer: Maps = self.head(maps if self.neck is None else self.neck(maps))
        return answer


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # One asks what kind of thing it was given, and a symbol is of none; the other is folded
        # into as a whole.
        return isinstance(m, ClassificationHead | MixConv2d) or super().is_leaf_module(
            m, module_qualified_name
        )


def _fused(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without the norms that follow a convolution which nothing else reads."""
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(str(before.target)) if before.op == "call_module" else None
        alone = len(before.users) == 1 and calls[before.target] == calls[node.target] == 1
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and alone:
            transposed = isinstance(conv, nn.ConvTranspose2d)
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm, transposed))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _same(a: Maps, b: Maps) -> bool:
    pairs = [(a[k], b[k]) for k in a] if isinstance(a, dict) and isinstance(b, dict) else [(a, b)]
    return all(
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and one.shape == other.shape
        and float((one - other).abs().max()) <= TOLERANCE * float(one.abs().max())
        for one, other in pairs
    )
