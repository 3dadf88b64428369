"""Learning the class of every pixel: discs on a background, found again after a few steps."""

import json
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

from heads.checkpoint import read_spec
from heads.errors import ImageError
from heads.image import encode_image, read_mask
from hrpose import app
from service.inference.engine import Engine
from service.inference.job import Job
from training.errors import DataError, RecipeError
from training.loop import train
from training.losses import IGNORED, region_loss
from training.recipe import Recipe, Views, read_recipe
from training.segment import MaskDataset, SegmentTask, read_pairs

RECIPE = """
name = "discs"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.25 } }
head = { kind = "segment" }
input_size = [64, 64]
[data]
train = "masks"
train_images = "photos"
val = "masks"
val_images = "photos"
classes = ["ground", "disc", "never there"]
[views]
colour = 0.1
[optimisation]
epochs = 1
samples_per_epoch = 960
batch = 8
learning_rate = 5e-3
warmup_steps = 2
ema = 0.8
precision = "fp32"
threads = 1
[watch]
pictures_every = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs on dark noise; the rim of each is labelled as unknown."""
    folder = tmp_path_factory.mktemp("discs")
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    for i in range(8):
        centre, radius = rng.uniform(30, 66, 2), rng.uniform(14, 24)
        distance = np.hypot(x - centre[0], y - centre[1])
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        image[distance <= radius] += 150
        mask = (distance <= radius).astype(np.uint8)
        mask[abs(distance - radius) < 1] = IGNORED
        (folder / "photos" / f"{i}.png").write_bytes(encode_image(image, "png"))
        palette = Pillow.fromarray(mask, "L").convert("P") if i % 2 else Pillow.fromarray(mask)
        palette.save(folder / "masks" / f"{i}.png")
    (folder / "discs.toml").write_text(RECIPE)
    return folder


def recipe_of(data: Path, *changes: str) -> Recipe:
    return read_recipe(data / "discs.toml", changes)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "dice"])
def test_a_run_learns_regions_and_the_server_answers_with_them(
    data: Path, tmp_path: Path, kind: str
) -> None:
    best = train(recipe_of(data, f"optimisation.region_loss={kind}"), data, tmp_path)
    spec = read_spec(best)
    assert spec.provenance.scores["mIoU"] > 0.75
    assert (tmp_path / "discs" / "pictures" / "epoch_001.jpg").is_file()
    engine = Engine(model=str(best))
    answer = engine.segment((data / "photos" / "0.png").read_bytes(), None, Job())
    engine.close()
    true = read_mask(data / "masks" / "0.png")
    assert (answer.class_map == true)[true != IGNORED].mean() > 0.9
    folders = ["--annotations", str(data / "masks"), "--images", str(data / "photos")]
    options = ["--model", str(best), "--json", str(tmp_path / "scores.json")]
    done = CliRunner().invoke(app, ["evaluate", *folders, *options])
    assert done.exit_code == 0, done.output
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert scores["miou"] == pytest.approx(spec.provenance.scores["mIoU"], abs=1e-3)
    assert scores["pixels"] == pytest.approx(spec.provenance.scores["right pixels"], abs=1e-3)
    done = CliRunner().invoke(app, ["evaluate", *folders, *options, "--flip-test"])
    assert (done.exit_code, "are of keypoints" in done.output) == (2, True)


