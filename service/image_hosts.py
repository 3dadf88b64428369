"""Hosts that images may be fetched from, as the setting image_urls has them."""

import re
from collections.abc import Sequence

MAX_URL = 2048
MAX_NAME = 253

# The last label begins with a letter, so that no form of a number is a name: 127.1, 0x7f.1.
_NAME = r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,62}"
_PATTERN = rf"\*|(?:\*\.)?{_NAME}"


def check_hosts(patterns: Sequence[str]) -> None:
    """Raises ValueError unless each is a host, `*.` and a host, or `*`."""
    for pattern in patterns:
        if not re.fullmatch(_PATTERN, pattern.lower()):
            raise ValueError("a host should be as example.com, *.example.com or *")


def is_host(name: str) -> bool:
    """Whether it is a whole domain name in lower case, and no address in any writing."""
    return len(name) <= MAX_NAME and re.fullmatch(_NAME, name) is not None


def matches(pattern: str, name: str) -> bool:
    """Whether a host is among those that a pattern allows; *.example.com is not example.com."""
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
