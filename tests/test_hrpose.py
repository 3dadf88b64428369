"""The front door: the Python names others build on, and the command."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hrpose
from commands import pages
from commands.console import Refused, write_json
from heads import zoo
from heads.checkpoint import load_checkpoint, save_checkpoint
from heads.errors import CheckpointError, WeightsMissing
from heads.image import decode_image, encode_image
from heads.network import build
from heads.spec import default_spec
from heads.zoo import locate
from models import list_backbones
from models.errors import HrposeError, ShapeError, SpecError, UnknownName, WeightsError
from service.errors import InvalidParameter
from service.settings import Settings
from tests.conftest import ROOT

STREET = ROOT / "docs" / "street.jpg"


@pytest.fixture(scope="module")
def estimator() -> hrpose.Estimator:
    return hrpose.load("default")


def run(*arguments: str | Path, ok: bool = True) -> str:
    result = CliRunner().invoke(hrpose.app, [str(a) for a in arguments])
    assert (result.exit_code == 0) == ok, (result.output, result.exception)
    return result.output


def test_default_finds_people_in_a_photograph(estimator: hrpose.Estimator, street: Any) -> None:
    assert estimator.spec.name == "mobilenet_v2_heatmap"
    people = estimator.predict(street)
    assert len(people) == 3
    assert all(p.keypoints.shape == (17, 3) and p.keypoints.dtype == np.float32 for p in people)
    given = estimator.predict(street, [people[0].box_xywh])
    assert len(given) == 1
    np.testing.assert_allclose(given[0].keypoints, people[0].keypoints, atol=1e-3)


def test_a_detector_of_ones_own_finds_the_boxes(tmp_path: Path, street: Any) -> None:
    """A copy of the embedded one that looks once: other boxes, found by the same people."""
    spec, tensors = load_checkpoint(locate("movenet_multipose"))
    view = spec.view.model_copy(update={"glance": None})
    file = tmp_path / "own.safetensors"
    save_checkpoint(file, spec.model_copy(update={"name": "own", "view": view}), tensors)
    people = hrpose.load("default", detector=file).predict(street)
    boxes = np.array([p.box_xywh for p in people])
    embedded = np.array([p.box_xywh for p in hrpose.load("default").predict(street)])
    assert boxes.shape == embedded.shape == (3, 4)
    assert 1 < np.abs(boxes - embedded).max() < 40


def test_without_a_detector_the_whole_image_is_the_box(street: Any) -> None:
    (person,) = hrpose.load("default", detector="none").predict(street, threshold=0.0)
    assert person.box_xywh == (0, 0, 640, 428)


def test_a_detector_that_finds_nobody_is_refused(street: Any) -> None:
    estimator = hrpose.load("default", detector="movenet_thunder")
    with pytest.raises(InvalidParameter, match="movenet_thunder finds no people"):
        estimator.predict(street)


def test_the_network_is_a_torch_module() -> None:
    hrnet = hrpose.load("hrnet_w18_small")
    assert isinstance(hrnet.network, torch.nn.Module)
    height, width = hrnet.spec.input_size
    with torch.inference_mode():
        maps = hrnet.network(torch.zeros(2, 3, height, width))
    assert maps.shape == (2, 17, height // 4, width // 4)


def test_a_checkpoint_of_ones_own_is_served_without_configuration(
    tmp_path: Path, street: Any
) -> None:
    spec = default_spec("mobilenet_v2+deconv", input_size=(64, 64))
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, spec, build(spec).state_dict())
    own = hrpose.load(path)
    assert own.spec == spec
    assert len(own.predict(street, [(10, 10, 100, 200)])) == 1


def test_a_public_file_needs_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(build(default_spec("resnet18+simple")).state_dict(), path)
    loaded = hrpose.load(path, network="resnet18+simple")
    assert (loaded.spec.alignment, loaded.spec.codec.refine) == ("legacy", "quarter")
    with pytest.raises(CheckpointError, match=r"pass network='<backbone>\+<head>'"):
        hrpose.load(path)


def test_unknown_and_missing_networks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    with pytest.raises(UnknownName, match=r"'hrnet_w99'.*movenet_thunder"):
        hrpose.load("hrnet_w99")
    with pytest.raises(WeightsMissing, match="hrpose weights get hrnet_w32"):
        hrpose.load("hrnet_w32")


def test_what_is_no_image_or_box_is_refused(estimator: hrpose.Estimator, street: Any) -> None:
    odd: Any
    for odd in (street.astype(np.float32), [[1]], None):
        with pytest.raises(ShapeError, match="RGB uint8"):
            estimator.predict(odd)
    for box in ((0, 0, 0, 10), (float("nan"), 0, 10, 10), (9000, 0, 10, 10)):
        with pytest.raises(InvalidParameter, match="box"):
            estimator.predict(street, [box])


def test_create_backbone_builds_only_what_is_asked_for() -> None:
    backbone = hrpose.create_backbone("hrnet_w32", strides=(4,))
    assert [spec.stride for spec in backbone.specs] == [4]


def test_predict_draws_and_writes(tmp_path: Path) -> None:
    output = run("predict", STREET, "--out", tmp_path, "--json", tmp_path / "a.json")
    assert "3 people" in output
    drawn = decode_image((tmp_path / "street.png").read_bytes())
    assert drawn.shape == (428, 640, 3)
    answer = json.loads((tmp_path / "a.json").read_text())
    assert answer["model"] == "mobilenet_v2_heatmap"
    assert answer["photos"][0]["people"][0]["keypoints"][0]["name"] == "nose"


PNG = encode_image(np.zeros((8, 8, 3), np.uint8), "png")


@pytest.mark.parametrize(
    ("photos", "out", "said"),
    [
        (["a.jpg", "a.png"], ".", "the picture of a.jpg would take the place of the photograph"),
        (["a.png"], "nested/..", "the picture of a.png would take the place of the photograph"),
        (["link.png"], ".", "the picture of link.png would take the place"),
        (["a.jpg", "other/a.jpg"], "out", "a.jpg and other/a.jpg would both be drawn as out/a.png"),
        (["a.jpg"], "a.png", "a.png is no folder"),
    ],
)
def test_predict_writes_over_no_photograph_and_no_other_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[str], out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("commands.predict.load", lambda *_, **__: pytest.fail("it began to work"))
    for name in ("a.jpg", "a.png", "other/a.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(PNG)
    Path("nested").mkdir()
    Path("link.png").symlink_to("a.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = CliRunner().invoke(hrpose.app, ["predict", *photos, "--out", out])
    assert result.exit_code
    assert said in " ".join(f"{result.exception} {result.output}".replace("│", " ").split())
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_predict_looks_through_folders_and_goes_on_after_a_bad_photograph(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.jpg").write_bytes(b"no photograph")
    (folder / "c.png").write_bytes(PNG)
    asked = ["predict", str(folder), "--detector", "none", "--json", str(tmp_path / "a.json")]
    result = CliRunner().invoke(hrpose.app, [*asked, "--threshold", "0"])
    assert result.exit_code == 1
    assert "b.jpg: not an image" in result.output
    answer = json.loads((tmp_path / "a.json").read_text())
    assert [Path(photo["image"]).name for photo in answer["photos"]] == ["a.png", "c.png"]
    assert [len(photo["people"]) for photo in answer["photos"]] == [1, 1]
    CliRunner().invoke(hrpose.app, [*asked, "--threshold", "1"])
    answer = json.loads((tmp_path / "a.json").read_text())
    assert [len(photo["people"]) for photo in answer["photos"]] == [0, 0]


def test_predict_goes_on_after_a_photograph_that_a_box_lies_outside_of(tmp_path: Path) -> None:
    """Brackets in names are no markup."""
    large = tmp_path / "large [red].png"
    large.write_bytes(encode_image(np.zeros((300, 300, 3), np.uint8), "png"))
    (tmp_path / "small [x].png").write_bytes(PNG)
    boxes = ["--boxes", "[[100, 100, 90, 90]]", "--json", str(tmp_path / "a.json")]
    result = CliRunner().invoke(hrpose.app, ["predict", str(tmp_path), *boxes])
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "large [red].png: 1 people" in said
    assert "small [x].png: box [100.0, 100.0, 90.0, 90.0]" in said
    answer = json.loads((tmp_path / "a.json").read_text())
    assert [Path(photo["image"]).name for photo in answer["photos"]] == [large.name]


def test_predict_looks_at_the_pixels_that_the_server_looks_at(tmp_path: Path) -> None:
    """Of a large JPEG those of a smaller decoding."""
    large = tmp_path / "large.jpg"
    street = hrpose.read_image(Path(STREET))
    pixels = np.asarray(cv2.resize(street, (2560, 1712), interpolation=cv2.INTER_CUBIC), np.uint8)
    large.write_bytes(encode_image(pixels, quality=90))
    run("predict", large, "--model", "hrnet_w18_small", "--json", tmp_path / "a.json")
    (photo,) = json.loads((tmp_path / "a.json").read_text())["photos"]
    with hrpose.load("hrnet_w18_small") as estimator:
        people = estimator.predict(hrpose.read_photo(large))
    found = [[(p["x"], p["y"], p["score"]) for p in each["keypoints"]] for each in photo["people"]]
    np.testing.assert_allclose(found, [person.keypoints for person in people], atol=1e-3)


@pytest.mark.parametrize("given", [["--cluster", "0"], ["--int8", "--out", "small.txt"]])
def test_compress_says_what_is_wrong_before_it_works(tmp_path: Path, given: list[str]) -> None:
    out = ["--out", str(tmp_path / "small.safetensors")]
    result = CliRunner().invoke(hrpose.app, ["compress", "hrnet_w18_small", *out, *given])
    assert result.exit_code
    assert "choose one" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_compress_writes_over_no_network_and_reads_the_annotations_first(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    spec = default_spec("mobilenet_v2+deconv", input_size=(64, 64))
    save_checkpoint(own, spec, build(spec).state_dict())
    before = own.read_bytes()
    for out, more, said in (
        (own, [], "name another"),
        (tmp_path / "x.safetensors", ["--annotations", str(tmp_path / "no.json")], "no.json"),
    ):
        asked = ["compress", str(own), "--int8", "--out", str(out), *more]
        result = CliRunner().invoke(hrpose.app, asked)
        assert result.exit_code
        assert said in f"{result.exception} {result.output}"
    assert own.read_bytes() == before
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize(
    ("form", "given", "said"),
    [
        ("squeezenet1_1+classify", ["--images", "nowhere"], "nowhere cannot be read"),
        ("squeezenet1_1+classify", ["--images", str(ROOT / "README.md")], "not an image"),
        ("squeezenet1_1+classify", ["--images", "EMPTY"], "holds no photograph"),
        ("mobilenet_v2+simple", ["--images", "nowhere"], "no folder of photographs"),
        ("mobilenet_v2+segment", ["--images", ".", "--annotations", "TRUTH"], "do not measure it"),
    ],
)
def test_compress_refuses_what_it_cannot_be_measured_by_first(
    form: str, given: list[str], said: str, tmp_path: Path
) -> None:
    spec = default_spec(form, input_size=(64, 64))
    save_checkpoint(tmp_path / "own.safetensors", spec, build(spec).state_dict())
    (tmp_path / "empty").mkdir()
    names = list(hrpose.COCO_17.keypoints)
    category = {"id": 1, "name": "person", "keypoints": names}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": [], "annotations": [], "categories": [category]}))
    paths = {"EMPTY": str(tmp_path / "empty"), "TRUTH": str(truth)}
    out = tmp_path / "small.safetensors"
    asked = ["compress", str(tmp_path / "own.safetensors"), "--int8", "--out", str(out)]
    result = CliRunner().invoke(hrpose.app, [*asked, *(paths.get(word, word) for word in given)])
    assert isinstance(result.exception, HrposeError)
    assert said in str(result.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["profile", "nofile.safetensors"], "nofile.safetensors"),
        (["profile", "mobilenet_v2_heatmap", "--head", "classify"], "has a head of its own"),
        (["export", "hrnet_w18_small", "--photo", "nope.jpg", "--out", "OUT"], "nope.jpg cannot"),
        (["quantize", "hrnet_w18_small", "--photos", "EMPTY", "--out", "OUT/q.onnx"], "holds no"),
        (["predict", str(STREET), "--model", "OUT/x.xml"], "does not say what network"),
        (["profile", "OUT/x.onnx"], "an exported network"),
        (
            ["train", str(ROOT / "recipes/custom.toml"), "--minutes=-1"],
            "greater than or equal to 0",
        ),
        (["weights", "verify", "hrnet_w32"], "hrnet_w32: missing"),
    ],
)
def test_what_cannot_be_done_is_said_first_and_in_its_own_words(
    asked: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "EMPTY").mkdir()
    out = tmp_path / "OUT"
    out.mkdir()
    for name in ("x.xml", "x.onnx"):
        (out / name).touch()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(hrpose.app, asked)
    assert result.exit_code
    told = " ".join(f"{result.exception} {result.output}".split())
    assert said in told
    assert "there is no network called" not in told
    assert {path.name for path in out.iterdir()} == {"x.xml", "x.onnx"}


def test_a_damaged_public_file_is_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    with pytest.raises(WeightsMissing):
        hrpose.load("hrnet_w32")
    where = zoo.cache_dir() / zoo.find("hrnet_w32").file
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=r"is damaged; `hrpose weights get hrnet_w32`"):
        hrpose.load("hrnet_w32")


def test_a_runtime_that_there_is_none_of_is_refused() -> None:
    runtime: Any = "tensorrt"
    with pytest.raises(InvalidParameter, match="auto, openvino, onnx, torch; got 'tensorrt'"):
        hrpose.load("default", runtime=runtime)


def test_commands_let_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(hrpose, "app", lambda: None)
    hrpose.main()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["GOMP_SPINCOUNT"] == "0"


@pytest.mark.parametrize(
    "asked",
    [
        ["export", "hrnet_w18_small", "--out"],
        ["predict", str(STREET), "--out"],
        ["evaluate", "--annotations", "a.json", "--images", ".", "--results"],
    ],
)
def test_a_folder_that_cannot_be_is_refused_before_there_is_work(
    tmp_path: Path, asked: list[str]
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        result = CliRunner().invoke(hrpose.app, [*asked, str(folder)])
        assert result.exit_code == 2
        assert "no folder that" in result.output


def test_predict_draws_into_the_same_folder_again(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(PNG)
    asked = ("predict", photo, photo, "--out", tmp_path / "out", "--detector", "none")
    for _ in range(2):
        run(*asked)
    assert decode_image((tmp_path / "out" / "a.png").read_bytes()).shape == (8, 8, 3)
    assert photo.read_bytes() == PNG


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        (["predict", STREET], "commands.predict.load"),
        (["classify", STREET], "commands.classify.load"),
        (["evaluate", "--annotations", STREET, "--images", "."], "commands.evaluate.load"),
        (["profile", "resnet18"], "commands.profile._milliseconds"),
        (["models"], "commands.models.Engine"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str | Path], asks: str
) -> None:
    monkeypatch.setattr(asks, lambda *_, **__: pytest.fail("it began to work"))
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "x.json", tmp_path):
        result = CliRunner().invoke(hrpose.app, [*map(str, command), "--json", str(path)])
        assert result.exit_code == 2
        assert "--json" in result.output
        assert "written" in result.output


def test_the_folder_of_a_result_is_made(tmp_path: Path) -> None:
    run("models", "--json", tmp_path / "not" / "here" / "m.json")
    assert json.loads((tmp_path / "not" / "here" / "m.json").read_text())["models"]


def test_a_result_that_can_no_longer_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    """Somebody made a folder of that name meanwhile."""
    with pytest.raises(HrposeError, match="cannot be written: Is a directory"):
        write_json(tmp_path, {})


def test_an_export_for_openvino_leaves_an_onnx_of_before_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    checkpoint = tmp_path / "own.safetensors"
    spec = default_spec("squeezenet1_1+simple", input_size=(64, 64))
    before = tmp_path / f"{spec.name}.onnx"
    save_checkpoint(checkpoint, spec, build(spec).state_dict())
    before.write_bytes(b"of before")
    run("export", checkpoint, "--format", "openvino", "--out", tmp_path)
    assert before.read_bytes() == b"of before"
    made = {path.name for path in tmp_path.iterdir()} - {before.name, checkpoint.name}
    assert made == {f"{spec.name}.xml", f"{spec.name}.bin"}


def test_predict_takes_boxes(tmp_path: Path) -> None:
    run("predict", STREET, "--boxes", "[[326,174,71,197]]", "--json", tmp_path / "a.json")
    people = json.loads((tmp_path / "a.json").read_text())["photos"][0]["people"]
    assert [p["box"] for p in people] == [[326, 174, 71, 197]]
    assert "boxes are" in run("predict", STREET, "--boxes", "[[1,2]]", ok=False)


def test_profile_takes_trained_networks(tmp_path: Path) -> None:
    output = run("profile", "movenet_thunder", "--no-layers")
    assert "movenet_thunder at 256x256: 6,226,046 parameters, 1.2" in output
    assert "its own weights" in output
    assert "hrnet_w18_small at 256x192" in run("profile", "hrnet_w18_small", "--no-layers")
    spec = default_spec("mobilenet_v2+deconv", input_size=(64, 64))
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, spec, build(spec).state_dict())
    assert "at 64x64" in run("profile", path, "--no-layers").replace("\n", " ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "/no/such"), "/no/such: No such file"),
        (OSError(28, "No space left on device"), "hrpose: No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(hrpose, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        hrpose.main()
    assert ended.value.code == 1
    assert said in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(hrpose, "app", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        hrpose.main()


def test_predict_takes_a_detector() -> None:
    assert "1 people" in run("predict", STREET, "--detector", "none", "--flip-test")


def test_profile_prints_the_published_cost(tmp_path: Path) -> None:
    output = run("profile", "hrnet_w32+simple", "--json", tmp_path / "p.json")
    assert "28,536,113 parameters, 7.645 G multiply-adds" in output
    told = json.loads((tmp_path / "p.json").read_text())
    assert told["multiply_adds"] == 7_645_003_776
    assert sum(layer["parameters"] for layer in told["layers"]) == 28_536_113
    assert told["milliseconds"] > 0
    assert told["peak_activation_bytes"] < told["bytes_written"] < told["bytes_read"]


@pytest.mark.parametrize(
    ("name", "task", "network"),
    [
        ("hrnet_w18_small", "pose", "hrnet_w18_small+simple at 256x192"),
        ("resnet18", "pose", "resnet18+deconv at 256x192"),
        ("squeezenet1_1", "pose", "squeezenet1_1+simple at 256x192"),
        ("squeezenet1_1", "classify", "squeezenet1_1+classify at 224x224"),
        ("squeezenet1_1", "segment", "squeezenet1_1+segment at 512x1024"),
    ],
)
def test_profile_takes_the_usual_head_for_a_task(name: str, task: str, network: str) -> None:
    assert network in run("profile", name, "--head", task, "--no-layers")


def test_models_lists_every_network(tmp_path: Path) -> None:
    output = run("models", "--json", tmp_path / "m.json")
    assert "mobilenet_v2_heatmap (default)" in output
    models = {m["name"]: m for m in json.loads((tmp_path / "m.json").read_text())["models"]}
    assert models["hrnet_w48"]["state"] == "weights-missing"
    assert models["movenet_multipose"]["task"] == "people"


def test_train_makes_what_serves(tmp_path: Path) -> None:
    """A few steps on drawn people, by the command; the file answers at once."""
    from training.synthetic import write_dataset

    write_dataset(tmp_path, 3)
    recipe = (ROOT / "recipes" / "custom.toml", "--data", tmp_path, "--runs", tmp_path / "runs")
    data = [f"data.{name}=people.json" for name in ("train", "val")]
    data += [f"data.{name}_images=." for name in ("train", "val")]
    small = [
        "name=drawn", "network.backbone={name='mobilenet_v2', options={width_multiplier=0.1}}",
        "network.input_size=[64, 64]", "network.backbone_init=", "network.init=", "data.weights={}",
        "optimisation.epochs=1", "optimisation.samples_per_epoch=8", "optimisation.batch=4",
        "optimisation.workers=0", "optimisation.device=cpu", "optimisation.warmup_steps=1",
    ]  # fmt: skip
    changes = [word for change in (*data, *small) for word in ("--set", change)]
    best = Path(run("train", *recipe, *changes).strip().splitlines()[-1])
    assert best == tmp_path / "runs" / "drawn" / "best.safetensors"
    people = hrpose.load(best).predict(hrpose.read_image(STREET), [(326, 174, 71, 197)])
    assert people[0].keypoints.shape == (17, 3)
    stopped = run("train", *recipe, *changes, "--set", "name=stopped", "--minutes", "0")
    assert "stopped before an epoch was done; the same command goes on" in stopped


def test_models_lists_every_backbone_under_each_kind_of_head(tmp_path: Path) -> None:
    run("models", "--all", "--json", tmp_path / "m.json")
    models = {m["name"]: m for m in json.loads((tmp_path / "m.json").read_text())["models"]}
    assert models["resnet18+deconv"]["state"] == "weights-missing"
    assert models["efficientnet_lite0+classify"]["state"] == "available"
    for backbone in list_backbones():
        assert sum(name.startswith(f"{backbone}+") for name in models) == 3


PHOTOS = ROOT / "tests" / "data"  # from scikit-image, public domain


def test_classify_names_what_photographs_show(tmp_path: Path) -> None:
    names = ("cat", "coffee", "rocket")
    output = run("classify", *(PHOTOS / f"{n}.jpg" for n in names), "--json", tmp_path / "c.json")
    answers = json.loads((tmp_path / "c.json").read_text())
    assert answers["model"] == "efficientnet_lite0"
    first = [photo["classes"][0]["name"] for photo in answers["photos"]]
    assert first == ["tiger cat", "espresso", "missile"]
    assert [len(photo["classes"]) for photo in answers["photos"]] == [3, 3, 3]
    assert "espresso 0.9" in output


def test_classify_refuses_a_network_that_cannot() -> None:
    with pytest.raises(SpecError, match="movenet_thunder is a pose network; it cannot classify"):
        hrpose.load("movenet_thunder").classify(hrpose.read_image(PHOTOS / "cat.jpg"))


def test_embedded_weights_verify() -> None:
    output = run("weights", "verify", "movenet_thunder", "movenet_multipose", "hrnet_w18_small")
    assert output.count("ok") == 3


def test_of_all_weights_those_that_are_here_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    lines = run("weights", "verify").splitlines()
    assert "hrnet_w18_small: ok" in lines
    assert not any("missing" in line for line in lines)


def test_evaluate_measures_and_writes_results(tmp_path: Path) -> None:
    estimator = hrpose.load("default")
    image = np.ascontiguousarray(decode_image(STREET.read_bytes()))
    people = estimator.predict(image)
    annotations: list[dict[str, Any]] = [
        {
            "id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
            "bbox": list(p.box_xywh), "area": p.box_xywh[2] * p.box_xywh[3] * 0.5,
            "keypoints": [v for x, y, _ in p.keypoints for v in (float(x), float(y), 2)],
        }
        for i, p in enumerate(people)
    ]  # fmt: skip
    names = list(hrpose.COCO_17.keypoints)
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 428}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": names}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "a.png").write_bytes(encode_image(image, "png"))
    common = ("evaluate", "--annotations", tmp_path / "truth.json", "--images", tmp_path)
    wanted = ("--model", "default", "--json", tmp_path / "s.json", "--results", tmp_path / "r")
    for boxes, words in (("gt", "annotated boxes"), ("detector", "boxes of movenet_multipose")):
        assert words in run(*common, *wanted, "--boxes", boxes)
        (scores,) = json.loads((tmp_path / "s.json").read_text())["scores"]
        assert scores["ap"] > 0.99
        assert scores["boxes"] == words
        written = json.loads((tmp_path / "r" / f"mobilenet_v2_heatmap.{boxes}.json").read_text())
        assert len(written) >= 3
    whole = run(*common, "--model", "default", "--detector", "none", "--by-keypoint")
    assert "whole images" in whole
    shown = dict(line.rsplit(maxsplit=1) for line in whole.splitlines() if line.strip())
    wanted_rows = {*names, "all", "PCKh@0.5", "AUC", "EPE, pixels"}
    assert wanted_rows <= {name.strip() for name in shown}
    assert "PCK@0.2 (torso)" in whole
    # A copy has the same name within, and answers of its own.
    own = tmp_path / "own.safetensors"
    own.write_bytes(locate("mobilenet_v2_heatmap").read_bytes())
    run(*common, *wanted, "--model", own, "--boxes", "gt")
    short = truth | {"categories": [{"id": 1, "name": "person", "keypoints": names[:5]}]}
    fewer = [a | {"keypoints": a["keypoints"][:15], "num_keypoints": 5} for a in annotations]
    (tmp_path / "short.json").write_text(json.dumps(short | {"annotations": fewer}))
    asked = [*common[:1], "--annotations", tmp_path / "short.json", *common[3:], "--model", own]
    refused = CliRunner().invoke(hrpose.app, [*map(str, asked), "--boxes", "gt"])
    assert "has 5 keypoints, mobilenet_v2_heatmap finds 17" in str(refused.exception)
    lost = run(*common, "--model", own, "--boxes", tmp_path / "nowhere.json", ok=False)
    assert "there is no file" in lost
    scores = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert [row["model"] for row in scores] == ["mobilenet_v2_heatmap", str(own)]
    assert len(list((tmp_path / "r").glob("*own.safetensors.gt.json"))) == 1


def test_errors_are_one_line_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    monkeypatch.setattr("sys.argv", ["hrpose", "predict", str(tmp_path / "x.jpg")])
    with pytest.raises(SystemExit) as stopped:
        hrpose.main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "x.jpg: not an image" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["--allow-random", "--port", "8123"], True),
        (["--no-allow-random", "--port", "8123"], False),
        (["--port", "8123"], False),
    ],
)
def test_a_switch_of_the_server_is_said_without_a_value(
    monkeypatch: pytest.MonkeyPatch, said: list[str], meant: bool
) -> None:
    """As the answer 409 advises: hrpose serve --allow-random."""
    started: list[Settings] = []
    monkeypatch.setattr("service.app.run", started.append)
    run("serve", *said)
    (settings,) = started
    assert (settings.allow_random, settings.port) == (meant, 8123)


def test_the_settings_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == pages.configuration_page(), "run `make docs`"


def test_the_backbones_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "backbones.md").read_text()
    assert page == pages.backbones_page(ROOT / "docs" / "parity.json"), "run `make docs`"


@pytest.mark.parametrize("content", ["{bad", "[1, 2]", "{}", '{"hrnet_w18": 1}'])
def test_a_file_that_tells_no_differences_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "parity.json").write_text(content)
    said = CliRunner().invoke(hrpose.app, ["backbones", "--parity", str(tmp_path / "parity.json")])
    assert isinstance(said.exception, Refused)


def test_no_command_writes_over_what_it_reads(tmp_path: Path) -> None:
    photo = Path(shutil.copy(STREET, tmp_path / "own.jpg"))
    weights = Path(shutil.copy(ROOT / "heads/pretrained/hrnet_w18_small.safetensors", tmp_path))
    labels = tmp_path / "labels.json"
    labels.write_text("{}")
    for read, command in (
        (photo, ["predict", photo]),
        (photo, ["classify", photo]),
        (weights, ["predict", photo, "--model", weights]),
        (weights, ["profile", weights]),
        (labels, ["data", "check", labels]),
        (labels, ["evaluate", "--annotations", labels, "--images", tmp_path]),
        (weights, ["compress", weights, "--int8", "--out", tmp_path / "out.safetensors"]),
    ):
        before = read.read_bytes()
        result = CliRunner().invoke(hrpose.app, [*map(str, command), "--json", str(read)])
        assert isinstance(result.exception, Refused), (command, result.output)
        assert read.read_bytes() == before
    sheet = ["data", "check", str(labels), "--sheet", str(labels)]
    assert isinstance(CliRunner().invoke(hrpose.app, sheet).exception, Refused)


def test_a_setting_that_cannot_be_meant_is_refused() -> None:
    assert "port" in run("serve", "--port", "99999", ok=False)
