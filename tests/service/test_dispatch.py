"""Places at the end of a server: what is done is delivered, what is not is refused."""

import asyncio
import time

import pytest

from service.dispatch import Dispatcher, Place
from service.errors import Unavailable


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
