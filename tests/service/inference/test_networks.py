"""Networks that are loaded, swapped and unloaded while requests run."""

import contextlib
import gc
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads.checkpoint import save_checkpoint
from heads.errors import CheckpointError
from heads.export import export_onnx
from heads.load import load
from heads.network import build
from heads.spec import default_spec
from models.errors import UnknownName
from service.errors import (
    BeingLoaded,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Overloaded,
    Unavailable,
)
from service.inference.batcher import BatchCounters, Batcher
from service.inference.engine import Engine
from service.inference.job import Job
from service.inference.loading import RuntimeName
from service.inference.networks import LOADING, Live, Networks
from service.inference.runtime import Batch, Maps
from service.inference.whole import ClassifyNetwork
from tests.conftest import ROOT
from tests.service.conftest import wait_until

STREET = (ROOT / "docs" / "street.jpg").read_bytes()

RUNTIME: RuntimeName = "onnx" if importlib.util.find_spec("onnxruntime") else "torch"

ENDING = ".onnx" if RUNTIME == "onnx" else ".safetensors"


class Slow:
    """A runtime that answers when it may."""

    streams = 1
    words = "slow"

    def __init__(self, answer: float, go: threading.Event) -> None:
        self.answer = answer
        self.go = go
        self.runs = 0

    def run(self, batch: Batch) -> Maps:
        self.runs += 1
        if self.runs > 1:  # the first is the warming
            assert self.go.wait(10)
        return {"output": np.full((len(batch), 3), self.answer, np.float32)}


