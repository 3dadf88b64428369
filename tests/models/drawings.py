"""Drawings of the families' blocks for docs/architectures.md, made from the modules themselves.

    python -m tests.models.drawings docs/blocks        # `make docs`

A block runs once on tensors without numbers while every layer and every operation between layers is
noted: that is the graph. Convolutions become boxes that take in the norm and the activation behind
them; sums, products, splits and their like become small round nodes. Nodes stand in rows by their
distance from the input, in columns by chains of which each feeds the next; an edge over several
rows has a column of its own, so it never runs through a box.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import shufflenet, shufflenet_v1
from models.backbone import FAMILIES
from models.blocks import BasicBlock, Bottleneck, InvertedResidual
from models.efficientnet import STAGES, MBConv
from models.hrnet import HighResolutionModule
from models.inception import BN_INCEPTION, GOOGLENET, inception, normalised_inception
from models.inception_resnet_v2 import residual_a
from models.inception_v3 import module_6
from models.inception_v4 import inception_c
from models.mobilenet_v1 import DepthwiseSeparable
from models.mobilenet_v3 import LARGE, GatedResidual
from models.res2net import ScaledBottleneck
from models.resnest import SplitAttentionBottleneck
from models.resnetv2 import PreActivationBlock
from models.senet import GatedBottleneck
from models.squeezenet import Fire

FONT, CHARACTER, LINE = 12, 7.2, 16  # px: size of the letters, width that none of them exceeds
MARGIN, BETWEEN, ROUND = 16, 22, 24  # px: around all, between columns, height of round nodes
SHAPE = "#5a6472"
VIEWS = ("view", "reshape", "unflatten", "flatten", "unsqueeze", "__getitem__")
OPERATIONS = {
    "add": "+",
    "mul": "×",  # noqa: RUF001
    "cat": "concat",
    "chunk": "split",
    "split": "split",
    "transpose": "shuffle",
    "sum": "sum over the splits",
    "softmax": "softmax over the splits",
    "mean": "mean over the map",
    "sigmoid": "sigmoid",
    "relu": "ReLU",
}


@dataclass
class Node:
    """A box, or a round node.

    behind: the norm and the activation in a box.  takes: it has room for them.  follows: it is one.
    shape: of its output.  inputs: nodes.  layer: its name in the block.
    """

    label: list[str]
    behind: list[str] = field(default_factory=list)
    box: bool = False
    takes: bool = False
    follows: bool = False
    shape: tuple[int, ...] = ()
    inputs: list[int] = field(default_factory=list)
    layer: str = ""

    @property
    def lines(self) -> list[str]:
        """What stands in it, the shape of its output last."""
        behind = [", ".join(self.behind)] if self.behind else []
        return [*self.label, *behind, *([_times(self.shape)] if self.box else [])]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in px."""
        if self.label in (["+"], ["×"]):  # noqa: RUF001
            return ROUND, ROUND
        width = max(len(line) for line in self.lines) * CHARACTER + 16
        return width, LINE * len(self.lines) + 12 if self.box else ROUND


def _times(sizes: Iterable[int]) -> str:
    return " x ".join(str(size) for size in sizes)


