"""An estimator ends with its `with`, with `close`, or with the last who had it."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import hrpose
from service.errors import Conflict, InvalidParameter
from service.inference.estimator import LazyNetwork, as_box
from tests.conftest import ROOT
from tests.service.conftest import wait_until

CAT = ROOT / "tests" / "data" / "cat.jpg"

BOX = (326.0, 174.0, 71.0, 197.0)


def closed(estimator: hrpose.Estimator) -> None:
    """Ends it."""
    estimator.close()


def left(estimator: hrpose.Estimator) -> None:
    """Ends it."""
    with estimator:
        pass


def forgotten(_: hrpose.Estimator) -> None:
    """Leaves it to itself."""


def forgotten_in_a_ring(estimator: hrpose.Estimator) -> None:
    """Held by what holds itself: only who looks for such rings finds that nobody else does."""
    ring: list[Any] = [estimator]
    ring.append(ring)


def ask(end: Callable[[hrpose.Estimator], None], image: Any) -> "weakref.ref[Any]":
    """Uses an estimator with its detector, and ends it; its module."""
    estimator = hrpose.load("hrnet_w18_small")
    assert estimator.predict(image)
    module = weakref.ref(estimator.network)
    end(estimator)
    return module


@pytest.mark.parametrize("end", [closed, left, forgotten, forgotten_in_a_ring])
def test_an_estimator_that_ended_leaves_no_thread_and_no_network(
    end: Callable[[hrpose.Estimator], None], street: Any
) -> None:
    gc.collect()
    before = threading.active_count()
    module = ask(end, street)
    gc.collect()
    wait_until(lambda: threading.active_count() <= before)
    assert module() is None


def test_a_closed_estimator_says_so(street: Any) -> None:
    estimator = hrpose.load("hrnet_w18_small")
    with estimator as same:
        assert same is estimator
        assert len(estimator.predict(street, [BOX])) == 1
    estimator.close()
    asked: tuple[Callable[[], object], ...] = (
        lambda: estimator.predict(street),
        lambda: estimator.predict(street, [BOX]),
        lambda: estimator.classify(street),
        lambda: estimator.segment(street),
        lambda: estimator.network,
    )
    for ask_it in asked:
        with pytest.raises(
            Conflict, match=r"estimator of hrnet_w18_small was closed; load another"
        ):
            ask_it()
    assert estimator.spec.name == "hrnet_w18_small"


def test_what_is_asked_of_an_estimator_that_nobody_keeps_is_answered() -> None:
    predict = hrpose.load("efficientnet_lite0").classify
    gc.collect()
    assert predict(hrpose.read_image(CAT), 1)[0].name == "tiger cat"


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 1e400, 9),
        (float("nan"), 0, 9, 9),
        (0, 0, -5, 9),
        (0, 0, 9),
        7,
        (0, 0, "x", 9),
        (0, 0, 1e7, 9),
        (-1e9, 0, 9, 9),
    ],
)
def test_what_is_no_box_is_refused(box: Any) -> None:
    with pytest.raises(InvalidParameter, match="a box"):
        as_box(box)


def test_the_module_of_an_exported_network_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    load, loads = LazyNetwork.load, []

    def slowly(network: LazyNetwork) -> Any:
        loads.append(network)
        time.sleep(0.05)
        return load(network)

    monkeypatch.setattr(LazyNetwork, "load", slowly)
    with hrpose.load("hrnet_w18_small", runtime="onnx") as estimator:
        with ThreadPoolExecutor(4) as threads:
            modules = list(threads.map(lambda _: estimator.network, range(4)))
        assert len(loads) == 1
        assert len({id(module) for module in modules}) == 1
    with pytest.raises(Conflict, match="was closed"):
        _ = estimator.network