def test_a_mask_is_no_photograph_and_has_one(tmp_path: Path) -> None:
    photo, mask = (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    (tmp_path / "a.jpg").write_bytes(encode_image(photo))
    Pillow.fromarray(mask).save(tmp_path / "a.png")
    assert read_pairs(tmp_path, tmp_path) == [(tmp_path / "a.jpg", tmp_path / "a.png")]
    (tmp_path / "a.webp").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.jpg and a\.webp would have the same mask"):
        read_pairs(tmp_path, tmp_path)


def four_bits(row: bytes) -> bytes:
    """A grey PNG of four bits a pixel and one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2 * len(row), 1, 4, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def test_a_mask_is_read_by_its_numbers_not_its_colours(data: Path, tmp_path: Path) -> None:
    indexed = np.array([[0, 1], [2, IGNORED]], np.uint8)
    picture = Pillow.fromarray(indexed, "P")
    picture.putpalette([7, 8, 9] * 256)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), indexed)
    Pillow.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(ImageError, match=r"rgb\.png is a PNG of mode RGB; a mask is"):
        read_mask(tmp_path / "rgb.png")
    # Four bits of grey: Pillow would make 0, 17, 34 and 51 of these.
    assert cv2.imwrite(str(tmp_path / "16.png"), np.zeros((2, 2), np.uint16))
    Pillow.frombytes("1", (8, 1), b"\xaa").save(tmp_path / "one.png")
    (tmp_path / "grey4.png").write_bytes(four_bits(bytes([0x01, 0x23])))
    for name, said in (("16", "mode I;16"), ("one", "mode 1;"), ("grey4", "4 bits of grey")):
        with pytest.raises(ImageError, match=rf"{name}\.png .*{said}"):
            read_mask(tmp_path / f"{name}.png")
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"no\.png cannot be read as a mask"):
        read_mask(tmp_path / "no.png")
    assert set(np.unique(read_mask(data / "masks" / "1.png"))) <= {0, 1, IGNORED}


def test_photograph_and_mask_are_cut_alike(data: Path) -> None:
    samples = MaskDataset(read_pairs(data / "masks", data / "photos"), 3, (64, 64), Views(colour=0))
    outside = 0
    for seed in range(20):
        image, mask = samples[seed % 8, seed]
        assert image.shape == (64, 64, 3)
        bright = image.float().mean(dim=2) > 120
        sure = (mask != IGNORED) & (image.sum(dim=2) > 0)
        assert ((bright == (mask == 1)) | ~sure).float().mean() > 0.93
        outside += int((mask == IGNORED).sum())
    assert outside > 0


def test_losses_of_regions_by_hand() -> None:
    logits = torch.tensor([2.0, 0.0, 0.0]).log_softmax(0).view(1, 3, 1, 1).repeat(1, 1, 1, 3)
    masks = torch.tensor([[[0, 1, IGNORED]]])
    p = logits.exp()[0, :, 0, 0]
    cross = -(p[0].log() + p[1].log()) / 2
    assert region_loss("cross_entropy", logits, masks).item() == pytest.approx(cross.item())
    focal = -((1 - p[0]) ** 2 * p[0].log() + (1 - p[1]) ** 2 * p[1].log()) / 2
    assert region_loss("focal", logits, masks).item() == pytest.approx(focal.item())
    # |A and B| and |A| + |B| over the two labelled pixels; the third class is not there
    dice = 1 - (2 * p[0] / (2 * p[0] + 1) + 2 * p[1] / (2 * p[1] + 1)) / 2
    assert region_loss("dice", logits, masks).item() == pytest.approx(dice.item())


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "dice"])
def test_nothing_labelled_is_nothing_to_learn(kind: str) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = region_loss(kind, logits, torch.full((1, 2, 2), IGNORED))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_masks_that_cannot_be_learned_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"masks need data\.classes"):
        recipe_of(data, "data.classes=[]")
    with pytest.raises(DataError, match="has class 1; there are 1"):
        MaskDataset(read_pairs(data / "masks", data / "photos"), 1, (64, 64), Views())[0, 0]
    (tmp_path / "m").mkdir()
    (tmp_path / "p").mkdir()
    with pytest.raises(DataError, match="m has no masks"):
        read_pairs(tmp_path / "m", tmp_path / "p")
    Pillow.new("L", (4, 4)).save(tmp_path / "m" / "a.png")
    with pytest.raises(DataError, match=r"1 masks have no photograph: a\.png"):
        read_pairs(tmp_path / "m", tmp_path / "p")
    Pillow.new("RGB", (4, 5)).save(tmp_path / "p" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.png has 4 x 4 pixels, its photograph 5 x 4"):
        MaskDataset(read_pairs(tmp_path / "m", tmp_path / "p"), 3, (64, 64), Views())[0, 0]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((5, 4), np.uint8), r"a\.png has 5 x 4 pixels, its photograph 4 x 4"),
        (np.full((4, 4), 3, np.uint8), r"a\.png has class 3; there are 3"),
    ],
)
def test_a_mask_to_validate_with_is_looked_at_before_the_first_step(
    data: Path, tmp_path: Path, mask: Any, reason: str
) -> None:
    Pillow.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    Pillow.fromarray(mask).save(tmp_path / "a.png")
    changes = [f"data.val={tmp_path}", f"data.val_images={tmp_path}"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "photos" / "a.jpg")
    with pytest.raises(DataError, match=reason):
        SegmentTask(recipe_of(data, changes[0], f"{changes[1]}/photos"), data)
