"""The table of `make bench`: every figure stands under its heading."""

from rich.console import Console

from tests.report import HEADINGS, Report


def lines(report: Report) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(report.table)
    return captured.get().splitlines()


def test_figures_stand_under_their_headings() -> None:
    report = Report()
    report.part("serving", "a plain server", "photos")
    report.add(
        "2 MP", "hrpose", ratio=6.0, a_second=70.0, percentiles_ms=(1.0, 2.0, 3.0), cpu_ms=24.0,
        beside="RSS 240 MiB",
    )  # fmt: skip
    report.add("2 MP", "network alone", cpu_ms=11.0)
    head, part, full, bare = lines(report)
    starts = {name: head.index(name) for name in HEADINGS}
    assert part[starts["by"] :].startswith("ratio to a plain server")
    assert part[starts["a second"] :].startswith("photos")
    cells = ("6.00x", "2 MP", "hrpose", "70.0", "1.0", "2.0", "3.0", "24.00", "RSS 240 MiB")
    for name, cell in zip(HEADINGS, cells, strict=True):
        assert full[starts[name] :].startswith(cell)
    assert bare[starts["CPU ms"] :].startswith("11.00")
    assert bare.split() == ["2", "MP", "network", "alone", "11.00"]


def test_parts_are_set_apart_and_say_what_they_leave_out() -> None:
    report = Report()
    report.part("a", "x", "calls")
    report.part("b", "y", "calls")
    report.note("c: skipped, not installed")
    _, first, gap, second, note = lines(report)
    assert "ratio to x" in first
    assert not gap.strip()
    assert "ratio to y" in second
    assert "c: skipped, not installed" in note
