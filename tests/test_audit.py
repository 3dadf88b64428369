"""Which packages are looked up, and what the index's answer means; the index is not asked."""

from typing import Any

import pytest

from tests import audit


def page(version: str, *faults: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"version": version}, "vulnerabilities": list(faults)}


def test_what_the_extras_bring_is_looked_up_with_all_that_it_needs() -> None:
    packages = audit.installed("hrpose", ["serve"])
    assert {"numpy", "fastapi", "starlette", "openvino"} <= set(packages)
    assert "torch" not in packages
    assert "hrpose" not in packages
    assert "torch" in audit.installed("hrpose", ["train"])  # an extra that names another


def test_the_newest_release_is_judged_and_an_older_one_is_not() -> None:
    known = page("2.0", {"id": "GHSA-1"}, {"id": "GHSA-2", "withdrawn": "2026-01-01"})
    assert audit.verdict("a", "2.0", known).faults == ("GHSA-1",)
    assert audit.verdict("a", "1.9", known).faults is None
    assert audit.verdict("a", "2.0", page("2.0")).faults == ()


def test_a_known_fault_is_named_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "installed", lambda *_: {"good": "1.0", "bad": "1.0", "old": "0.9"})
    pages = {"good": page("1.0"), "bad": page("1.0", {"id": "GHSA-1"}), "old": page("1.0")}
    monkeypatch.setattr(audit, "ask", pages.__getitem__)
    assert audit.main(["serve"]) == 1
    told = capsys.readouterr().out
    assert "bad 1.0: GHSA-1" in told
    assert "old 0.9 is not judged; the newest is 1.0" in told
    assert "2 of 3 judged, 1 with known faults" in told
    pages["bad"] = page("1.0")
    assert audit.main(["serve"]) == 0
