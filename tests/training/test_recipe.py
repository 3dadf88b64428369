"""Recipes: the ones that ship can be meant, and what cannot be meant is refused by its key."""

import json
from pathlib import Path

import pytest

from heads.network import build
from heads.skeleton import COCO_17
from training.augment import Augmentation
from training.errors import RecipeError
from training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.toml"))
SMALL = ROOT / "recipes" / "hrnet_w18_small.toml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_describes_a_network(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    classes = recipe.data.classes or ("a", "b")
    spec = recipe.spec(skeleton=COCO_17, classes=() if recipe.task == "pose" else classes)
    assert spec.task == recipe.task
    assert spec.heatmap_size == (spec.input_size[0] // 4, spec.input_size[1] // 4)
    build(spec)
    Augmentation(COCO_17, spec.input_size, spec.alignment, **recipe.views.model_dump())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("hrnet_w32_coco_256x192", "hrnet/w32_256x192_adam_lr1e-3"),
        ("hrnet_w32_coco_384x288", "hrnet/w32_384x288_adam_lr1e-3"),
        ("hrnet_w48_coco_256x192", "hrnet/w48_256x192_adam_lr1e-3"),
        ("hrnet_w48_coco_384x288", "hrnet/w48_384x288_adam_lr1e-3"),
        ("resnet50_coco_256x192", "resnet/res50_256x192_d256x3_adam_lr1e-3"),
    ],
)
def test_a_recipe_says_what_was_published(shared: Path, name: str, published: str) -> None:
    facts = json.loads((shared / "checkpoints" / "published.json").read_text())["recipes"]
    official = facts[f"dhr/coco/{published}"]
    recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
    network, views, how = recipe.network, recipe.views, recipe.optimisation
    assert list(network.input_size[::-1]) == official["input_wh"]
    assert network.codec.sigma == official["sigma"]
    assert network.backbone_init == official["pretrained"]
    assert (network.normalisation.channel_order == "rgb") == official["color_rgb"]
    assert network.alignment == "legacy"
    # Of the official factors the spread of the turn is the number, the limit twice that.
    assert views.rotation_deg == 2 * official["rotation_factor"]
    assert views.scale == official["scale_factor"]
    assert views.half_body == official["half_body_prob"]
    assert how.epochs == official["epochs"]
    assert list(how.milestones) == official["lr_steps"]
    assert (how.optimizer, how.learning_rate) == (official["optimizer"], official["lr"])
    gpus = official["gpus_in_config"].count(",") + 1
    assert how.batch * how.accumulate == official["batch_per_gpu"] * gpus


def test_the_first_stage_starts_from_weights_that_ship() -> None:
    assert (ROOT / read_recipe(SMALL).network.init).is_file()


def test_the_second_stage_goes_on_with_the_network_of_the_first() -> None:
    first, second = (read_recipe(ROOT / "recipes" / name) for name in (
        "hrnet_w18_small.toml", "hrnet_w18_small_256x192.toml"
    ))  # fmt: skip
    assert (ROOT / second.network.init).is_file()
    assert second.network.backbone == first.network.backbone
    assert second.network.head == first.network.head


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_recipe_trains_on_what_it_is_measured_by(path: Path) -> None:
    data = read_recipe(path).data
    assert data.train != data.val


