"""Room for pixels: bounded in bytes, first come first served, none left behind."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from heads.errors import ImageError
from heads.image import encode_image
from heads.photo import Photo
from service.accept import JPEG
from service.errors import Cancelled, DeadlineExceeded
from service.inference.answers import PoseOptions
from service.inference.engine import Engine
from service.inference.job import Job
from service.inference.room import Room
from service.written import write_pose
from tests.conftest import ROOT
from tests.service.conftest import wait_until

STREET = (ROOT / "docs" / "street.jpg").read_bytes()


def png(height: int, width: int) -> bytes:
    return encode_image(np.zeros((height, width, 3), np.uint8), "png")


def waiting(room: Room, count: int) -> Callable[[], bool]:
    """Whether so many wait for room."""
    return lambda: len(room._waiting) == count


def test_no_more_is_held_than_there_is_room_for() -> None:
    room, lock = Room(10), threading.Lock()
    counts = np.random.default_rng(0).integers(1, 8, 200)
    inside: list[int] = []
    met: list[int] = []

    def go(count: int) -> None:
        room.take(count, Job())
        with lock:
            inside.append(count)
            met.append(sum(inside))
        time.sleep(0.0005)
        with lock:
            inside.remove(count)
        room.give(count)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(go, counts.tolist()))
    assert len(met) == 200
    assert 7 < max(met) <= 10
    assert room.held == 0


def test_who_came_first_goes_first_and_what_is_too_large_goes_alone() -> None:
    room, order = Room(10), []
    room.take(4, Job())

    def go(name: str, count: int) -> None:
        room.take(count, Job())
        order.append((name, room.held))
        room.give(count)

    with ThreadPoolExecutor(4) as pool:
        for place, asked in enumerate((("large", 50), ("small", 1), ("next", 2))):
            pool.submit(go, *asked)
            wait_until(waiting(room, place + 1))
        room.give(4)
    assert order[0] == ("large", 50)
    assert room.held == 0


def test_waiting_ends_with_the_job_and_lets_those_behind_pass() -> None:
    room = Room(10)
    room.take(6, Job())
    with pytest.raises(DeadlineExceeded):
        room.take(6, Job(timeout_s=0.05))
    gone = Job()
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(room.take, 6, gone)
        wait_until(waiting(room, 1))
        small = pool.submit(room.take, 2, Job())
        wait_until(waiting(room, 2))
        gone.cancel()
        with pytest.raises(Cancelled):
            large.result(5)
        small.result(5)
    assert room.held == 8


def test_a_photograph_takes_room_for_its_pixels_and_gives_it_back() -> None:
    room = Room(10_000_000)
    with Photo(STREET, room=room.of(Job())) as photo:
        assert room.held == 0
        height, width = photo.pixels.shape[:2]
        assert room.held == 3 * height * width
        photo.forget()
        photo.forget()
        assert room.held == 0
        _ = photo.pixels
    assert room.held == 0
    for damaged in (STREET[:2000], png(100, 100)[:-30]):
        with pytest.raises(ImageError), Photo(damaged, room=room.of(Job())) as photo:
            _ = photo.pixels
        assert room.held == 0


def test_who_draws_takes_room_for_the_copies_too() -> None:
    """All of it at once: the pixels, the copy that is drawn into, and what is written of it."""
    room = Room(10_000_000)
    with Photo(STREET, room=room.of(Job())) as photo:
        height, width = photo.canvas().shape[:2]
        assert room.held == 3 * 3 * height * width
    assert room.held == 0


def test_an_engine_holds_no_more_pixels_than_it_may_and_none_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of these is larger than all the room; they take turns, and every answer is right."""
    most: list[int] = []
    with closing(Engine(runtime="torch", max_pixels_mb=1)) as engine:
        engine.start()
        room = engine._room
        give = room.give

        def watched(count: int) -> None:
            most.append(room.held)
            give(count)

        monkeypatch.setattr(room, "give", watched)
        large, options = png(1200, 1000), PoseOptions()
        with ThreadPoolExecutor(8) as pool:
            asked = [large, STREET] * 8
            answers = list(
                pool.map(lambda data: engine.pose(data, "default", options, Job()), asked)
            )
        assert [len(answer.people) for answer in answers] == [0, 3] * 8
        drawn = write_pose(answers[1], JPEG)
        assert len(drawn) > 1000
        assert room.held == 0
    assert max(most) == 1200 * 1000 * 3