class Recorder(TorchFunctionMode):
    """Notes what runs inside `with`, once a module is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.made: dict[int, tuple[int, Tensor]] = {}  # holds the tensors, so no id comes twice
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if not self.inside:
            name = func.__name__
            plain = name if name in VIEWS else name.strip("_")
            # The channel shuffle is the one that turns [N, groups, C / groups, H, W].
            turned = plain == "transpose" and args[0].ndim != 5
            self.note("" if plain in VIEWS or turned else plain, args, out)
        return out

    def watch(self, module: nn.Module) -> None:
        """Every layer without layers inside is one node."""

        def enter(_layer: nn.Module, _inputs: object) -> None:
            self.inside = True

        def leave(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def note(layer: nn.Module, inputs: Any, out: Any) -> None:
                self.inside = False
                self.note("" if isinstance(layer, nn.Identity) else layer, inputs, out, name)

            return note

        for name, layer in module.named_modules():
            if not list(layer.children()):
                layer.register_forward_pre_hook(enter)
                layer.register_forward_hook(leave(name))

    def note(self, what: str | nn.Module, inputs: Any, out: Any, layer: str = "") -> None:
        """A node for what turned inputs into out; what is empty where it changes nothing."""
        sources = [self.made[id(x)][0] for x in _tensors(inputs) if id(x) in self.made]
        results = _tensors(out)
        if not sources or not results:
            return
        made = sources[0]
        if what:
            made = len(self.nodes)
            node = described(what) if isinstance(what, nn.Module) else operation(what, inputs)
            node.shape, node.inputs, node.layer = tuple(results[0].shape[1:]), sources, layer
            self.nodes.append(node)
        self.made |= {id(x): (made, x) for x in results}


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for part in value for x in _tensors(part)] if isinstance(value, list | tuple) else []


def operation(name: str, inputs: Any) -> Node:
    """A round node for an operation between layers; a number it multiplies by is shown."""
    label = OPERATIONS[name]
    numbers = [str(x) for x in inputs if isinstance(x, float)]
    return Node([" ".join([label, *numbers])], follows=name == "relu")


def described(layer: nn.Module) -> Node:
    """A box for a layer, in its own words."""
    if isinstance(layer, nn.Conv2d):
        details = [f"stride {layer.stride[0]}"] if max(layer.stride) > 1 else []
        if layer.groups > 1:
            depthwise = layer.groups == layer.in_channels
            details.append("depthwise" if depthwise else f"{layer.groups} groups")
        kernel = "x".join(str(side) for side in layer.kernel_size)
        first = f"{kernel} conv, {layer.in_channels} → {layer.out_channels}"
        second = [", ".join(details)] if details else []
        return Node([first, *second], box=True, takes=True)
    if isinstance(layer, nn.BatchNorm2d):
        return Node([], ["batch norm"], box=True, takes=True, follows=True)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        kind = "max" if isinstance(layer, nn.MaxPool2d) else "mean"
        strides = [] if layer.stride == 1 else [f"stride {layer.stride}"]
        pool = f"{layer.kernel_size}x{layer.kernel_size} {kind} pooling"
        return Node([pool, *strides], box=True)
    if isinstance(layer, nn.Upsample):
        return Node([f"upsample {layer.scale_factor:g}x, {layer.mode}"], box=True)
    name = type(layer).__name__.replace("Hards", "h-s")  # MobileNetV3's h-swish and h-sigmoid
    return Node([name], follows=True)


def traced(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> list[Node]:
    """The graph of a block: inputs first, outputs last."""
    recorder = Recorder()
    images = [torch.empty(1, *shape, device="meta") for shape in shapes]
    for image, shape in zip(images, shapes, strict=True):
        recorder.made[id(image)] = (len(recorder.nodes), image)
        recorder.nodes.append(Node([f"input {_times(shape)}"]))
    recorder.watch(module.eval())
    with torch.no_grad(), recorder:
        out = module(images if len(images) > 1 else images[0])
    for x in _tensors(out):
        source, _ = recorder.made[id(x)]
        recorder.nodes.append(Node([f"output {_times(x.shape[1:])}"], inputs=[source]))
    return merged(recorder.nodes)


def merged(nodes: list[Node]) -> list[Node]:
    """Norms and activations inside the box before them, sums of sums as one."""
    into = list(range(len(nodes)))
    uses = [sum(i in node.inputs for node in nodes) for i in range(len(nodes))]
    for i, node in enumerate(nodes):
        node.inputs = [into[source] for source in node.inputs]
        for source in list(node.inputs):
            before = nodes[source]
            if node.follows and before.takes and uses[source] == 1:
                before.behind += [*node.label, *node.behind]
                into[i], uses[source] = source, uses[i]
            elif node.label == before.label == ["+"] and uses[source] == 1:
                at = node.inputs.index(source)
                node.inputs[at : at + 1] = before.inputs
                into[source] = i
    kept = [i for i in range(len(nodes)) if into[i] == i]
    for i in kept:
        nodes[i].inputs = [kept.index(source) for source in nodes[i].inputs]
    return [nodes[i] for i in kept]


@dataclass(eq=False)
class Column:
    """A chain of nodes, or the way of an edge, over the rows from top to bottom."""

    top: int
    bottom: int
    width: float = 8.0
    x: float = 0.0

    def meets(self, other: "Column") -> bool:
        """Whether they have a row in common."""
        return self.top <= other.bottom and other.top <= self.bottom


class Layout:
    """Rows, columns and places of a graph's nodes."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.uses = [[v for v, n in enumerate(nodes) if u in n.inputs] for u in range(len(nodes))]
        self.rows: list[int] = []
        for node in nodes:
            self.rows.append(1 + max((self.rows[u] for u in node.inputs), default=-1))
        last = max(self.rows)
        self.rows = [r if self.uses[u] else last for u, r in enumerate(self.rows)]
        self.column: list[Column] = []
        for v, node in enumerate(nodes):
            before = self._chained(v)
            row = self.rows[v]
            self.column.append(Column(row, row) if before is None else self.column[before])
            self.column[v].bottom = row
            self.column[v].width = max(self.column[v].width, node.size[0])
        self.edges = [(u, v) for v, node in enumerate(nodes) for u in node.inputs]
        self.ways = {(u, v): self._way(u, v) for u, v in self.edges}
        self._place()

    def _chained(self, v: int) -> int | None:
        """The node that v stands below: its one input that leads nowhere else, or almost so."""
        inputs = self.nodes[v].inputs
        if len(inputs) == 1:
            (u,) = inputs
            alike = [w for w in self.uses[u] if len(self.nodes[w].inputs) == 1]
            return u if len(self.uses[u]) <= 2 and alike == [v] else None
        only = [u for u in inputs if len(self.uses[u]) == 1]
        return only[0] if len(inputs) == 2 and len(only) == 1 else None

    def _way(self, u: int, v: int) -> Column | None:
        """Where an edge runs that passes rows: below its start, above its end, or by itself."""
        first, last = self.rows[u] + 1, self.rows[v] - 1
        above, below = self.column[u], self.column[v]
        if first > last or (above is below and len(self.uses[u]) == 1):
            return None
        if above.bottom == self.rows[u] and len(self.uses[u]) <= 2:
            above.bottom = last
            return above
        if below.top == self.rows[v] and len(self.nodes[v].inputs) <= 2:
            below.top = first
            return below
        return Column(first, last)

    def _order(self) -> list[Column]:
        """Columns from left to right: as one meets them from the outputs up, branch by branch."""
        found: dict[Column, None] = {}

        def visit(v: int) -> None:
            found.setdefault(self.column[v])
            inputs = self.nodes[v].inputs
            passing = [u for u in inputs if self._passes(u, v) and len(inputs) == 2]
            for u in [*(u for u in inputs if u not in passing), *passing]:
                visit(u)
                way = self.ways[u, v]
                if way is not None:
                    found.setdefault(way)

        for v in range(len(self.nodes)):
            if not self.uses[v]:
                visit(v)
        return list(found)

    def _passes(self, u: int, v: int) -> bool:
        """Whether the edge has a column of its own."""
        way = self.ways[u, v]
        return way is not None and way not in self.column

    def _place(self) -> None:
        columns = self._order()
        for i, column in enumerate(columns):
            left = [o.x + o.width / 2 + BETWEEN for o in columns[:i] if o.meets(column)]
            column.x = max(left, default=0) + column.width / 2
        for column in columns * 2:  # some depend on where others came to stand
            x = self._middle(column)
            if all(
                abs(x - other.x) >= (column.width + other.width + BETWEEN) / 2
                for other in columns
                if other is not column and other.meets(column)
            ):
                column.x = x
        shift = MARGIN - min(c.x - c.width / 2 for c in columns)
        for column in columns:
            column.x += shift
        self.width = MARGIN + max(c.x + c.width / 2 for c in columns)
        self.tops, self.heights = [], []
        y = float(MARGIN)
        for row in range(max(self.rows) + 1):
            height = max(n.size[1] for v, n in enumerate(self.nodes) if self.rows[v] == row)
            self.tops.append(y)
            self.heights.append(height)
            y += height + self._gap(row)
        self.height = self.tops[-1] + self.heights[-1] + MARGIN

    def _middle(self, column: Column) -> float:
        """Of the branches that leave or meet here, if there are any; shortcuts do not count."""
        above, below = [], []
        for u, v in self.edges:
            way = self.ways[u, v] if self._passes(u, v) else None
            if way is not None and not len(self.uses[u]) >= 3 <= len(self.nodes[v].inputs):
                continue
            if way is not None and column is self.column[u] and not self.nodes[u].inputs:
                return way.x  # an input above what keeps it as it is
            if column is self.column[v] is not self.column[u]:
                above.append((way or self.column[u]).x)
            if column is self.column[u] is not self.column[v]:
                below.append((way or self.column[v]).x)
        neighbours = below if len(below) > 1 else above
        if len(neighbours) < 2:
            return column.x
        middle = sum(neighbours) / len(neighbours)
        nearest = min(neighbours, key=lambda x: abs(x - middle))
        return nearest if abs(nearest - middle) < ROUND / 2 else middle

    def _gap(self, row: int) -> float:
        """Room below a row: more where edges go far aside."""
        gaps = [gap for edge in self.edges for gap in self.points(edge)]
        aside = [abs(a - b) for above, a, b in gaps if above == row]
        return 26 + min(60, 0.1 * max(aside, default=0))

    def points(self, edge: tuple[int, int]) -> list[tuple[int, float, float]]:
        """The gaps that an edge crosses: the row above, x at its top and at its bottom."""
        u, v = edge
        way = self.ways[edge] or self.column[u]
        xs = [self.column[u].x, *[way.x] * (self.rows[v] - self.rows[u] - 1), self.column[v].x]
        return [(self.rows[u] + i, a, b) for i, (a, b) in enumerate(pairwise(xs))]

    def box(self, v: int) -> tuple[float, float, float, float]:
        """Left, top, width, height of a node, in the middle of its row."""
        (width, height), row = self.nodes[v].size, self.rows[v]
        top = self.tops[row] + (self.heights[row] - height) / 2
        return self.column[v].x - width / 2, top, width, height

    def path(self, edge: tuple[int, int]) -> str:
        """From below a node to above the next: straight past rows, curved between them."""
        _, top, _, height = self.box(edge[0])
        parts = [f"M{self.column[edge[0]].x:.1f} {top + height:.1f}"]
        for row, a, b in self.points(edge):
            start, end = self.tops[row] + self.heights[row], self.tops[row + 1]
            middle = (start + end) / 2
            if abs(a - b) > 0.1:
                curve = f"{a:.1f} {middle:.1f} {b:.1f} {middle:.1f} {b:.1f} {end:.1f}"
                parts.append(f"V{start:.1f}C{curve}")
        end = self.box(edge[1])[1]
        straight = not parts[-1].endswith(f" {end:.1f}")  # a line of no length turns the tip aside
        return "".join([*parts, f"V{end:.1f}"] if straight else parts)


