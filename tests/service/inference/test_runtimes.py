"""Runtimes beside torch: same answers, whoever else asks; and what happens where one cannot be."""

import importlib.util
import logging
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

import hrpose
from heads.center_codec import BOX_MAPS
from heads.checkpoint import save_checkpoint
from heads.errors import CheckpointError, ExportError
from heads.export import export_onnx
from heads.files import alone_in
from heads.load import load
from heads.network import build
from heads.onnx_file import read_onnx_spec
from heads.spec import NetworkSpec, default_spec
from service.errors import InvalidParameter, RuntimeMissing
from service.inference import exports
from service.inference.answers import PoseOptions
from service.inference.engine import Engine
from service.inference.exports import Exports
from service.inference.job import Job
from service.inference.loading import Loader, RuntimeName, choose
from service.inference.parity import _differences, measure
from service.inference.runtime import (
    OnnxRuntime,
    OpenVinoRuntime,
    Precision,
    Runtime,
    TorchRuntime,
)
from tests.conftest import ROOT

STREET = ROOT / "docs" / "street.jpg"
EMBEDDED = (
    "mobilenet_v2_heatmap",
    "movenet_thunder",
    "movenet_multipose",
    "hrnet_w18_small",
    "efficientnet_lite0",
)
RANGE = 4e-5
"""How far an exact runtime may be from torch, over the range of a map."""


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


NEEDS_OPENVINO = needs("openvino", "onnx")
BOTH = [
    pytest.param("openvino", marks=NEEDS_OPENVINO),
    pytest.param("onnx", marks=needs("onnxruntime", "onnx")),
]


def make(runtime: str, file: Path, streams: int = 1, precision: Precision = "exact") -> Runtime:
    if runtime == "onnx":
        return OnnxRuntime(file, streams=streams)
    return OpenVinoRuntime(file, streams=streams, precision=precision)


