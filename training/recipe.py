"""A recipe: everything that decides what a training run makes, as validated TOML."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from heads.skeleton import Skeleton
from heads.spec import BackboneSpec, CodecSpec, HeadSpec, NetworkSpec
from training.errors import RecipeError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """What is trained. init: a checkpoint of the same network to start from."""

    backbone: BackboneSpec
    head: HeadSpec
    input_size: tuple[PositiveInt, PositiveInt]
    codec: CodecSpec = CodecSpec()
    threshold: float = 0.05
    init: str = ""


class Data(_Part):
    """COCO keypoint files and their images, relative to the data folder.

    weights: how often samples of a source are drawn, relatively.
    """

    train: str
    train_images: str
    val: str
    val_images: str
    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    description: str = ""


class Views(_Part):
    """Augmentation; see `training.augment`."""

    scale: float = Field(default=0.35, ge=0, lt=1)
    rotation_deg: float = Field(default=45.0, ge=0, le=180)
    shift: float = Field(default=0.05, ge=0, lt=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    half_body: float = Field(default=0.3, ge=0, le=1)
    colour: float = Field(default=0.2, ge=0, lt=1)


class Optimisation(_Part):
    """How it is trained. A step's learning rate rises for warmup_steps, then falls as a cosine.

    foreground: see heatmap_mae.  ema: decay of the averaged weights, which are what is kept.
    """

    epochs: PositiveInt
    samples_per_epoch: PositiveInt
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 1e-3
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    clip_norm: PositiveFloat = 1.0
    loss: Literal["mse", "mae"] = "mse"
    foreground: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    bf16: bool = True
    seed: int = 0
    workers: int = Field(default=0, ge=0)
    save_every_s: PositiveFloat = 180.0


class Recipe(_Part):
    """One run. name: of its folder and of the network it makes."""

    name: str = Field(pattern=r"^[\w.-]+$")
    network: Network
    data: Data
    views: Views = Views()
    optimisation: Optimisation

    def spec(self, skeleton: Skeleton) -> NetworkSpec:
        """The description of the network that the run makes."""
        return NetworkSpec(
            name=self.name,
            task="pose",
            backbone=self.network.backbone,
            head=self.network.head,
            input_size=self.network.input_size,
            codec=self.network.codec,
            threshold=self.network.threshold,
            skeleton=skeleton,
        )


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML. changes: `a.b=c` each, c as TOML or plain text.

    Raises RecipeError, which names the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} cannot be read: {error}") from error
    for change in changes:
        _apply(content, change)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path.name}, {key}: {first['msg']}") from error


def _apply(content: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise RecipeError(f"a change is written key=value; got {change!r}")
    *tables, last = key.strip().split(".")
    table = content
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{key}: {name} is no table")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text
