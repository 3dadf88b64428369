"""A run's log becomes a picture."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from training.curve import HEIGHT, MARGIN, WIDTH, curve
from training.errors import DataError


def test_every_epoch_is_a_dot_at_its_place(tmp_path: Path) -> None:
    lines = [
        {"crops": 50, "loss": 0.4},
        {"crops": 100, "ap": 0.25},
        {"crops": 150, "loss": 0.2},
        {"crops": 200, "ap": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    root = ElementTree.fromstring(curve(tmp_path / "log.jsonl"))
    dots = [e for e in root if e.tag.endswith("circle")]
    places = [(float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots]
    middle, end = (MARGIN + WIDTH - MARGIN) / 2, WIDTH - MARGIN
    assert places == [(middle, HEIGHT / 2), (end, MARGIN)]
    words = [e.text for e in root if e.tag.endswith("text")]
    assert {"0.250", "0.500", "200 samples"} <= set(words)


def test_a_log_without_epochs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"crops": 1, "loss": 0.1}\n')
    with pytest.raises(DataError, match="no epoch that was measured"):
        curve(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("what\n")
    with pytest.raises(DataError, match="is no log of a run"):
        curve(tmp_path / "log.jsonl")


def test_what_is_no_number_has_no_place(tmp_path: Path) -> None:
    odd = '{"crops": 1, "loss": NaN}\n{"crops": "2", "ap": 0.7}\n{"crops": 3, "ap": null}\n'
    (tmp_path / "log.jsonl").write_text(odd + '{"crops": 4, "loss": 0}\n{"crops": 5, "ap": -1}\n')
    picture = curve(tmp_path / "log.jsonl")
    assert "nan" not in picture
    assert picture.count("<circle") == 1


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    torn = '{"crops": 1, "loss": 1.0}\n{"crops": 2, "ap": 0.1}\n{"crops": 3, "lo'
    (tmp_path / "log.jsonl").write_text(torn)
    assert "0.100" in curve(tmp_path / "log.jsonl")


def test_runs_follow_each_other(tmp_path: Path) -> None:
    for name, best in (("first", 0.2), ("second", 0.4)):
        lines = [{"crops": 10 * k, "ap": best - 0.01 * abs(k - 8)} for k in range(1, 11)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    root = ElementTree.fromstring(curve(tmp_path / "first", tmp_path / "second"))
    places = [float(e.attrib["cx"]) for e in root if e.tag.endswith("circle")]
    assert places == pytest.approx(
        [MARGIN + (WIDTH - 2 * MARGIN) * k / 20 for k in range(1, 21)], abs=0.05
    )
    words = [e.text for e in root if e.tag.endswith("text")]
    # Twenty numbers would overlap: the best of each run has its own.
    assert [w for w in words if w and w.startswith("0.")] == ["0.200", "0.400"]
    assert "200 samples" in words


def test_runs_of_two_measures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pose").write_text('{"crops": 1, "ap": 0.1}')
    (tmp_path / "classes").write_text('{"crops": 1, "top1": 0.1}')
    with pytest.raises(DataError, match="measured alike; got ap, top1"):
        curve(tmp_path / "pose", tmp_path / "classes")
