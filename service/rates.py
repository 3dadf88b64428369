"""How often a key, or an address where there are no keys, may ask.

Counting is by fixed windows (`limits`): constant memory a client, and a refusal says exactly when
the next request is taken. Over the edge of two windows a client may get twice its rate.
"""

import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass

from limits import RateLimitItem, parse_many
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from service.errors import RateExceeded

MAX_COUNTED = 10_000
"""Counters kept at once; the one that was not asked for longest goes first."""

IPV6_PREFIX = 64
"""One customer's network: a client may choose any address in it."""


def check_rate(rate: str) -> None:
    """Raises ValueError unless it is empty or rates such as 100/minute or 5/second;1000/hour."""
    if rate:
        _parse(rate)


@dataclass(frozen=True)
class Allowance:
    """What is left of a rate to a client."""

    limit: int
    remaining: int
    reset_s: float

    @property
    def headers(self) -> dict[str, str]:
        """What answers tell the client."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(round(self.reset_s)),
        }


class RateLimiter:
    """Counts requests by client. Belongs to the event loop.

    rate: for every client without a rate of its own; empty is no limit.
    """

    def __init__(self, rate: str, max_counted: int = MAX_COUNTED) -> None:
        self._rate = rate
        self._limiter = FixedWindowRateLimiter(_BoundedCounters(max_counted))
        self._parsed: dict[str, list[RateLimitItem]] = {}

    def check(self, client: str, rate: str = "") -> Allowance | None:
        """Counts a request; what is left then, of the rate that is nearest to its end.

        None where there is no limit. Raises RateExceeded where a rate is used up; the request
        then counts towards the faster rates that it was within.
        """
        rate = rate or self._rate
        if not rate:
            return None
        if rate not in self._parsed:  # as many as the configuration has
            self._parsed[rate] = sorted(_parse(rate))
        allowances = []
        for item in self._parsed[rate]:
            is_within = self._limiter.hit(item, client)
            reset, remaining = self._limiter.get_window_stats(item, client)
            allowances.append(
                left := Allowance(item.amount, remaining, max(0.0, reset - time.monotonic()))
            )
            if not is_within:
                raise RateExceeded(f"at most {item} for this client", left.reset_s, left.headers)
        return min(allowances, key=lambda allowance: allowance.remaining)


def client_of_address(host: str | None) -> str:
    """Who asks, by address; a whole IPv6 network of one customer is one client."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return "address:unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"address:{ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False)}"
        address = address.ipv4_mapped
    return f"address:{address}"


class _BoundedCounters(Storage):
    """Counters that end with their window, never more than so many.

    The storage that comes with `limits` grows with its clients and starts threads that look
    through all of it.
    """

    STORAGE_SCHEME = None

    def __init__(self, max_counted: int) -> None:
        super().__init__()
        self._max_counted = max_counted
        self._counters: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        count, end = self._counters.get(key, (0, 0.0))
        now = time.monotonic()
        if end <= now:
            count, end = 0, now + expiry
        self._counters[key] = (count + amount, end)
        self._counters.move_to_end(key)
        if len(self._counters) > self._max_counted:
            self._counters.popitem(last=False)
        return count + amount

    def get(self, key: str) -> int:
        count, end = self._counters.get(key, (0, 0.0))
        return count if end > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        return self._counters.get(key, (0, time.monotonic()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)


def _parse(rate: str) -> list[RateLimitItem]:
    try:
        items = parse_many(rate)
    except ValueError:
        items = []
    if not items or any(item.amount < 1 or item.get_expiry() < 1 for item in items):
        raise ValueError("a rate should be as 100/minute, or several: 5/second;1000/hour")
    return items