def crops(spec: NetworkSpec, count: int = 6) -> Any:
    """Pieces of a photograph in the size of a network."""
    photo = hrpose.read_image(STREET)
    height, width = spec.input_size
    return np.stack([photo[i * 7 :, i * 11 :][:height, :width] for i in range(count)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The export of a network, made once."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    folder = tmp_path_factory.mktemp("exports")

    def file(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            export_onnx(load(name), path)
        return path

    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkpoint that is exported in a moment, of weights that know nothing."""
    spec = default_spec("squeezenet1_1+simple", input_size=(64, 64))
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, spec, build(spec).state_dict())
    return path


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize("name", EMBEDDED)
def test_exact_runtimes_answer_what_torch_answers(
    files: Callable[[str], Path], runtime: str, name: str
) -> None:
    (row,) = measure(load(name), [make(runtime, files(name))], [STREET])
    assert row.runtime == f"{runtime} exact"
    assert row.relative < RANGE
    if name != "efficientnet_lite0":
        assert row.keypoints >= 3 * 17
        assert row.sure_pixels is not None
        assert row.sure_pixels < 0.01


@pytest.mark.parametrize("name", EMBEDDED)
def test_folded_torch_answers_what_torch_answers(name: str) -> None:
    network = load(name)
    runtime = TorchRuntime(network, network.spec)
    (row,), (on_noise,) = (measure(network, [runtime], photos) for photos in ([STREET], []))
    assert max(row.relative, on_noise.relative) < RANGE
    assert (row.noise, on_noise.noise) == (False, True)


@NEEDS_OPENVINO
def test_fast_finds_the_same_people(files: Callable[[str], Path]) -> None:
    fast = make("openvino", files("movenet_thunder"), precision="fast")
    (row,) = measure(load("movenet_thunder"), [fast], [STREET])
    if row.runtime == "openvino exact":
        pytest.skip("this processor has no bfloat16")
    assert row.relative > RANGE
    assert row.sure_pixels is not None
    assert row.sure_pixels < 5


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_an_answer_does_not_depend_on_its_batch(
    files: Callable[[str], Path], runtime: str, precision: Precision
) -> None:
    made = make(runtime, files("movenet_thunder"), precision=precision)
    batch = crops(load("movenet_thunder").spec)
    together = made.run(batch)
    for i in range(len(batch)):
        for name, values in made.run(batch[i : i + 1]).items():
            np.testing.assert_array_equal(values[0], together[name][i])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a network whose crops OpenVINO takes in pairs."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    network = load("hrnet_w18_small")
    network.spec = network.spec.model_copy(update={"input_size": (192, 128)})
    export_onnx(network, path)
    return path


@NEEDS_OPENVINO
def test_small_crops_run_in_pairs(small: Path, files: Callable[[str], Path]) -> None:
    in_pairs, alone = make("openvino", small), make("openvino", files("movenet_thunder"))
    assert isinstance(in_pairs, OpenVinoRuntime)
    assert isinstance(alone, OpenVinoRuntime)
    assert (in_pairs.images_at_once, alone.images_at_once) == (2, 1)


@NEEDS_OPENVINO
def test_one_at_a_time_compiles_into_a_folder(small: Path, cache: Path) -> None:
    """OpenVINO writes in place what another process may have mapped."""
    cache.mkdir()
    with ThreadPoolExecutor(1) as threads, alone_in(cache):
        made = threads.submit(OpenVinoRuntime, small, cache=cache)
        time.sleep(0.3)
        assert not made.done()
        assert not list(cache.glob("*.blob"))
    assert made.result().streams == 1
    assert list(cache.glob("*.blob"))


@pytest.mark.parametrize("runtime", BOTH)
def test_threads_that_run_at_once_get_their_own_answers(small: Path, runtime: str) -> None:
    made, batch = make(runtime, small, streams=2), crops(read_onnx_spec(small), 16)
    wanted = made.run(batch)["output"]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = list(pool.map(lambda crop: made.run(crop[None])["output"][0], batch))
            np.testing.assert_array_equal(np.stack(found), wanted)


FIRST_AT_ONCE = """
import _thread, functools, operator, time
import openvino
from heads.openvino_core import core

core()
door, found, ask = _thread.allocate_lock(), [], openvino.Type.u8.to_dtype
door.acquire()
_thread.start_new_thread(lambda: (door.acquire(), found.append(ask())), ())
time.sleep(0.1)
# The other thread asks for Python's lock while we count, and has it as soon as `ask` lets go of it.
list(map(operator.call, [door.release, functools.partial(sum, range(10**7)), ask]))
while not found:
    time.sleep(0.01)
"""


def test_first_arrays_of_two_threads_do_not_wait_for_each_other() -> None:
    subprocess.run([sys.executable, "-c", FIRST_AT_ONCE], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("runtime", BOTH)
def test_whole_images_of_any_size_are_run(files: Callable[[str], Path], runtime: str) -> None:
    network = load("movenet_multipose")
    made = make(runtime, files("movenet_multipose"))
    torch_ = TorchRuntime(network, network.spec)
    for height, width in ((320, 480), (480, 320), (32, 64), (320, 480)):
        batch = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        found = made.run(batch)
        for name, values in torch_.run(batch).items():
            assert np.abs(values - found[name]).max() < RANGE * np.ptp(values)


@pytest.mark.parametrize("runtime", BOTH)
def test_a_detector_answers_the_maps_of_boxes_alone_and_the_same(
    files: Callable[[str], Path], runtime: RuntimeName
) -> None:
    loader = Loader(choose(runtime))
    whole = loader.load(files("movenet_multipose"))
    boxes = loader.load(files("movenet_multipose"), boxes_only=True)
    assert (whole.whole, boxes.whole) == (True, False)
    batch = np.random.default_rng(0).integers(0, 256, (2, 192, 288, 3), np.uint8)
    every, found = whole.runtime.run(batch), boxes.runtime.run(batch)
    assert set(found) == set(BOX_MAPS)
    for name, values in found.items():
        np.testing.assert_array_equal(values, every[name])
    pose = loader.load(files("hrnet_w18_small"), boxes_only=True)
    assert pose.whole  # a network without boxes: who takes it for a detector is told so later


@pytest.mark.parametrize("runtime", BOTH)
def test_a_detector_becomes_whole_when_it_is_asked_for_keypoints(runtime: RuntimeName) -> None:
    data, asked = STREET.read_bytes(), PoseOptions()
    with closing(Engine(runtime=runtime)) as engine, closing(Engine(runtime="torch")) as torch_:
        for each in (engine, torch_):
            each.start()
        before = engine.detect(data, None, None, 100, Job())
        found = engine.pose(data, "movenet_multipose", asked, Job())
        wanted = torch_.pose(data, "movenet_multipose", asked, Job())
        after = engine.detect(data, None, None, 100, Job())
    assert len(found.people) == len(wanted.people) == 3
    for mine, theirs in zip(found.people, wanted.people, strict=True):
        np.testing.assert_allclose(mine.keypoints, theirs.keypoints, atol=0.01)
    np.testing.assert_array_equal(after.boxes_xywh, before.boxes_xywh)


@pytest.mark.parametrize("runtime", BOTH)
def test_an_engine_answers_the_same_by_every_runtime(runtime: RuntimeName) -> None:
    data, answers = STREET.read_bytes(), []
    for name in ("torch", runtime):
        engine = Engine(runtime=name)
        engine.start()
        answers.append(engine.pose(data, "default", PoseOptions(), Job()))
        assert engine.runtime == f"{name} exact"
        assert engine.model("default").runtime == engine.runtime
        engine.close()
    wanted, found = ([p.keypoints for p in answer.people] for answer in answers)
    assert len(wanted) == 3
    np.testing.assert_allclose(found, wanted, atol=0.01)


@pytest.mark.parametrize("runtime", BOTH)
def test_an_exported_file_is_served_alone(
    files: Callable[[str], Path], cache: Path, runtime: RuntimeName
) -> None:
    engine = Engine(model=str(files("movenet_thunder")), detector="none", runtime=runtime)
    assert engine.default == "movenet_thunder"
    engine.start()
    box = PoseOptions(boxes_xywh=((326.0, 174.0, 71.0, 197.0),))
    answer = engine.pose(STREET.read_bytes(), "default", box, Job())
    info = engine.model("default")
    engine.close()
    assert len(answer.people) == 1
    assert (info.state, info.licence) == ("loaded", "Apache-2.0")
    assert not list(cache.rglob("*.onnx"))


def test_torch_says_that_it_runs_no_exported_file(files: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"torch does not run; .* pip install"):
        hrpose.load(files("hrnet_w18_small"), runtime="torch")


def test_an_exported_file_is_run_by_what_reads_it(files: Callable[[str], Path]) -> None:
    estimator = hrpose.load(files("hrnet_w18_small"))
    assert estimator.runtime == f"{choose().runtime} exact"


@pytest.mark.parametrize("runtime", BOTH)
def test_the_python_api_takes_a_runtime(runtime: RuntimeName, street: Any) -> None:
    estimator = hrpose.load("hrnet_w18_small", runtime=runtime)
    assert estimator.runtime == f"{runtime} exact"
    box = (326.0, 174.0, 71.0, 197.0)
    (person,) = estimator.predict(street, [box])
    (wanted,) = hrpose.load("hrnet_w18_small").predict(street, [box])
    np.testing.assert_allclose(person.keypoints, wanted.keypoints, atol=0.01)
    assert estimator.network.spec == estimator.spec


def test_auto_takes_the_fastest_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: set[str] = set()
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n in absent else there(n) or object()
    )
    assert choose().runtime == "openvino"
    assert choose(device="cuda").runtime == "torch"
    absent.add("openvino")
    assert choose().runtime == "onnx"
    absent.add("onnxruntime")
    assert choose().runtime == "torch"
    with pytest.raises(RuntimeMissing, match=r"needs the package openvino.*'\.\[openvino\]'"):
        choose("openvino")
    with pytest.raises(RuntimeMissing, match=r"pip install '\.\[onnx\]'") as caught:
        Engine(runtime="onnx")
    assert (caught.value.package, caught.value.runtime) == ("onnxruntime", "onnx")


@pytest.mark.parametrize("runtime", BOTH)
def test_only_torch_runs_elsewhere_than_on_the_cpu(runtime: RuntimeName) -> None:
    with pytest.raises(InvalidParameter, match="needs runtime torch"):
        choose(runtime, device="cuda")


@pytest.mark.parametrize(
    ("runtime", "package"), [("openvino", "openvino"), ("onnx", "onnxruntime")]
)
def test_a_package_that_cannot_be_imported_is_named(
    files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, runtime: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeMissing, match=f"needs the package {package}"):
        make(runtime, files("hrnet_w18_small"))


@pytest.mark.parametrize("runtime", BOTH)
def test_what_a_runtime_cannot_read_is_named(tmp_path: Path, runtime: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"cannot read x\.onnx"):
        make(runtime, path)


@pytest.fixture
def exporting(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    pytest.importorskip("onnx", reason="onnx is not installed")
    caplog.set_level(logging.INFO, "hrpose")
    return caplog


def test_a_network_is_exported_once(
    cache: Path, tiny: Path, exporting: pytest.LogCaptureFixture
) -> None:
    first = Exports().get(tiny)
    assert first.is_relative_to(cache / "exports")
    before = first.stat().st_mtime_ns
    assert Exports().get(tiny) == first
    assert first.stat().st_mtime_ns == before
    assert exporting.text.count("once for this checkpoint") == 1
    assert read_onnx_spec(first) == load(tiny).spec


def test_servers_that_start_together_export_once(
    cache: Path, tiny: Path, exporting: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = set(pool.map(lambda _: Exports().get(tiny), range(3)))
    assert len(made) == 1
    assert len(list(cache.rglob("*.onnx"))) == 1
    assert exporting.text.count("once for this checkpoint") == 1


def test_a_changed_checkpoint_or_exporter_gets_an_export_of_its_own(
    cache: Path, tiny: Path, exporting: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cache, exporting
    made = [Exports().get(tiny)]
    spec = load(tiny).spec
    save_checkpoint(tiny, spec, build(spec).state_dict())
    made.append(Exports().get(tiny))
    monkeypatch.setattr(exports, "EXPORTER", -1)
    made.append(Exports().get(tiny))
    assert len({path.name for path in made}) == 3


@pytest.mark.parametrize("stem", ["m\udce8le", "é" * 120])
def test_a_checkpoint_may_have_any_name(cache: Path, tiny: Path, stem: str) -> None:
    made = Exports().get(tiny.rename(tiny.with_stem(stem)))
    assert made.is_relative_to(cache)


def test_a_damaged_export_is_made_anew(
    cache: Path, tiny: Path, exporting: pytest.LogCaptureFixture
) -> None:
    del cache
    path = Exports().get(tiny)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0x10
    path.write_bytes(damaged)
    assert Exports().get(tiny) == path
    assert path.read_bytes() == whole
    assert "it is made anew" in exporting.text


@pytest.mark.parametrize("runtime", BOTH)
def test_where_the_cache_cannot_be_written_a_temporary_folder_is_taken(
    tmp_path: Path,
    tiny: Path,
    exporting: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    runtime: RuntimeName,
) -> None:
    """A file stands where the folder should be: nobody, not even root, can write into it."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "file"))
    made = Exports()
    path = made.get(tiny)
    assert path.exists()
    assert "they are made again at every start" in exporting.text
    made.close()
    assert not path.exists()
    loader = Loader(choose(runtime))
    assert loader.load(tiny).runtime.words == f"{runtime} exact"
    loader.close()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 64 kB, in this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("runtime", BOTH)
def test_with_no_room_anywhere_torch_runs_the_network_and_the_log_says_so(
    cache: Path, tiny: Path, exporting: pytest.LogCaptureFixture, runtime: RuntimeName
) -> None:
    with full_disk():
        loaded = Loader(choose()).load(tiny)
        assert loaded.runtime.words == "torch exact"
        assert "File too large" in exporting.text
        assert "torch runs it instead" in exporting.text
        with pytest.raises(ExportError, match="neither to the cache nor to a temporary folder"):
            Loader(choose(runtime)).load(tiny)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_what_is_missing_or_damaged_is_said_as_by_torch(
    cache: Path, tmp_path: Path, exporting: pytest.LogCaptureFixture
) -> None:
    del cache, exporting
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors cannot be read"):
        Exports().get(tmp_path / "nowhere.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"x\.safetensors is damaged, truncated"):
        Exports().get(tmp_path / "x.safetensors")


@NEEDS_OPENVINO
def test_openvino_tells_nobody_that_it_is_used() -> None:
    code = (
        "import sys; from heads.openvino_core import openvino; openvino(); "
        "raise SystemExit(sys.modules.get('openvino_telemetry') is not None)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@NEEDS_OPENVINO
def test_a_signal_finds_its_handler_when_networks_are_gone(
    files: Callable[[str], Path],
) -> None:
    """OpenVINO takes the stack of signals along with its core (`_core` says how)."""
    code = """if True:
        import signal, sys
        from pathlib import Path
        from service.inference.runtime import OpenVinoRuntime
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        first, second = (OpenVinoRuntime(Path(sys.argv[1])) for _ in range(2))
        del first
        del second
        signal.raise_signal(signal.SIGTERM)
    """
    command = [sys.executable, "-c", code, str(files("movenet_thunder"))]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 3


@contextmanager
def served(runtime: str, log: Path) -> Iterator[tuple[str, int]]:
    """`hrpose serve` in a process of its own: its address and process number."""
    command = [sys.executable, "-X", "importtime", "-m", "hrpose", "serve", "--port", "0"]
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "--runtime", runtime], cwd=ROOT, stderr=stderr)
    try:
        deadline = time.monotonic() + 180
        while "INFO hrpose: ready" not in (said := log.read_text()):
            assert process.poll() is None, said[-2000:]
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.1)
        found = re.search(r"running on (http://[\d.]+:\d+)", said)
        assert found is not None
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait(30)


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("runtime", BOTH)
def test_a_server_without_torch_never_imports_it_and_needs_less_memory(
    tmp_path: Path, runtime: str
) -> None:
    memory, imports = {}, {}
    for name in (runtime, "torch"):
        log = tmp_path / f"{name}.log"
        with served(name, log) as (url, pid):
            for _ in range(3):
                answer = httpx2.post(
                    f"{url}/pose", files={"image": STREET.read_bytes()}, timeout=120
                )
                assert len(answer.json()["people"]) == 3
            assert httpx2.get(f"{url}/models", timeout=60).json()["runtime"] == f"{name} exact"
            memory[name] = resident_kib(pid)
        imports[name] = set(re.findall(r"^import time:.*\| +(\S+)$", log.read_text(), re.M))
    assert "torch" in imports["torch"]
    assert "numpy" in imports[runtime]
    assert not {name for name in imports[runtime] if name.split(".")[0] == "torch"}
    assert memory[runtime] < 0.8 * memory["torch"]


def test_a_stream_for_each_thread_is_used_at_once() -> None:
    """Two workers of a batcher meet within the runtime, which they could not in turns."""
    from service.inference.batcher import Batcher

    meeting = threading.Barrier(2, timeout=10)

    class Meeting:
        streams = 2
        words = "meeting"

        def run(self, batch: Any) -> Any:
            meeting.wait()
            return {"mean": batch.reshape(len(batch), -1).mean(axis=1).astype(np.float32)}

    batcher = Batcher("test", Meeting(), device=threading.Semaphore(2), workers=2)
    crops_ = [np.full((4, 4, 3), value, np.uint8) for value in (3, 5)]
    ran = batcher.run(crops_, Job())
    batcher.close()
    assert [float(r.maps["mean"]) for r in ran] == [3, 5]
    assert batcher.counters().batches == 2


@pytest.mark.parametrize("runtime", BOTH)
def test_threads_are_streams_only_without_torch(runtime: RuntimeName) -> None:
    assert choose("torch", threads=3).streams == 1
    assert choose(runtime, threads=3).streams == 3
    assert 1 <= choose(runtime).streams <= (os.cpu_count() or 1)


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize(
    ("threads", "each", "streams"), [(8, 2, 4), (5, 2, 2), (2, 2, 1), (2, 9, 1)]
)
def test_threads_an_image_leave_fewer_images_at_once(
    runtime: RuntimeName, threads: int, each: int, streams: int
) -> None:
    compute = choose(runtime, threads=threads, threads_per_image=each)
    assert compute.streams == streams
    assert compute.streams * compute.threads_per_image <= threads


@pytest.mark.parametrize("runtime", BOTH)
def test_two_threads_an_image_answer_as_one(small: Path, runtime: RuntimeName) -> None:
    batch = crops(read_onnx_spec(small), 3)
    alone, together = (
        Loader(choose(runtime, threads=2, threads_per_image=each)).load(small).runtime
        for each in (1, 2)
    )
    assert (alone.streams, together.streams) == (2, 1)
    found, wanted = (each.run(batch)["output"] for each in (together, alone))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_map_that_is_no_number_is_as_far_off_as_can_be() -> None:
    ones, none = ([{"output": np.full((1, 2, 2), value, np.float32)}] for value in (1.0, np.nan))
    assert _differences(ones, ones) == (0.0, 0.0)
    assert _differences(ones, none) == _differences(none, ones) == (np.inf, np.inf)
