"""Places at the end of a server: what is done is delivered, what is not is refused."""

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest

from service.dispatch import Dispatcher, Place
from service.errors import BeingLoaded, Unavailable


async def never() -> None:
    """A client that stays."""
    await asyncio.Event().wait()


async def given_up(dispatcher: Dispatcher, *, when_done: bool) -> str:
    """The answer of a request that is given up: at work, or with its answer there but not taken."""
    places: list[Place] = []

    def work() -> str:
        while not when_done:
            places[0].job.check()
            time.sleep(0.001)
        return "answer"

    async def ask() -> str:
        with dispatcher.place() as place:
            places.append(place)
            return await place.run(work, never)

    asked = asyncio.create_task(ask())
    while not places or places[0]._awaited is None or places[0]._awaited.done() is not when_done:
        await asyncio.sleep(0)
    dispatcher.give_up()
    return await asked


def test_an_answer_that_is_there_is_delivered_though_there_is_no_more_time() -> None:
    dispatcher = Dispatcher(1, 10.0, 1000, 1)
    assert asyncio.run(given_up(dispatcher, when_done=True)) == "answer"
    dispatcher.close()


def test_work_without_an_answer_is_dropped_when_there_is_no_more_time() -> None:
    dispatcher = Dispatcher(1, 10.0, 1000, 1)
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(given_up(dispatcher, when_done=False))
    dispatcher.close()


def test_a_request_whose_network_has_just_come_is_given_up_too() -> None:
    """That network is no answer yet."""
    dispatcher = Dispatcher(1, 10.0, 1000, 1)

    async def ask() -> str:
        loading: Future[None] = Future()

        def work() -> str:
            raise BeingLoaded("x", loading)

        with dispatcher.place() as place:
            running = asyncio.create_task(place.run(work, never))
            while place._awaited is None or place._awaited is place._running:
                await asyncio.sleep(0)
            loading.set_result(None)
            while not place._awaited.done():
                await asyncio.sleep(0)
            dispatcher.give_up()
            return await running

    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(ask())
    dispatcher.close()


def test_a_request_for_which_there_is_no_thread_is_refused_and_its_work_never_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatcher, done = Dispatcher(2, 10.0, 1000, 1), []

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask() -> None:
        with dispatcher.place() as place:

            def work() -> None:
                place.job.check()
                done.append(place)

            await place.run(work, never)

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="no thread can work on it"):
            asyncio.run(ask())
    asyncio.run(ask())
    dispatcher.close()
    assert len(done) == 1
    assert dispatcher.taken == 0