def svg(title: str, nodes: list[Node]) -> str:
    """The picture: dark on white, so that it is readable on any page."""
    layout = Layout(nodes)
    width, height = round(layout.width), round(layout.height)
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="{FONT}" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#333"/></marker></defs>',
        f'<rect {size} fill="#fff"/>',
    ]
    for edge in layout.edges:
        path = layout.path(edge)
        lines.append(f'<path d="{path}" fill="none" stroke="#333" marker-end="url(#tip)"/>')
    for v, node in enumerate(nodes):
        left, top, wide, high = layout.box(v)
        fill, radius = ("#eaf1fb", 4) if node.box else ("#fff4dc", ROUND // 2)
        lines.append(f"<g><title>{node.layer}</title>" if node.layer else "<g>")
        lines.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'rx="{radius}" fill="{fill}" stroke="#333"/>'
        )
        y = top + high / 2 - LINE * (len(node.lines) - 1) / 2 + 4
        for i, text in enumerate(node.lines):
            ink = SHAPE if node.box and i == len(node.lines) - 1 else "#111"
            at = f'x="{left + wide / 2:.1f}" y="{y + LINE * i:.1f}"'
            lines.append(f'<text {at} fill="{ink}">{escape(text)}</text>')
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


class Drawing(NamedTuple):
    """A block to draw: its title, the shapes of the maps it takes, and what makes it."""

    title: str
    inputs: tuple[tuple[int, int, int], ...]
    build: Callable[[], nn.Module]

    def module(self) -> nn.Module:
        """The block, without numbers."""
        with torch.device("meta"):
            return self.build()

    def svg(self) -> str:
        """The file's text."""
        return svg(self.title, traced(self.module(), self.inputs))


