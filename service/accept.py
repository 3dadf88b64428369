"""Which media type to answer with: what Accept likes of what can be written (RFC 9110, 12.5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import NotAcceptable

JSON = "application/json"
JPEG = "image/jpeg"
PNG = "image/png"


@dataclass(frozen=True)
class _Range:
    """One entry of the header; position counts from its start."""

    type: str
    subtype: str
    quality: float
    position: int

    def specificity(self, media_type: str) -> int | None:
        """2 for the type itself, 1 for type/*, 0 for */*; None where it does not match."""
        main, _, sub = media_type.partition("/")
        if (self.type, self.subtype) == (main, sub):
            return 2
        if (self.type, self.subtype) == (main, "*"):
            return 1
        return 0 if (self.type, self.subtype) == ("*", "*") else None


def choose(header: str | None, offered: Sequence[str] = (JSON, JPEG, PNG)) -> str:
    """The offered type that the header likes best; the first one where it does not care.

    Of equally liked types the one named more exactly wins, then the one named first. Raises
    NotAcceptable where the header wants none of them.
    """
    ranges = _parse(header or "") or _parse("*/*")
    best: tuple[float, int, int] | None = None
    chosen = None
    for media_type in offered:
        matching = [(s, r) for r in ranges if (s := r.specificity(media_type)) is not None]
        if not matching:
            continue
        specificity, found = max(matching, key=lambda pair: pair[0])
        liking = (found.quality, specificity, -found.position)
        if found.quality > 0 and (best is None or liking > best):
            best, chosen = liking, media_type
    if chosen is None:
        raise NotAcceptable(f"answers are written as {', '.join(offered)}")
    return chosen


def _parse(header: str) -> list[_Range]:
    ranges = []
    # Empty entries mean nothing (RFC 9110, 5.6.1.2).
    for position, entry in enumerate(filter(str.strip, header.split(","))):
        media_range, *parameters = (part.strip().lower() for part in entry.split(";"))
        main, _, sub = media_range.partition("/")
        ranges.append(_Range(main, sub, _quality(parameters), position))
    return ranges


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
