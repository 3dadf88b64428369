"""A recipe: everything that decides what a training run makes, as validated TOML."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from heads.geometry import Alignment, Size
from heads.skeleton import Skeleton
from heads.spec import (
    INPUT_MULTIPLE,
    BackboneSpec,
    CodecSpec,
    HeadSpec,
    NeckSpec,
    NetworkSpec,
    Normalisation,
)
from training.errors import RecipeError

HEATMAP_HEADS = ("simple", "fuse", "deconv", "pyramid")
"""Kinds of head whose answer is one heatmap a keypoint."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """What is trained.

    alignment: `udp`, or `legacy` to repeat the official runs (see `heads.geometry`).
    init: a checkpoint of the same network to start from.
    init_without: how the names of those of its tensors start which this network does not have.
    backbone_init: a public file, ImageNet's for example, whose backbone is started from.
    """

    backbone: BackboneSpec
    head: HeadSpec
    neck: NeckSpec | None = None
    input_size: tuple[PositiveInt, PositiveInt]
    normalisation: Normalisation = Normalisation()
    alignment: Alignment = "udp"
    codec: CodecSpec = CodecSpec()
    threshold: float = 0.05
    init: str = ""
    init_without: tuple[str, ...] = ()
    backbone_init: str = ""

    @field_validator("input_size")
    @classmethod
    def _whole_strides(cls, size: Size) -> Size:
        if any(side % INPUT_MULTIPLE for side in size):
            raise ValueError(f"sides are multiples of {INPUT_MULTIPLE}; got {size}")
        return size

    @field_validator("head")
    @classmethod
    def _makes_heatmaps(cls, head: HeadSpec) -> HeadSpec:
        if head.kind not in HEATMAP_HEADS:
            raise ValueError(f"trained are {', '.join(HEATMAP_HEADS)}; got {head.kind}")
        return head


class Data(_Part):
    """COCO keypoint files and their images, relative to the data folder.

    root: the data folder, where the command line names none.
    weights: how often samples of a source are drawn, relatively.
    """

    root: str = ""
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
    blur: float = Field(default=0.0, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, le=1)


class Optimisation(_Part):
    """How it is trained. A step's learning rate rises in a line for warmup_steps, then falls.

    samples_per_epoch: drawn by data.weights; 0: every sample once, in random order.
    schedule: `cosine` falls to a hundredth at the end; `step` to a tenth after each epoch of
        milestones, as in the official code.
    optimizer: `adamw` takes weight decay off the weights, `adam` adds it to the gradient.
    clip_norm: longest gradient that a step follows; 0: any.  foreground: see heatmap_mae.
    ema: decay of the averaged weights, which are what is kept; 0: they are the last step's.
    device: `cpu`, `cuda`, `cuda:1`.  workers: processes that make samples; 0: none but this one.
    threads: of the processor; 0: as many as it has. Beside other work fewer are faster, because
        threads wait for the slowest.
    """

    epochs: PositiveInt
    samples_per_epoch: int = Field(default=0, ge=0)
    batch: PositiveInt = 32
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[PositiveInt, ...] = ()
    clip_norm: float = Field(default=1.0, ge=0)
    loss: Literal["mse", "mae"] = "mse"
    foreground: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    bf16: bool = True
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    save_every_s: PositiveFloat = 180.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones belong to schedule step, and to it alone")
        if self.foreground and self.loss != "mae":
            raise ValueError(f"foreground belongs to loss mae; got loss {self.loss}")
        return self


class Recipe(_Part):
    """One run. name: of its folder and of the network it makes."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    network: Network
    data: Data
    views: Views = Views()
    optimisation: Optimisation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data.weights and not self.optimisation.samples_per_epoch:
            raise ValueError("data.weights need optimisation.samples_per_epoch: how many are drawn")
        return self

    def spec(self, skeleton: Skeleton) -> NetworkSpec:
        """The description of the network that the run makes."""
        return NetworkSpec(
            name=self.name,
            task="pose",
            backbone=self.network.backbone,
            head=self.network.head,
            neck=self.network.neck,
            input_size=self.network.input_size,
            normalisation=self.network.normalisation,
            alignment=self.network.alignment,
            codec=self.network.codec,
            threshold=self.network.threshold,
            skeleton=skeleton,
        )


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML. changes: `a.b=c` each, c as TOML or plain text.

    A key that the recipe does not know is an error, never a wish that is not heard.
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
        raise RecipeError(f"{path.name}, {key or 'recipe'}: {first['msg']}") from error


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
        table[last] = text.strip()
