"""The drawings of docs/blocks, and that the page they are for leaves out no family."""

import re
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from torch import nn

from models.backbone import FAMILIES
from tests.models.drawings import DRAWINGS, FONT, Drawing, family

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"
BLOCKS = ROOT / "docs" / "blocks"
SVG = "{http://www.w3.org/2000/svg}"

every_drawing = pytest.mark.parametrize("name", DRAWINGS)


class Rectangle(NamedTuple):
    """In px, from the upper left corner of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is inside, by more than what is rounded."""
        return self.left + 0.2 < x < self.right - 0.2 and self.top + 0.2 < y < self.bottom - 0.2

    def overlaps(self, other: "Rectangle") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def parsed(name: str) -> ElementTree.Element:
    return ElementTree.fromstring((BLOCKS / f"{name}.svg").read_text(encoding="utf-8"))


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


def box(group: ElementTree.Element) -> Rectangle:
    rect = group.find(f"{SVG}rect")
    assert rect is not None
    x, y, width, height = numbers(rect, "x", "y", "width", "height")
    return Rectangle(x, y, x + width, y + height)


def texts(group: ElementTree.Element) -> list[Rectangle]:
    """Where letters can stand: 0.6 of their size wide, from 0.8 above to 0.25 below the line."""
    found = []
    for text in group.iter(f"{SVG}text"):
        x, y = numbers(text, "x", "y")
        half = len(text.text or "") * 0.6 * FONT / 2
        found.append(Rectangle(x - half, y - 0.8 * FONT, x + half, y + 0.25 * FONT))
    return found


def along(path: str) -> list[tuple[float, float]]:
    """Points of a path of M, V and C, at most some px apart."""
    points: list[tuple[float, float]] = []
    for command, values in re.findall(r"([MVC])([^MVC]+)", path):
        n = [float(value) for value in values.split()]
        if command == "M":
            points.append((n[0], n[1]))
            continue
        (x, y), steps = points[-1], [i / 50 for i in range(1, 51)]
        x1, y1, x2, y2, x3, y3 = n if command == "C" else [x, y, x, n[0], x, n[0]]
        for t in steps:
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            points.append((a * x + b * x1 + c * x2 + d * x3, a * y + b * y1 + c * y2 + d * y3))
    return points


def convolutions(drawing: Drawing) -> dict[str, str]:
    """By their names in the block, what a drawing has to say of each."""
    return {
        name: f"{layer.kernel_size[0]}x{layer.kernel_size[1]} conv, "
        f"{layer.in_channels} → {layer.out_channels}"
        for name, layer in drawing.module().named_modules()
        if isinstance(layer, nn.Conv2d)
    }


@every_drawing
def test_the_file_is_what_the_code_draws(name: str) -> None:
    written = (BLOCKS / f"{name}.svg").read_text(encoding="utf-8")
    assert written == DRAWINGS[name].svg(), "run `make docs`"


def test_there_are_no_other_drawings() -> None:
    assert sorted(path.stem for path in BLOCKS.iterdir()) == sorted(DRAWINGS)


@every_drawing
def test_each_convolution_stands_in_its_drawing_once(name: str) -> None:
    drawn = []
    for group in parsed(name).iter(f"{SVG}g"):
        first = group.findtext(f"{SVG}text") or ""
        if " conv, " in first:
            drawn.append((group.findtext(f"{SVG}title") or "", first))
    assert sorted(drawn) == sorted(convolutions(DRAWINGS[name]).items())


@every_drawing
def test_texts_stand_in_their_boxes_and_nothing_overlaps(name: str) -> None:
    drawing = parsed(name)
    groups = list(drawing.iter(f"{SVG}g"))
    width, height = numbers(drawing, "width", "height")
    for group in groups:
        around = box(group)
        assert around.left >= 0
        assert around.top >= 0
        assert around.right <= width
        assert around.bottom <= height
        for text in texts(group):
            assert around.left <= text.left
            assert text.right <= around.right
            assert around.top <= text.top
            assert text.bottom <= around.bottom
    for rectangles in (map(box, groups), [text for group in groups for text in texts(group)]):
        assert not any(a.overlaps(b) for a, b in combinations(rectangles, 2))


@every_drawing
def test_no_line_runs_through_a_box(name: str) -> None:
    drawing = parsed(name)
    boxes = [box(group) for group in drawing.iter(f"{SVG}g")]
    lines = [path.attrib["d"] for path in drawing.findall(f"{SVG}path") if "stroke" in path.attrib]
    assert len(lines) >= len(boxes) - 1  # in a connected graph
    for line in lines:
        points = along(line)
        assert not any(b.holds(x, y) for b in boxes for x, y in points)
        ends = [Rectangle(b.left, b.top - 1, b.right, b.bottom + 1) for b in boxes]
        for x, y in (points[0], points[-1]):
            assert any(end.holds(x, y) for end in ends)


def sections() -> list[str]:
    return PAGE.read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("module", FAMILIES)
def test_the_page_has_a_section_with_pictures_for_each_family(module: str) -> None:
    (section,) = [text for text in sections() if f"`models/{module}.py`" in text]
    pictures = [name for name in DRAWINGS if family(name) == module]
    assert pictures
    for name in pictures:
        assert f"](blocks/{name}.svg)" in section


def test_pictures_of_the_page_exist() -> None:
    shown = re.findall(r"\]\((blocks/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"blocks/{name}.svg" for name in DRAWINGS)
    assert all((PAGE.parent / picture).is_file() for picture in shown)


def test_tests_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/test_*.py"))
    assert named
    assert named <= set(re.findall(r"^def (test_\w+)\(", code, re.MULTILINE))