class Making:
    """Makes networks named by how often it was asked, each on a batcher of its own."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.made: list[Slow] = []
        self.version = 0
        self.failing = False
        self.may_load = threading.Event()
        self.may_load.set()

    def make(self, name: str, whole: bool) -> Live:
        assert self.may_load.wait(10)
        if self.failing:
            raise CheckpointError(f"{name} is damaged")
        runtime = Slow(len(self.made), self.go)
        self.made.append(runtime)
        spec = default_spec("squeezenet1_1+classify", input_size=(64, 64))
        batcher = Batcher(name, runtime, device=threading.Semaphore(2))
        return Live(ClassifyNetwork(spec, batcher), "slow", ("f", 0, 0, self.version), whole)

    def networks(self, **bounds: Any) -> Networks:
        return Networks(self.make, lambda _: ("f", 0, 0, self.version), **bounds)


@pytest.fixture
def making() -> Iterator[Making]:
    found = Making()
    yield found
    found.go.set()
    found.may_load.set()


@pytest.fixture
def networks(making: Making) -> Iterator[Networks]:
    found = making.networks()
    yield found
    making.go.set()
    found.close()


def ask(networks: Networks, *, whole: bool = True, name: str = "x") -> float:
    with networks.lease(name, whole=whole) as network:
        (ran,) = network.batcher.run([np.zeros((4, 4, 3), np.uint8)], Job())
        return float(ran.maps["output"][0])


def test_a_network_is_loaded_once_however_many_ask(making: Making, networks: Networks) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(networks), range(32)))
    assert answers == [0.0] * 32
    assert len(making.made) == 1


def test_the_end_of_a_process_knows_every_thread_that_loads(making: Making) -> None:
    names = []

    def make(name: str, whole: bool) -> Live:
        names.append(threading.current_thread().name)
        return making.make(name, whole)

    networks = Networks(make)
    before = threading.current_thread().name
    networks.load("x")
    ask(networks, name="y")
    networks.close()
    assert names == [f"{LOADING}-x", f"{LOADING}-y"]
    assert threading.current_thread().name == before


def test_who_waits_for_a_network_waits_no_longer_than_it_may(
    making: Making, networks: Networks
) -> None:
    """It is loaded all the same, for whoever comes next."""
    making.may_load.clear()
    with pytest.raises(DeadlineExceeded), networks.lease("x", job=Job(0.05)):
        pass
    job = Job()
    with ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            with networks.lease("x", job=job):
                pass

        waiting = pool.submit(wait)
        job.cancel()
        with pytest.raises(Cancelled):
            waiting.result(5)
    making.may_load.set()
    assert ask(networks) == 0.0
    assert len(making.made) == 1


def test_who_may_not_block_is_told_what_to_wait_for(making: Making, networks: Networks) -> None:
    making.may_load.clear()
    with (
        pytest.raises(BeingLoaded, match="x is being loaded") as met,
        networks.lease("x", job=Job(may_block=False)),
    ):
        pass
    making.may_load.set()
    met.value.loading.result(5)
    with networks.lease("x", job=Job(may_block=False)):
        pass
    assert len(making.made) == 1


def test_a_thread_that_cannot_be_had_keeps_no_network_from_being_loaded_later(
    making: Making, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="x cannot be loaded now"):
            ask(networks)
    assert ask(networks) == 0
    assert len(making.made) == 1


def test_what_cannot_be_loaded_is_told_to_all_who_wait(making: Making, networks: Networks) -> None:
    making.failing = True
    making.may_load.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, networks) for _ in range(2)]
        making.may_load.set()
        for each in waiting:
            with pytest.raises(CheckpointError, match="x is damaged"):
                each.result(5)
    making.failing = False
    assert ask(networks) == 0.0


def test_the_one_not_asked_for_longest_makes_room(making: Making) -> None:
    networks = making.networks(most=3, kept=("first",))
    for name in ("first", "a", "b", "a", "c"):
        ask(networks, name=name)
    assert set(networks.all()) == {"first", "a", "c"}
    ask(networks, name="d")
    assert set(networks.all()) == {"first", "c", "d"}
    wait_until(lambda: not networks._leaving)
    assert {name: done.crops for name, done in networks.counters().items()} == {
        "first": 1, "a": 2, "b": 1, "c": 1, "d": 1
    }  # fmt: skip
    networks.close()


def test_what_is_loaded_is_never_missed_while_it_is_asked_for(networks: Networks) -> None:
    for name in ("x", "y"):
        ask(networks, name=name)

    def use() -> None:
        for _ in range(20000):
            for name in ("x", "y"):
                with networks.lease(name):
                    pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            users = [threads.submit(use) for _ in range(2)]
            while not all(user.done() for user in users):
                assert all("x" in networks for _ in range(100))
    finally:
        sys.setswitchinterval(before)
    for user in users:
        user.result()


def test_who_wants_more_than_boxes_gets_the_whole_network_in_its_place(
    making: Making, networks: Networks
) -> None:
    assert ask(networks, whole=False) == 0.0
    networks.load("x", force=True)
    assert [live.whole for live in networks.all().values()] == [False]
    making.go.clear()
    with ThreadPoolExecutor(4) as pool:
        old = pool.submit(ask, networks, whole=False)
        wait_until(lambda: making.made[1].runs == 2)
        new = [pool.submit(ask, networks) for _ in range(2)]
        wait_until(lambda: networks.all()["x"].whole)
        making.go.set()
        assert [asked.result(5) for asked in (old, *new)] == [1.0, 2.0, 2.0]
    assert ask(networks, whole=False) == 2.0
    assert networks.load("x", force=True) == "swapped"
    assert networks.all()["x"].whole
    assert networks.counters()["x"].crops == 7  # two of them to warm


def test_an_unchanged_file_is_not_loaded_again(making: Making, networks: Networks) -> None:
    assert networks.load("x") == "loaded"
    assert networks.load("x") == "unchanged"
    making.version += 1
    assert networks.load("x") == "swapped"
    assert networks.load("x", force=True) == "swapped"
    assert ask(networks) == 2.0


def test_what_runs_finishes_on_the_old_network_and_what_comes_gets_the_new_one(
    making: Making, networks: Networks
) -> None:
    networks.load("x")
    first = networks.all()["x"]
    making.go.clear()
    with ThreadPoolExecutor(4) as pool:
        old = pool.submit(ask, networks)
        wait_until(lambda: making.made[0].runs == 2)
        swapping = pool.submit(networks.load, "x", True)
        wait_until(lambda: networks.all()["x"] is not first)
        new = pool.submit(ask, networks)
        wait_until(lambda: making.made[1].runs == 2)
        assert not swapping.done()
        making.go.set()
        assert (old.result(5), new.result(5)) == (0.0, 1.0)
        assert swapping.result(5) == "swapped"


def test_a_bad_file_is_refused_and_the_old_network_stays(
    making: Making, networks: Networks
) -> None:
    networks.load("x")
    making.failing = True
    with pytest.raises(CheckpointError, match="damaged"):
        networks.load("x", force=True)
    assert ask(networks) == 0.0


def test_a_network_that_cannot_run_is_refused_and_its_thread_ends(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.load("x")
    before = threading.active_count()

    def fail(self: Slow, batch: Batch) -> Maps:
        raise RuntimeError(f"no kernel for {self.answer} {batch.shape}")

    with monkeypatch.context() as patch:
        patch.setattr(Slow, "run", fail)
        with pytest.raises(CheckpointError, match="can be loaded but not run"):
            networks.load("x", force=True)
    assert threading.active_count() == before
    assert ask(networks) == 0.0


def test_names_that_come_to_nothing_leave_nothing(making: Making, networks: Networks) -> None:
    making.failing = True
    for number in range(20):
        with pytest.raises(CheckpointError):
            ask(networks, name=f"n{number}")
        with contextlib.suppress(Conflict, UnknownName):
            networks.unload(f"n{number}")
    assert not networks._turns


def test_two_loads_of_a_name_follow_one_another(networks: Networks) -> None:
    networks.load("x")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: networks.load("x", True), range(4)))
    assert done == ["swapped"] * 4
    assert ask(networks) == 4.0


def test_unloading_waits_for_what_runs_and_the_next_request_loads_again(
    making: Making, networks: Networks
) -> None:
    networks.load("x")
    making.go.clear()
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask, networks)
        wait_until(lambda: making.made[0].runs == 2)
        unloading = pool.submit(networks.unload, "x")
        wait_until(lambda: "x" not in networks)
        assert not unloading.done()
        making.go.set()
        assert running.result(5) == 0.0
        assert unloading.result(5) == "unloaded"
    assert networks.unload("x") == "unchanged"
    assert ask(networks) == 1.0


def test_what_was_counted_is_counted_after_the_end(making: Making) -> None:
    networks = making.networks()
    ask(networks)
    before = networks.counters()["x"].crops
    networks.close()
    assert networks.counters()["x"].crops == before == 1
    assert not networks.all()


def test_counters_go_on_through_swaps(networks: Networks) -> None:
    for _ in range(3):
        ask(networks)
        networks.load("x", force=True)
    networks.unload("x")
    assert networks.counters()["x"].crops == 3 + 3  # asked, and warmed
    assert BatchCounters(sizes={1: 2}) + BatchCounters(sizes={1: 1, 4: 1}) == BatchCounters(
        sizes={1: 3, 4: 1}
    )


def test_counters_never_fall_while_a_network_is_swapped(making: Making, networks: Networks) -> None:
    for _ in range(3):
        ask(networks)
    making.go.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, networks)
        wait_until(lambda: making.made[0].runs == 4)
        swapping = pool.submit(networks.load, "x", force=True)
        wait_until(lambda: bool(networks._leaving))
        assert networks.counters()["x"].crops >= 3
        making.go.set()
        assert (running.result(5), swapping.result(5)) == (0.0, "swapped")
    assert networks.counters()["x"].crops == 4 + 1


def test_nothing_is_loaded_once_closed(networks: Networks) -> None:
    networks.close()
    with pytest.raises(Overloaded, match="shutting down"):
        ask(networks)
    with pytest.raises(Overloaded, match="shutting down"):
        networks.load("x")


# Real networks in a folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny network's file by `<seed>.<ending>`, made once; seeds are other weights."""
    folder = tmp_path_factory.mktemp("made")

    def make(file: str) -> Path:
        path = folder / file
        form = "squeezenet1_1+simple" if path.stem == "pose" else "squeezenet1_1+classify"
        spec = default_spec(form, input_size=(64, 64))
        checkpoint = path.with_suffix(".safetensors")
        if not checkpoint.exists():
            torch.manual_seed(len(list(folder.iterdir())))
            save_checkpoint(checkpoint, spec, build(spec).state_dict())
        if not path.exists():
            pytest.importorskip("onnx", reason="onnx writes the file")
            export_onnx(load(checkpoint), path)
        return path

    return make


