"""Turns at a device: as many as it takes, and in the order of coming."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from service.inference.turns import Turns
from tests.service.conftest import wait_until


def test_who_came_first_goes_first_even_before_who_has_just_left() -> None:
    turns, order = Turns(1), []

    def go(name: int) -> None:
        with turns:
            order.append(name)

    with ThreadPoolExecutor(8) as pool:
        with turns:
            for name in range(6):
                pool.submit(go, name)
                wait_until(lambda name=name: len(turns._waiting) == name + 1)  # type: ignore[misc]
        go(6)
    assert order == list(range(7))


def test_no_more_are_in_than_may_be() -> None:
    turns, lock = Turns(2), threading.Lock()
    inside = most = 0

    def go(_: int) -> None:
        nonlocal inside, most
        with turns:
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.001)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(go, range(64)))
    assert (most, inside) == (2, 0)
