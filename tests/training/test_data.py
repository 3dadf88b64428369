"""From COCO files to batches: who is left out, what is refused, and what a process holds."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from heads.codec import HeatmapCodec
from heads.errors import ImageError
from heads.skeleton import COCO_17
from tests.training.damage import Change, Content, changed, entry, image
from training.annotations import load_annotations
from training.augment import Augmentation
from training.data import (
    EpochSampler,
    PoseDataset,
    Sample,
    chances_of,
    check_images,
    look_through,
    read_samples,
    read_together,
)
from training.errors import DataError
from training.synthetic import write_dataset

SIZE = (64, 64)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, 5)


def dataset_of(people: Path) -> PoseDataset:
    samples, skeleton = read_samples(people, people.parent)
    codec = HeatmapCodec(SIZE, (16, 16))
    return PoseDataset(samples, codec, Augmentation(skeleton, SIZE))


def test_entries_of_other_categories_are_left_out(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].insert(0, {"id": 9, "name": "dog", "keypoints": []})
        content["annotations"][1] |= {"category_id": 9, "keypoints": [1, 2, 2]}

    assert len(read_samples(changed(people, change), people.parent)[0]) == 4


def test_boxes_are_clipped_to_their_photograph(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"] = [-10, 5, 50, 500]  # photographs are 72 x 96
        content["annotations"][1]["bbox"] = [80, 5, 20, 20]

    samples, _ = read_samples(changed(people, change), people.parent)
    assert len(samples) == 4
    assert samples[0].box_xywh == (0, 5, 40, 91)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"keypoints": [1, 2, 3]}, "annotation 1 cannot be read"),
        ({"keypoints": ["x"] * 51}, "annotation 1 cannot be read"),
        ({"keypoints": [float("nan")] * 51}, "annotation 1 needs 17 finite keypoints"),
        ({"scores": [0.5]}, "annotation 1 needs 17 finite keypoints and as many scores"),
        ({"scores": [float("nan")] * 17}, "annotation 1 needs 17 finite"),
        ({"bbox": [1, 2]}, "annotation 1 cannot be read"),
        ({"image_id": 77}, "annotation 1 cannot be read"),
        ({"bbox": [1, 2, float("inf"), 3]}, "annotation 1 needs a finite box"),
        ({"bbox": [float("nan")] * 4}, "annotation 1 needs a finite box"),
    ],
)
def test_a_bad_entry_is_refused_by_its_id(
    people: Path, entry: dict[str, Any], message: str
) -> None:
    path = changed(people, lambda content: content["annotations"][0].update(entry))
    with pytest.raises(DataError, match=message):
        read_samples(path, people.parent)


def spoil(content: Content) -> None:
    """Five errors: at 1, 2 and 4, and at entries without an id."""
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    content["annotations"][1]["keypoints"] = [1, 2]
    content["images"][3]["file_name"] = "lost.png"
    content["annotations"].append("somebody")
    content["images"].append({"file_name": "6.png"})


def test_a_data_set_with_errors_is_refused_with_the_first_three_and_what_to_do(
    people: Path,
) -> None:
    with pytest.raises(DataError) as refused:
        look_through(changed(people, spoil), people.parent, skip_bad=False)
    assert str(refused.value) == (
        "people.json has 5 errors: image 5 of the list needs id, file_name, height, width: "
        "KeyError('id'); annotation 5 of the list has no fields or id; "
        f"lost.png: is not in {people.parent.name}; and 2 more. "
        f"`hrpose data check {people} --images {people.parent}` shows them; "
        "data.skip_bad = true leaves them out"
    )


def test_bad_entries_are_left_out_where_the_recipe_says_so(people: Path) -> None:
    changed(people, spoil)
    sound = look_through(people, people.parent, skip_bad=True)
    samples, _ = read_samples(people, people.parent, sound)
    assert [s.path.name for s in samples] == ["3.png", "5.png"]
    check_images(samples)
    truth = load_annotations(people, sound=sound)
    assert [i["id"] for i in truth.images] == [1, 2, 3, 5]
    assert [a["id"] for a in truth.annotations] == [3, 5]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (image(id=2), [3, 4, 5]),  # nobody knows whose photograph is whose
        (entry(id=2), [3, 4, 5]),
        (entry(image_id=77), [2, 3, 4, 5]),
        (entry(image_id=[1]), [2, 3, 4, 5]),
        (image(height=None), [2, 3, 4, 5]),
        (entry(bbox=[float("nan")] * 4), [2, 3, 4, 5]),
    ],
)
def test_what_is_left_can_be_read(people: Path, change: Change, left: list[int]) -> None:
    sound = look_through(changed(people, change), people.parent, skip_bad=True)
    samples, _ = read_samples(people, people.parent, sound)
    assert [s.path.name for s in samples] == [f"{i}.png" for i in left]
    assert [a["id"] for a in load_annotations(people, sound=sound).annotations] == left


def test_files_are_read_together_each_from_its_folder(people: Path, tmp_path: Path) -> None:
    more = write_dataset(tmp_path / "more", 2)
    files = [(path, path.parent) for path in (people, more)]
    samples, skeleton = read_together(files, read_samples, skip_bad=False)
    assert skeleton == COCO_17
    check_images(samples)
    assert [s.path for s in samples[4:]] == [people.parent / "5.png"] + [
        more.parent / f"{i}.png" for i in (1, 2)
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("keypoints", [f"k{i}" for i in range(17)], "other keypoints than people.json"),
        ("flip_pairs", [], "other flip pairs than people.json"),
        ("sigmas", [0.1] * 17, "other sigmas than people.json"),
    ],
)
def test_files_of_other_skeletons_are_not_read_together(
    people: Path, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    more = changed(
        write_dataset(tmp_path / "more", 2), lambda c: c["categories"][0].update({field: value})
    )
    more = more.rename(more.with_name("more.json"))
    files = [(path, path.parent) for path in (people, more)]
    with pytest.raises(DataError, match=f"more.json has {message}"):
        read_together(files, read_samples, skip_bad=False)


def test_errors_of_any_file_refuse_all(people: Path, tmp_path: Path) -> None:
    more = changed(write_dataset(tmp_path / "more", 2), entry(bbox=[0, 0, 0, 0]))
    files = [(path, path.parent) for path in (people, more)]
    with pytest.raises(DataError, match=r"has 1 error: 1\.png, annotation 1: the box is 0"):
        read_together(files, read_samples, skip_bad=False)
    samples, _ = read_together(files, read_samples, skip_bad=True)
    assert len(samples) == 6


def test_a_whole_data_set_is_read_whole_and_photographs_stay_closed(people: Path) -> None:
    (people.parent / "1.png").write_bytes(b"not a picture")
    assert look_through(people, people.parent, skip_bad=False) is None
    assert look_through(people, people.parent, skip_bad=True) is None


def test_nobody_left_is_refused_whatever_the_recipe_says(people: Path) -> None:
    changed(people, lambda content: content["annotations"].clear())
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=r"1 error: nobody has a .* shows them$"):
            look_through(people, people.parent, skip_bad)


def test_missing_photographs_are_named_before_training(people: Path) -> None:
    samples, _ = read_samples(people, people.parent)
    check_images(samples)
    (people.parent / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 photographs are missing: 3\.png"):
        check_images(samples)


def test_a_damaged_photograph_is_named(people: Path) -> None:
    (people.parent / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"1\.png"):
        dataset_of(people)[(0, 0)]


def test_unlabelled_keypoints_and_those_out_of_view_count_nothing(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        keypoints = content["annotations"][0]["keypoints"]
        keypoints[2] = 0  # the nose has no label
        keypoints[3:6] = [5000, 5000, 2]  # the left eye lies outside of every view

    samples, skeleton = read_samples(changed(people, change), people.parent)
    still = Augmentation(skeleton, SIZE, scale=0, rotation_deg=0, shift=0, flip=0, half_body=0)
    dataset = PoseDataset(samples, HeatmapCodec(SIZE, (16, 16)), still)
    _, heatmaps, weights = dataset[(0, 0)]
    assert weights.tolist() == [0, 0] + [1] * 15
    assert heatmaps[:2].abs().max() == 0
    assert (heatmaps[2:].amax(dim=(1, 2)) > 0.9).all()  # cells are 4 pixels, sigma is 2 cells


def test_an_epoch_without_weights_has_every_sample_once(people: Path) -> None:
    samples, _ = read_samples(people, people.parent)
    sampler = EpochSampler(chances_of(samples, {}), 0, seed=3)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        orders.append([index for index, _ in sampler])
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert len(sampler) == 5


def test_sources_are_drawn_by_weight(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["source"] = "coco"

    samples, _ = read_samples(changed(people, change), people.parent)
    np.testing.assert_array_equal(chances_of(samples, {"coco": 8.0}), [8, 1, 1, 1, 1])


def test_the_same_seed_gives_the_same_view_whoever_makes_it(people: Path) -> None:
    first, again = dataset_of(people)[(2, 11)], dataset_of(people)[(2, 11)]
    other = dataset_of(people)[(2, 12)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_a_data_set_holds_its_index_and_no_photograph(people: Path) -> None:
    dataset = dataset_of(people)
    before = len(pickle.dumps(dataset))
    for index in range(5):
        dataset[(index, 0)]
    assert len(pickle.dumps(dataset)) == before < 10_000


def test_a_thousand_batches_leave_no_file_open(people: Path) -> None:
    dataset = dataset_of(people)
    sampler = EpochSampler(np.ones(5, np.float32), 2000, seed=0)
    before = len(os.listdir("/proc/self/fd"))
    batches = sum(1 for _ in DataLoader(dataset, 2, sampler=sampler))
    assert batches == 1000
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_skeleton_is_that_of_the_file(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"][0] = {
            "id": 1,
            "name": "crate",
            "keypoints": ["left_corner", "right_corner"],
            "skeleton": [[1, 2]],
        }
        for person in content["annotations"]:
            person["keypoints"] = person["keypoints"][:6]

    _, skeleton = read_samples(changed(people, change), people.parent)
    assert skeleton.flip_pairs == ((0, 1),)
    assert skeleton != COCO_17


def test_an_annotation_without_fields_is_refused(people: Path) -> None:
    path = changed(people, lambda content: content.update(annotations=["somebody"]))
    with pytest.raises(DataError, match=r"people\.json: an annotation has no fields: 'somebody'"):
        read_samples(path, people.parent)


def test_an_unsure_label_counts_less_in_a_batch_too(people: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["scores"] = [0.5] * 17

    dataset = dataset_of(changed(people, change))
    for seed in range(5):
        _, heatmaps, weights = dataset[0, seed]
        # In view 0.5, not its square; the target itself is as high as a sure one's.
        assert set(weights.tolist()) <= {0.0, 0.5}
        assert weights.any()
        assert heatmaps.max() > 0.8


def test_a_skip_may_be_longer_than_a_short_last_batch() -> None:
    sampler = EpochSampler(np.ones(50, np.float32), 20, seed=2)
    whole = list(sampler)
    sampler.skip = 18
    assert list(sampler) == whole[18:]
    sampler.skip = 24  # four batches of 6, of which the last had 2 samples
    assert (len(sampler), list(sampler)) == (0, [])


def test_the_projects_own_training_data(shared: Path) -> None:
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip("the training data (../shared/data) is not here")
    samples, _ = read_samples(folder / "train" / "train.json", folder / "train" / "images")
    check_images(samples)
    assert {s.source for s in samples} == {"coco", "lspet", "ccp", "voc2012", "flickr8k"}
    weights = np.stack([sample.weights for sample in samples])
    assert (weights.min(), weights.max()) == (0, 1)
    assert weights.any(axis=1).all()
    measured = json.loads((folder / "val" / "val.json").read_text())["images"]
    assert not {s.path.name for s in samples} & {image["file_name"] for image in measured}


def test_a_source_that_nobody_is_of_is_refused() -> None:
    samples = [
        Sample(Path("a"), (9, 9), (0, 0, 9, 9), np.zeros((1, 2), "f4"), np.zeros(1, "f4"), source)
        for source in ("coco", "lspet", "")
    ]
    assert chances_of(samples, {"lspet": 2.0}).tolist() == [1.0, 2.0, 1.0]
    with pytest.raises(DataError, match=r"data\.weights name lspett; .* are of coco, lspet"):
        chances_of(samples, {"lspett": 2.0})