def put(file: Path, folder: Path) -> Path:
    """Places a file as `mine`, as a careful writer does: whole, at once."""
    part = folder / f".mine{file.suffix}.part"
    shutil.copy(file, part)
    return part.replace(folder / f"mine{file.suffix}")


def shown(engine: Engine, model: str = "mine") -> tuple[int, ...]:
    """Which classes the network finds: those of each seed are others."""
    answer = engine.classify(STREET, model, 5, Job())
    assert answer.model == model
    return tuple(c.index for c in answer.classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    made = Engine(models_dir=folder, runtime=RUNTIME, threads=1)
    yield made
    made.close()


Made = Callable[[str], Path]


def test_files_of_the_folder_are_served_and_listed_by_their_names(
    engine: Engine, folder: Path, made: Made
) -> None:
    with pytest.raises(UnknownName):
        engine.load("mine")
    put(made(f"1{ENDING}"), folder)
    (folder / "broken.safetensors").write_bytes(b"none")
    (folder / ".mine.part.safetensors").write_bytes(b"none")
    by_name = {info.name: info for info in engine.models()}
    assert by_name["mine"].state == "available"
    assert not {"broken", ".mine.part"} & set(by_name)
    assert engine.load("mine") == "loaded"
    assert engine.model("mine").state == "loaded"
    assert len(shown(engine)) == 5


@pytest.mark.parametrize("name", ["../mine", "..", "/etc/passwd", "a/b", "mine.safetensors", ""])
def test_a_name_leads_nowhere_else(engine: Engine, folder: Path, made: Made, name: str) -> None:
    put(made("1.safetensors"), folder)
    put(made("1.safetensors"), folder.parent)
    with pytest.raises(UnknownName):
        engine.load(name)


def test_a_changed_file_is_swapped_in_and_a_bad_one_is_not(
    engine: Engine, folder: Path, made: Made
) -> None:
    file = put(made(f"1{ENDING}"), folder)
    first = shown(engine)
    put(made(f"2{ENDING}"), folder)
    assert shown(engine) == first
    assert engine.load("mine") == "swapped"
    second = shown(engine)
    assert second != first
    whole = file.read_bytes()
    for damaged in (whole[:-100], b"", b"\0" * 100):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="mine"):
            engine.load("mine")
        assert shown(engine) == second
    put(made(f"pose{ENDING}"), folder)
    with pytest.raises(Conflict, match="is a classify network; one that can pose"):
        engine.load("mine")
    file.unlink()
    assert shown(engine) == second
    assert engine.model("mine").state == "loaded"
    assert engine.unload("mine") == "unloaded"
    with pytest.raises(UnknownName):
        shown(engine)


