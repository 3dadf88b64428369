"""COCO files become samples: who is in, how sure labels are, what is drawn, what is refused."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from heads.codec import HeatmapCodec
from heads.skeleton import COCO_17
from training.augment import Augmentation
from training.data import EpochSampler, PoseDataset, Sample, chances_of, read_samples
from training.errors import DataError
from training.synthetic import write_dataset

SIZE = (96, 64)
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, 4)


def changed(path: Path, change: Change) -> list[Sample]:
    """The samples of a file whose first annotation was changed."""
    content = json.loads(path.read_text())
    change(content["annotations"][0])
    path.write_text(json.dumps(content))
    return read_samples(path, path.parent)[0]


def dataset_of(path: Path) -> PoseDataset:
    samples, skeleton = read_samples(path, path.parent)
    codec = HeatmapCodec(SIZE, (SIZE[0] // 4, SIZE[1] // 4))
    return PoseDataset(samples, codec, Augmentation(skeleton, SIZE))


def test_samples_are_as_the_file_says(people: Path) -> None:
    samples, skeleton = read_samples(people, people.parent)
    entries = json.loads(people.read_text())["annotations"]
    assert skeleton.keypoints == COCO_17.keypoints
    assert skeleton.flip_order == COCO_17.flip_order
    assert [s.path.name for s in samples] == ["1.png", "2.png", "3.png", "4.png"]
    for sample, entry in zip(samples, entries, strict=True):
        assert sample.box_xywh == pytest.approx(tuple(entry["bbox"]))
        expected = np.array(entry["keypoints"]).reshape(17, 3)[:, :2]
        np.testing.assert_allclose(sample.keypoints, expected, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(iscrowd=1),
        lambda a: a.update(num_keypoints=0),
        lambda a: a.update(primary=0),
        lambda a: a.update(bbox=[5, 5, 0, 40]),
        lambda a: a.update(bbox=[5, 5, 40, -3]),
    ],
)
def test_who_is_not_trained_on(people: Path, change: Change) -> None:
    assert [s.path.name for s in changed(people, change)] == ["2.png", "3.png", "4.png"]


def test_unlabelled_keypoints_have_no_weight_and_teachers_labels_less(people: Path) -> None:
    def change(entry: dict[str, Any]) -> None:
        entry["keypoints"][2] = 0  # the nose is not labelled, however sure the teacher was
        entry["keypoints"][5] = 1  # hidden, yet labelled
        entry["scores"] = [0.9, 0.4, 1.0] + [0.3] * 14

    weights = changed(people, change)[0].weights
    np.testing.assert_allclose(weights, [0.0, 0.4, 1.0] + [0.3] * 14, atol=1e-6)


def test_an_unlabelled_keypoint_has_no_weight_in_a_batch(people: Path) -> None:
    changed(people, lambda a: a.update(keypoints=[0, 0, 0] * 5 + a["keypoints"][15:]))
    dataset = dataset_of(people)
    for seed in range(10):
        _, heatmaps, weights = dataset[0, seed]
        # Mirrored too: the five of the head change places among themselves.
        assert not weights[:5].any()
        assert not heatmaps[:5].any()


def test_an_item_is_its_index_and_seed_alone(people: Path) -> None:
    dataset = dataset_of(people)
    image, heatmaps, weights = dataset[2, 7]
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (*SIZE, 3))
    assert tuple(heatmaps.shape) == (17, 24, 16)
    assert tuple(weights.shape) == (17,)
    dataset[1, 8]
    assert all(
        torch.equal(a, b) for a, b in zip((image, heatmaps, weights), dataset[2, 7], strict=True)
    )
    assert not torch.equal(image, dataset[2, 8][0])


def test_a_worker_makes_the_same_batches(people: Path) -> None:
    dataset, batches = dataset_of(people), []
    for workers in (0, 1):
        sampler = EpochSampler(np.ones(4, np.float32), 6, seed=5)
        batches.append(list(DataLoader(dataset, 3, sampler=sampler, num_workers=workers)))
    for alone, helped in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_sources_are_drawn_by_their_weights(people: Path) -> None:
    changed(people, lambda a: a.update(source="coco"))
    samples, _ = read_samples(people, people.parent)
    chances = chances_of(samples, {"coco": 8.0})
    np.testing.assert_array_equal(chances, [8, 1, 1, 1])
    drawn = Counter(index for index, _ in EpochSampler(chances, 5000, seed=0))
    assert drawn[0] / 5000 == pytest.approx(8 / 11, abs=0.03)


def test_a_resume_goes_on_where_an_epoch_was_left() -> None:
    sampler = EpochSampler(np.ones(50, np.float32), 20, seed=2)
    whole = list(sampler)
    sampler.skip = 8
    assert list(sampler) == whole[8:]
    # The last batch of 6 has 2 samples, so all four batches skip 24.
    sampler.skip = 24
    assert list(sampler) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.update(keypoints=[1, 2, 3]), "cannot be read"),
        (lambda a: a.update(image_id=99), "99"),
        (lambda a: a.update(scores=[1.0]), "17 finite keypoints"),
        (lambda a: a.update(keypoints=[float("nan")] * 51), "17 finite keypoints"),
        (lambda a: a.pop("bbox"), "bbox"),
        (lambda a: a.update(bbox=[1, 2, "wide", 3]), "wide"),
        (lambda a: a.update(bbox=[1, 2, float("inf"), 3]), "finite box"),
        (lambda a: a.update(bbox=[float("nan")] * 4), "finite box"),
    ],
)
def test_wrong_annotations_are_refused_with_file_and_id(
    people: Path, change: Change, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"people\.json, annotation 1 .*{reason}"):
        changed(people, change)


def test_an_annotation_without_fields_is_refused(people: Path) -> None:
    content = json.loads(people.read_text()) | {"annotations": ["somebody"]}
    people.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"people\.json: an annotation has no fields: 'somebody'"):
        read_samples(people, people.parent)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"categories": [{"id": 1}]}'])
def test_files_that_are_no_keypoint_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"other\.json is no COCO keypoint file"):
        read_samples(path, tmp_path)
    with pytest.raises(DataError, match=r"missing\.json is no COCO keypoint file"):
        read_samples(tmp_path / "missing.json", tmp_path)


def test_a_file_of_nobody_is_refused(people: Path) -> None:
    content = json.loads(people.read_text()) | {"annotations": []}
    people.write_text(json.dumps(content))
    with pytest.raises(DataError, match="nobody to train on"):
        read_samples(people, people.parent)


def test_the_projects_own_training_data(shared: Path) -> None:
    folder = shared / "data" / "train"
    if not folder.is_dir():
        pytest.skip("the training data (../shared/data) is not here")
    samples, skeleton = read_samples(folder / "train.json", folder / "images")
    assert skeleton.flip_order == COCO_17.flip_order
    counts = Counter(sample.source for sample in samples)
    assert set(counts) == {"coco", "lspet", "ccp", "voc2012", "flickr8k"}
    weights = np.stack([sample.weights for sample in samples])
    assert weights.min() == 0
    assert weights.max() == 1
    assert (weights.sum(axis=1) > 0).all()
    # Some of Leeds' people have no face labels; nothing may be learnt from those.
    of_leeds = np.array([sample.source == "lspet" for sample in samples])
    assert (weights[of_leeds][:, :5] == 0).mean() > 0.1
    assert not {s.path.name for s in samples} & {
        image["file_name"]
        for image in json.loads((shared / "data/val/val.json").read_text())["images"]
    }
