"""Known faults of what hrpose depends on, as far as the package index tells them.

    python -m tests.audit [EXTRA ...]        # serve, where none is named

`pip-audit` asks the index about each installed release, which not every mirror of it can answer.
What every one knows is the page of a package, and that lists what is known of its newest release;
so an older release is named and not judged. Ends with 1 where a fault is known.
"""

import json
import re
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement

INDEX = "https://pypi.org/pypi/{name}/json"
TIMEOUT_S = 30


@dataclass(frozen=True)
class Verdict:
    """What the index says of an installed release; faults: None where it says nothing."""

    name: str
    installed: str
    newest: str
    faults: tuple[str, ...] | None


def installed(project: str, extras: Iterable[str]) -> dict[str, str]:
    """Name and release of everything that a project with these extras needs and that is here."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(project, frozenset(extras))]
    while left:
        name, wanted = left.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            here = distribution(name)
        except PackageNotFoundError:  # for another system
            continue
        found[name] = here.version
        for text in here.requires or []:
            need = Requirement(text)
            if need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in wanted or {""}
            ):
                left.append((_plain(need.name), frozenset(need.extras)))
    del found[project]
    return found


def verdict(name: str, version: str, page: Any) -> Verdict:
    """page: what the index answers about a package."""
    newest = page["info"]["version"]
    if newest != version:
        return Verdict(name, version, newest, None)
    known = [fault["id"] for fault in page["vulnerabilities"] if not fault.get("withdrawn")]
    return Verdict(name, version, newest, tuple(known))


def ask(name: str) -> Any:
    """What the index answers about a package."""
    with urllib.request.urlopen(INDEX.format(name=name), timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(extras: Sequence[str]) -> int:
    """Prints what is known; the exit status."""
    packages = installed("hrpose", extras)
    verdicts = [verdict(name, packages[name], ask(name)) for name in sorted(packages)]
    bad = [v for v in verdicts if v.faults]
    for v in bad:
        sys.stdout.write(f"{v.name} {v.installed}: {', '.join(v.faults or ())}\n")
    for v in verdicts:
        if v.faults is None:
            sys.stdout.write(f"{v.name} {v.installed} is not judged; the newest is {v.newest}\n")
    judged = sum(v.faults is not None for v in verdicts)
    sys.stdout.write(f"{judged} of {len(verdicts)} judged, {len(bad)} with known faults\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["serve"]))
