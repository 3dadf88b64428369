"""The one table that `make bench` prints: ratios first, times of this machine after them."""

from rich.table import Table

HEADINGS = ("ratio", "what", "by", "a second", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "beside")


class Report:
    """Rows in parts, each of which says what its ratios are to and what is counted a second."""

    def __init__(self) -> None:
        self.table = Table(*HEADINGS, box=None)

    def part(self, title: str, against: str, counted: str) -> None:
        """Starts a part."""
        if self.table.row_count:
            self.table.add_row()
        self.table.add_row("", title, f"ratio to {against}", counted, style="bold")

    def note(self, words: str) -> None:
        """What a part leaves out, and why."""
        self.table.add_row("", words, style="italic")

    def add(
        self,
        what: str,
        by: str,
        *,
        ratio: float | None = None,
        a_second: float | None = None,
        percentiles_ms: tuple[float, float, float] | None = None,
        cpu_ms: float | None = None,
        beside: str = "",
    ) -> None:
        """One row; figures that a part does not have stay empty.

        percentiles_ms: p50, p95, p99.  cpu_ms: processor time of one of what is counted.
        """
        percentiles = [f"{ms:.1f}" for ms in percentiles_ms] if percentiles_ms else [""] * 3
        self.table.add_row(
            "" if ratio is None else f"{ratio:.2f}x",
            what,
            by,
            "" if a_second is None else f"{a_second:.1f}",
            *percentiles,
            "" if cpu_ms is None else f"{cpu_ms:.2f}",
            beside,
        )
