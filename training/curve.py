"""Logs of runs as a picture: the loss of steps and the measure of epochs, over the samples seen.

python -m training.curve runs/NAME/log.jsonl [MORE.jsonl ...] curve.svg
"""

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.errors import DataError

Point = tuple[float, float]
Points = Sequence[Point]

MEASURES = ("ap", "top1", "miou")
WIDTH, HEIGHT, MARGIN = 640, 280, 48
LOSS, SCORE = "#8a94a6", "#1f5fbf"
LABELLED = 16
"""With more dots than these only the best of each run says its number; others would overlap."""


def curve(*logs: Path) -> str:
    """An SVG of runs, each from where the one before ended.

    DataError where a log has no epoch that was measured, or is of another measure than the first.
    """
    losses: list[Point] = []
    runs: list[list[Point]] = []
    measures: list[str] = []
    end = 0.0
    for log in logs:
        lines = _lines(log)
        measure = next((name for name in MEASURES if _points(lines, name)), None)
        if measure is None:
            raise DataError(f"{log.name} has no epoch that was measured")
        measures.append(measure)
        losses += [(end + x, y) for x, y in _points(lines, "loss")]
        runs.append([(end + x, y) for x, y in _points(lines, measure)])
        end = max(x for x, _ in [*losses, *runs[-1]])
    measure = measures[0]
    if set(measures) != {measure}:
        raise DataError(f"runs are measured alike; got {', '.join(measures)}")
    scores = [point for run in runs for point in run]
    named = scores if len(scores) <= LABELLED else [max(run, key=lambda p: p[1]) for run in runs]
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _line(losses, end, max((y for _, y in losses), default=0.0) or 1.0, LOSS),
        _line(scores, end, _ceiling(scores), SCORE),
        *(_dot(point, end, _ceiling(scores)) for point in scores),
        *(_label(point, end, _ceiling(scores)) for point in named),
        _text(MARGIN, MARGIN - 18, f"{measure} (0 to {_ceiling(scores):.2f})", SCORE),
        _text(WIDTH / 2, MARGIN - 18, "loss (from 0)", LOSS),
        _text(MARGIN, HEIGHT - 14, "0", "#333"),
        _text(WIDTH - MARGIN, HEIGHT - 14, f"{end:,.0f} samples", "#333", anchor="end"),
    ]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join([opening, *parts, "</svg>", ""])


def _lines(log: Path) -> list[dict[str, Any]]:
    """What was logged; a line that a crash tore is passed over."""
    lines = []
    try:
        for text in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    except OSError as error:
        raise DataError(f"{log.name} is no log of a run: {error}") from error
    lines = [line for line in lines if isinstance(line, dict) and _is_number(line.get("crops"))]
    if not lines:
        raise DataError(f"{log.name} is no log of a run: it has no line of one")
    return lines


def _points(lines: Sequence[dict[str, Any]], name: str) -> Points:
    """A run that diverges writes NaN, which has no place in a picture."""
    return [(line["crops"], line[name]) for line in lines if _is_number(line.get(name))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _ceiling(points: Points) -> float:
    return max(max(y for _, y in points), 0.01)


def _place(point: Point, end: float, top: float) -> Point:
    x = MARGIN + (WIDTH - 2 * MARGIN) * point[0] / max(end, 1)
    return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * point[1] / top


def _line(points: Points, end: float, top: float, colour: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(p, end, top) for p in points))
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _dot(point: Point, end: float, top: float) -> str:
    x, y = _place(point, end, top)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{SCORE}"/>'


def _label(point: Point, end: float, top: float) -> str:
    x, y = _place(point, end, top)
    place = f'x="{x:.1f}" y="{y - 8:.1f}" font-size="11" text-anchor="middle"'
    return f"<text {place}>{point[1]:.3f}</text>"


def _text(x: float, y: float, words: str, colour: str, *, anchor: str = "start") -> str:
    font = f'font-family="sans-serif" font-size="13" text-anchor="{anchor}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {font} fill="{colour}">{words}</text>'


def main(arguments: Sequence[str]) -> None:
    """Writes the picture; see the module's docstring."""
    if len(arguments) < 2:
        raise SystemExit("usage: python -m training.curve LOG.jsonl [MORE.jsonl ...] curve.svg")
    *logs, target = arguments
    Path(target).write_text(curve(*map(Path, logs)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