def test_a_file_that_was_loaded_and_is_gone_is_not_known(
    engine: Engine, folder: Path, made: Made
) -> None:
    file = put(made(f"1{ENDING}"), folder)
    engine.load("mine")
    file.unlink()
    with pytest.raises(UnknownName):
        engine.load("mine")


def test_the_file_given_at_start_keeps_its_name_whatever_takes_its_place(
    tmp_path: Path, made: Made
) -> None:
    file = Path(shutil.copy(made(f"1{ENDING}"), tmp_path))
    engine = Engine(model=str(file), runtime=RUNTIME, threads=1)
    name = engine.default
    spec = default_spec("squeezenet1_1+classify", input_size=(64, 64))
    spec = spec.model_copy(update={"name": "another"})
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, spec, build(spec).state_dict())
    if ENDING == ".onnx":
        export_onnx(load(other), file)
    else:
        other.replace(file)
    assert shown(engine, name)
    assert engine.load("default", force=True) in ("loaded", "swapped")
    assert shown(engine, name)
    assert name in {info.name for info in engine.models()}
    engine.close()


@pytest.mark.parametrize("damage", [slice(0, -100), slice(0, 0)])
def test_a_damaged_checkpoint_is_refused_before_it_is_exported(
    engine: Engine, folder: Path, made: Made, damage: slice
) -> None:
    file = put(made("1.safetensors"), folder)
    file.write_bytes(file.read_bytes()[damage])
    with pytest.raises(CheckpointError, match=r"mine\.safetensors"):
        engine.load("mine")


def test_an_exported_file_of_the_same_size_and_second_is_another_network(
    folder: Path, made: Made
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO keeps what it compiled")
    files = [made("1.onnx"), made("2.onnx")]
    assert files[0].stat().st_size == files[1].stat().st_size
    engine = Engine(models_dir=folder, runtime="openvino", threads=1)
    answers = []
    for file in files:
        os.utime(put(file, folder), (1e9, 1e9))
        engine.load("mine", force=True)
        answers.append(shown(engine))
    engine.close()
    assert answers[0] != answers[1]


def test_the_default_and_the_detector_stay_and_may_be_swapped(engine: Engine) -> None:
    for name in ("default", engine.default, engine.detector):
        with pytest.raises(Conflict, match="cannot be unloaded"):
            engine.unload(name)
    assert engine.load("default") == "loaded"
    assert engine.load("default") == "unchanged"
    assert engine.load("default", force=True) == "swapped"


def test_no_request_fails_while_networks_are_swapped_and_unloaded(
    engine: Engine, folder: Path, made: Made
) -> None:
    files = [made(f"1{ENDING}"), made(f"2{ENDING}")]
    put(files[0], folder)
    over = threading.Event()

    def ask_on() -> int:
        count = 0
        while not over.is_set():
            shown(engine)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_on) for _ in range(4)]
        try:
            for i in range(12):
                if i % 4 == 3:
                    engine.unload("mine")
                else:
                    put(files[i % 2], folder)
                    engine.load("mine")
        finally:
            over.set()
        assert all(future.result(30) > 0 for future in asking)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_fifty_swaps_leave_memory_and_threads_as_they_were(
    folder: Path, made: Made, runtime: RuntimeName
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime), reason="no runtime")
    files = [made("1.onnx"), made("2.onnx")]
    engine = Engine(models_dir=folder, runtime=runtime, threads=1)

    def swap(times: int) -> None:
        for i in range(times):
            put(files[i % 2], folder)
            engine.load("mine", force=True)
            shown(engine)

    swap(15)
    gc.collect()
    memory, threads = resident_mib(), threading.active_count()
    swap(50)
    gc.collect()
    grown = resident_mib() - memory
    assert threading.active_count() == threads
    engine.close()
    assert grown < 20, f"{grown:.1f} MiB more"