def _senet() -> nn.Module:
    return GatedBottleneck(
        256, 64, 1, first=64, second=64, groups=1, early_stride=True, shortcut_kernel=1
    )


def _resnest() -> nn.Module:
    return SplitAttentionBottleneck(256, 64, 1, radix=2, groups=1, group_width=64, pool_first=False)


def _mbconv() -> nn.Module:
    swish = nn.SiLU
    return MBConv(
        40, 40, STAGES[2], stride=1, activation=swish, gated=True, same_padding=False, eps=1e-5
    )


def _exchange() -> nn.Module:
    """Of three branches, without the blocks before it."""
    unit = HighResolutionModule((32, 64, 128), 1, (0, 1, 2), "nearest")
    unit.branches = nn.ModuleList(nn.Identity() for _ in range(3))
    return unit


def family(name: str) -> str:
    """Whose block a drawing shows: the longest family's name that the drawing's begins with."""
    return max((f for f in FAMILIES if f"{name}_".startswith(f"{f}_")), key=len)


def _on(channels: int, size: int, title: str, build: Callable[[], nn.Module]) -> Drawing:
    return Drawing(title, ((channels, size, size),), build)


V1, V2 = shufflenet_v1.Unit, shufflenet.Unit
BRANCHES = ((32, 64, 48), (64, 32, 24), (128, 16, 12))
# fmt: off
DRAWINGS = {
    "resnet_basic": _on(64, 56, "ResNet: basic block", lambda: BasicBlock(64, 64)),
    "resnet_bottleneck": _on(256, 56, "ResNet: bottleneck", lambda: Bottleneck(256, 64)),
    "resnetd": _on(256, 56, "ResNet-D: bottleneck that halves the map",
                   lambda: Bottleneck(256, 128, 2, pooled_shortcut=True)),
    "resnetv2": _on(256, 56, "ResNet v2: pre-activation bottleneck",
                    lambda: PreActivationBlock(256, 64, 256, 1, (1, 3, 1))),
    "resnext": _on(256, 56, "ResNeXt: bottleneck of 32 groups",
                   lambda: Bottleneck(256, 64, groups=32, group_width=4)),
    "res2net": _on(256, 56, "Res2Net: bottleneck of four scales",
                   lambda: ScaledBottleneck(256, 64, 1, group_width=26, scale=4)),
    "resnest": _on(256, 56, "ResNeSt: bottleneck with split attention", _resnest),
    "senet": _on(256, 56, "SE-ResNet: bottleneck with gates", _senet),
    "inception": _on(192, 28, "GoogLeNet: module 3a", lambda: inception(192, GOOGLENET["3a"])),
    "inception_v2": _on(320, 28, "BN-Inception: module 3c, which halves the map",
                        lambda: normalised_inception(320, BN_INCEPTION["3c"])),
    "inception_v3": _on(768, 20, "Inception v3: module at stride 16", lambda: module_6(768, 128)),
    "inception_v4": _on(1536, 10, "Inception v4: module C", inception_c),
    "inception_resnet_v2": _on(320, 40, "Inception-ResNet v2: module A", residual_a),
    "mobilenet_v1": _on(64, 112, "MobileNet: depthwise separable convolution",
                        lambda: DepthwiseSeparable(64, 128, 2)),
    "mobilenet": _on(32, 28, "MobileNetV2: inverted residual",
                     lambda: InvertedResidual(32, 32, stride=1, expansion=6)),
    "mobilenet_v3": _on(112, 14, "MobileNetV3: inverted residual with gates",
                        lambda: GatedResidual(112, LARGE[11])),
    "squeezenet": _on(128, 56, "SqueezeNet: Fire", lambda: Fire(128, 16, 64)),
    "shufflenet_v1": _on(240, 28, "ShuffleNet: unit of 3 groups", lambda: V1(240, 240, 1, 3, 3)),
    "shufflenet_v1_halving": _on(240, 28, "ShuffleNet: unit of 3 groups that halves the map",
                                 lambda: V1(240, 480, 2, 3, 3)),
    "shufflenet": _on(116, 28, "ShuffleNetV2: unit", lambda: V2(116, 116, 1)),
    "shufflenet_halving": _on(116, 28, "ShuffleNetV2: unit that halves the map",
                              lambda: V2(116, 232, 2)),
    "efficientnet": _on(40, 28, "EfficientNet: MBConv", _mbconv),
    "hrnet": Drawing("HRNet: exchange of three branches", BRANCHES, _exchange),
}
# fmt: on


def main(folder: Path) -> None:
    """Writes every drawing."""
    for name, drawing in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
