"""COCO as it is downloaded: a published network goes on learning on it by one command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from heads.checkpoint import load_checkpoint
from heads.network import build
from hrpose import app
from training.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "hrnet_w32_coco_256x192.toml"


def write_coco(folder: Path, data: Path, people: int) -> None:
    """annotations/, train2017/ and val2017/, with the first people of each part."""
    (folder / "annotations").mkdir(parents=True)
    for part in ("train", "val"):
        content: dict[str, Any] = json.loads((data / part / f"{part}.json").read_text())
        named = [a for a in content["annotations"] if a["num_keypoints"] >= 10][:people]
        ids = {annotation["image_id"] for annotation in named}
        images = [image for image in content["images"] if image["id"] in ids]
        (folder / f"{part}2017").mkdir()
        for image in images:
            shutil.copy(data / part / "images" / image["file_name"], folder / f"{part}2017")
        few = content | {"images": images, "annotations": named}
        file = folder / "annotations" / f"person_keypoints_{part}2017.json"
        file.write_text(json.dumps(few))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A pose network under the tensor names of the official code."""
    torch.manual_seed(0)
    ours = build(read_recipe(RECIPE).spec()).state_dict()
    named = {k.removeprefix("backbone.").removeprefix("head."): v for k, v in ours.items()}
    torch.save(named, tmp_path / "pose_hrnet_w32_256x192.pth")
    return tmp_path / "pose_hrnet_w32_256x192.pth"


@pytest.mark.slow
def test_a_published_network_goes_on_learning_by_one_command(
    shared: Path, tmp_path: Path, published: Path
) -> None:
    """Two steps of it on a processor, at a rate of next to nothing: its weights are still those."""
    write_coco(tmp_path / "coco", shared / "data", 4)
    changes = {
        "data.root": tmp_path / "coco",
        "network.init": published,
        "network.backbone_init": "",
        "optimisation.device": "cpu",
        "optimisation.epochs": 1,
        "optimisation.batch": 2,
        "optimisation.accumulate": 1,
        "optimisation.precision": "auto",
        "optimisation.milestones": [1],
        "optimisation.learning_rate": 1e-12,
        "optimisation.workers": 0,
        "watch.log_every": 1,
    }
    given = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["train", str(RECIPE), "--runs", str(tmp_path / "runs"), *given])
    assert done.exit_code == 0, done.output
    run = tmp_path / "runs" / RECIPE.stem
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["crops"] for line in lines] == [2, 4, 4]
    assert all(line["loss"] > 0 for line in lines[:2])
    assert lines[2]["boxes"] == "annotated boxes, flip test"
    before = torch.load(published, weights_only=True)
    after = load_checkpoint(run / "best.safetensors")[1]
    for name, weight in after.items():
        if name.endswith("weight"):
            there = before[name.removeprefix("backbone.").removeprefix("head.")]
            torch.testing.assert_close(weight, there, atol=1e-6, rtol=0)
