"""Distillation: what a teacher says, and that a student learns it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heads.checkpoint import save_checkpoint
from heads.load import load
from heads.network import build, input_tensor
from heads.skeleton import Skeleton
from heads.spec import CodecSpec, NetworkSpec, default_spec
from training.errors import RecipeError
from training.loop import train
from training.pose import PoseTask
from training.recipe import read_recipe
from training.synthetic import write_dataset
from training.teacher import Teacher

CPU = torch.device("cpu")


def spec_of(size: tuple[int, int]) -> NetworkSpec:
    spec = default_spec("mobilenet_v2+simple", input_size=size)
    backbone = spec.backbone.model_copy(update={"options": {"width_multiplier": 0.1}})
    return spec.model_copy(update={"backbone": backbone})


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    spec = spec_of((64, 64))
    save_checkpoint(tmp_path / "teacher.safetensors", spec, build(spec).state_dict())
    return tmp_path / "teacher.safetensors"


def views(height: int, width: int) -> Tensor:
    smooth = np.random.default_rng(0).integers(0, 256, (2, height // 8, width // 8, 3), np.uint8)
    return torch.from_numpy(smooth.repeat(8, axis=1).repeat(8, axis=2))


def test_a_teacher_answers_as_it_would_alone(teacher_file: Path) -> None:
    network = load(teacher_file)
    images = views(64, 64)
    with torch.inference_mode():
        alone = network(input_tensor(network.spec, images))
    assert isinstance(alone, Tensor)
    said = Teacher(str(teacher_file), network.spec, CPU).heatmaps(images)
    torch.testing.assert_close(said, alone)
    said.requires_grad_()  # it may meet autograd


def test_a_compiled_teacher_says_what_torch_says(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    network, images = load(teacher_file), views(64, 64)
    compiled = Teacher(str(teacher_file), network.spec, CPU)
    assert compiled._compiled is not None
    said = [compiled.heatmaps(images[:n]) for n in (1, 2, 1)]
    monkeypatch.setitem(sys.modules, "openvino", None)
    eager = Teacher(str(teacher_file), network.spec, CPU)
    assert eager._compiled is None
    for n, maps in zip((1, 2, 1), said, strict=True):  # none is written over by the next
        torch.testing.assert_close(maps, eager.heatmaps(images[:n]))


@pytest.mark.parametrize(("size", "sigma"), [((128, 128), 4.0), ((96, 96), 3.0)])
def test_a_teacher_of_another_size_teaches_peaks_of_the_students_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], sigma: float
) -> None:
    """As published networks of 384x288, whose sigma is 3, teach those of 256x192, whose is 2."""
    student = spec_of((64, 64))
    spec = spec_of(size).model_copy(update={"codec": CodecSpec(sigma=sigma, unbiased=True)})
    file = tmp_path / "large.safetensors"
    save_checkpoint(file, spec, build(spec).state_dict())
    teacher = Teacher(str(file), student, CPU)
    point, labelled = np.array([[29.5, 33.5]]), np.ones(1)
    there = (point + 0.5) * size[0] / 64 - 0.5
    perfect = torch.from_numpy(spec.heatmap_codec().encode(there, labelled)[0])[None]
    monkeypatch.setattr(teacher._network, "forward", lambda _: perfect)
    said = teacher.heatmaps(views(64, 64)[:1])[0, 0]
    exact = student.model_copy(update={"codec": CodecSpec(unbiased=True)}).heatmap_codec()
    np.testing.assert_allclose(said, exact.encode(point, labelled)[0][0], atol=0.06)


def test_a_teacher_whose_peaks_would_be_narrow_is_refused(tmp_path: Path) -> None:
    spec = spec_of((128, 128))
    save_checkpoint(tmp_path / "large.safetensors", spec, build(spec).state_dict())
    with pytest.raises(RecipeError, match=r"sigma of 0\.98 x 0\.98 cells of .*; its own have 2"):
        Teacher(str(tmp_path / "large.safetensors"), spec_of((64, 64)), CPU)


def test_a_center_network_teaches_with_its_heatmaps() -> None:
    said = Teacher("movenet_thunder", spec_of((128, 96)), CPU).heatmaps(views(128, 96))
    assert said.shape == (2, 17, 32, 24)
    assert 0 <= said.min() < said.max() <= 1


@pytest.mark.parametrize("size", [(128, 96), (256, 256)])
def test_a_teachers_maps_are_read_where_the_students_cells_lie(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is to say of each cell how far right it is, in pixels of its own input."""
    student = spec_of(size)
    teacher = Teacher("movenet_thunder", student, CPU)
    codec = load("movenet_thunder").spec.center_codec()
    share = torch.from_numpy(codec.to_pixels(np.arange(64.0))) / 512 + 0.25  # of 1, in the middle
    ramp = share.logit().expand(2, 17, 64, 64)
    monkeypatch.setattr(teacher._network, "forward", lambda _: {"kpt_heatmap": ramp})
    said = (teacher.heatmaps(views(*size)) - 0.25) * 512
    pixels = np.linspace(0, size[1] - 1, size[1] // 4)  # udp: the last cell is the last pixel
    wanted = (pixels + 0.5) * 256 / size[1] - 0.5
    inside = wanted <= codec.to_pixels(np.array(63.0))
    assert inside.sum() >= len(inside) - 1
    np.testing.assert_allclose(said[0, 0, 5][inside], wanted[inside], atol=1e-3)


def test_a_teacher_of_other_keypoints_is_refused(teacher_file: Path) -> None:
    hand = Skeleton(name="hand", keypoints=("wrist", "tip"))
    student = spec_of((64, 64)).model_copy(update={"skeleton": hand})
    with pytest.raises(RecipeError, match="answers other keypoints"):
        Teacher(str(teacher_file), student, CPU)
    with pytest.raises(RecipeError, match="answers other keypoints"):
        Teacher("efficientnet_lite0", student, CPU)


RECIPE = """
name = "tiny"
[network]
backbone = {{ name = "mobilenet_v2", options = {{ width_multiplier = 0.1 }} }}
head = {{ kind = "simple" }}
input_size = [64, 64]
init = "{teacher}"
[data]
train = "people.json"
train_images = "."
val = "people.json"
val_images = "."
[optimisation]
epochs = 1
samples_per_epoch = 4
batch = 4
threads = 1
precision = "fp32"
[teacher]
network = "{teacher}"
weight = 1.0
[watch]
log_every = 1
"""


def test_labels_and_teacher_are_measured_by_one_loss(teacher_file: Path, tmp_path: Path) -> None:
    """Where the labels say what the teacher says, its share changes nothing."""
    write_dataset(tmp_path, 3)
    (tmp_path / "tiny.toml").write_text(RECIPE.format(teacher=teacher_file))
    images, answer = views(64, 64), torch.rand(2, 17, 16, 16)
    sure = torch.ones(2, 17)
    for loss in ("loss=mse", "loss=mae", "loss=smooth_l1"):
        losses = []
        for share in (0.2, 0.9):
            changes = (f"optimisation.{loss}", f"teacher.weight={share}")
            task = PoseTask(read_recipe(tmp_path / "tiny.toml", changes), tmp_path)
            task.to(CPU)
            assert task._teacher is not None
            said = task._teacher.heatmaps(images).clamp(0, 1)
            losses.append(task.loss(answer, images, (said, sure)))
        torch.testing.assert_close(*losses)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(
    teacher_file: Path, tmp_path: Path
) -> None:
    """Its norms in training mode are of the batch, so a little is left."""
    write_dataset(tmp_path, 3)
    (tmp_path / "tiny.toml").write_text(RECIPE.format(teacher=teacher_file))
    losses = []
    for changes in ((), ("network.init=", "optimisation.seed=5")):
        recipe = read_recipe(tmp_path / "tiny.toml", changes)
        train(recipe, tmp_path, tmp_path / f"runs{len(changes)}")
        line = (tmp_path / f"runs{len(changes)}" / "tiny" / "log.jsonl").read_text().splitlines()[0]
        losses.append(float(line.split('"loss": ')[1].split(",")[0]))
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alignment": "legacy"}, "maps of alignment udp; those of .* have legacy"),
        ({"codec": CodecSpec(sigma=1.0)}, r"sigma of 2\.00 x 2\.00 cells .*; its own have 1\.0"),
    ],
)
def test_a_teacher_whose_maps_are_laid_out_otherwise_is_refused(
    teacher_file: Path, change: dict[str, Any], words: str
) -> None:
    student = spec_of((64, 64)).model_copy(update=change)
    with pytest.raises(RecipeError, match=words):
        Teacher(str(teacher_file), student, CPU)


def test_a_teacher_computes_in_what_the_run_does(teacher_file: Path) -> None:
    network, images = load(teacher_file), views(64, 64)
    with torch.inference_mode():
        alone = network(input_tensor(network.spec, images))
    exact, rough = (
        Teacher(str(teacher_file), network.spec, CPU, kind).heatmaps(images)
        for kind in (torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(exact, alone)
    assert 0 < (rough - exact).abs().max() <= 0.05 * exact.std()