def test_a_recipe_of_a_windows_editor_begins_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / SMALL.name).write_text(SMALL.read_text(), encoding="utf-8-sig")
    assert read_recipe(tmp_path / SMALL.name) == read_recipe(SMALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimisation.epoch=1", "optimisation.epoch: there is no such key; did you mean epochs"),
        ("network.head.chanels=1", "there is no such key"),
        ("xyz=1", "xyz: there is no such key$"),
    ],
)
def test_a_key_that_there_is_none_of_may_be_meant_for_another(change: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_recipe(SMALL, [change])


def test_a_change_keeps_its_type() -> None:
    recipe = read_recipe(
        SMALL,
        [
            "optimisation.learning_rate=5e-4",
            "optimisation.precision=fp32",
            "network.input_size=[64, 64]",
            "network.codec.sigma=1.5",  # a table that the file does not have
            "network.init=runs/other/best.safetensors",  # text without quotes
            'data.weights={ coco = 2 }',
            "name = try_2",
        ],
    )  # fmt: skip
    assert recipe.optimisation.learning_rate == 5e-4
    assert recipe.optimisation.precision == "fp32"
    assert recipe.network.input_size == (64, 64)
    assert recipe.network.codec.sigma == 1.5
    assert recipe.network.init == "runs/other/best.safetensors"
    assert recipe.data.weights == {"coco": 2.0}
    assert recipe.name == "try_2"
    assert recipe.spec(skeleton=COCO_17).codec.sigma == 1.5


def test_more_keypoint_files_lie_in_the_data_folder_or_where_they_say() -> None:
    more = "[{ train = 'a.json', train_images = 'a' }, { train = '/b.json', train_images = 'b' }]"
    data = read_recipe(SMALL, [f"data.more={more}"]).data
    assert data.keypoint_files(Path("/data")) == [
        (Path("/data/train/train.json"), Path("/data/train/images")),
        (Path("/data/a.json"), Path("/data/a")),
        (Path("/b.json"), Path("/data/b")),
    ]


def test_more_keypoint_files_are_refused_where_there_are_none() -> None:
    more = "data.more=[{ train = 'a.json', train_images = 'a' }]"
    with pytest.raises(RecipeError, match=r"data\.more are keypoint files; classify has none"):
        read_recipe(ROOT / "recipes" / "resnet50_imagenet.toml", [more])


def test_of_two_changes_the_later_one_counts() -> None:
    changes = ["optimisation.seed=1", "optimisation.seed=2"]
    assert read_recipe(SMALL, changes).optimisation.seed == 2


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("optimisation.batch=0", "optimisation.batch"),
        ("optimisation.loss=huber", "optimisation.loss"),
        ("optimisation.learning_rate=-1", "optimisation.learning_rate"),
        ("optimisation.learning_rate=fast", "optimisation.learning_rate"),
        ("optimisation.ema=1.0", "optimisation.ema"),
        ("optimisation.lr=0.1", "optimisation.lr"),
        ("network.input_size=[100, 96]", "network.input_size"),
        ("network.head={ kind = 'nothing' }", "network.head"),
        ("data.weights.coco=-1", "data.weights.coco"),
        ("data.weights.coco=0", "data.weights.coco"),
        ("data.more=[{ train = 'a.json' }]", "data.more.0.train_images"),
        ("views.rotation_deg=200", "views.rotation_deg"),
        ("colour=0.2", "colour"),
        ("name=../elsewhere", "name"),
        ("name=..", "name"),
        (f"data.classes={['a'] * 256}", "data.classes"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_key(change: str, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"hrnet_w18_small\.toml, {key}\b"):
        read_recipe(SMALL, [change])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("optimisation.batch", "written key=value; got 'optimisation.batch'"),
        ("name.first=x", "name.first: name is no table"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(change: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        read_recipe(SMALL, [change])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(SMALL.read_text().replace('val = "val/val.json"\n', ""))
    with pytest.raises(RecipeError, match=r"short\.toml, data\.val: Field required"):
        read_recipe(path)


@pytest.mark.parametrize("content", [b"epochs: 3", b"name = [", b"\xff\xfe"])
def test_files_that_are_no_toml_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml is no TOML"):
        read_recipe(path)
    with pytest.raises(RecipeError, match=r"missing\.toml cannot be read: No such file"):
        read_recipe(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("people_hrnet_v2p", "views.blur=0.1"),
        ("people_hrnet_v2p", "data.weights={ coco = 8 }"),
        ("people_hrnet_v2p", 'teacher={ network = "mobilenet_v2_heatmap" }'),
        ("resnet50_imagenet", "views.rotation_deg=90"),
        ("resnet50_imagenet", "optimisation.hardest=8"),
        ("resnet50_imagenet", "data.skip_bad=true"),
        ("hrnet_w48_cityscapes", "image_views.mixup=0.2"),
        ("hrnet_w18_small", "optimisation.region_loss=dice"),
        ("people_hrnet_v2p", "network.alignment=legacy"),
        ("people_hrnet_v2p", "network.codec={ sigma = 9.0 }"),
        ("resnet50_imagenet", "network.threshold=0.9"),
        ("resnet50_imagenet", "data.train_images=photos"),
    ],
)
def test_a_key_that_the_task_does_not_read_is_refused(recipe: str, change: str) -> None:
    path = ROOT / "recipes" / f"{recipe}.toml"
    changes = [change, "optimisation.samples_per_epoch=100"]
    with pytest.raises(RecipeError, match=r"(\w+\.)?\w+ is read by [a-z, ]+; this learns \w+"):
        read_recipe(path, changes)


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("people_hrnet_v2p", "network.head={ kind = 'center', boxes = false }"),
        ("hrnet_w18_small", "network.input_size=[8192, 64]"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_data_is_read(recipe: str, change: str) -> None:
    with pytest.raises(RecipeError, match="network: "):
        read_recipe(ROOT / "recipes" / f"{recipe}.toml", [change])


@pytest.mark.parametrize("name", ["123", "2024-05-01"])
def test_a_text_that_looks_like_a_number_is_told_how_to_be_one(name: str) -> None:
    with pytest.raises(RecipeError, match=r"write --set 'name=\"\.\.\.\"'"):
        read_recipe(SMALL, [f"name={name}"])
    assert read_recipe(SMALL, [f'name="{name}"']).name == name
