"""A recipe: everything that decides what a training run makes, as validated TOML."""

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
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
from heads.skeleton import COCO_17, Skeleton
from heads.spec import (
    INPUT_MULTIPLE,
    BackboneSpec,
    CodecSpec,
    HeadSpec,
    NeckSpec,
    NetworkSpec,
    Normalisation,
    Task,
    View,
)
from heads.validation import DeviceName, reason_of
from training.errors import RecipeError
from training.losses import HeatmapLoss, RegionLoss

LEARNED: dict[Task, tuple[str, ...]] = {
    "pose": ("simple", "fuse", "deconv", "pyramid"),
    "people": ("center",),
    "classify": ("classify",),
    "segment": ("segment", "fpn"),
}
"""The kinds of head that are trained, by what they learn."""

READ_BY: dict[str, tuple[Task, ...]] = {
    "teacher": ("pose",),
    "image_views": ("classify",),
    "data.weights": ("pose",),
    "data.skip_bad": ("pose", "people"),
    "data.classes": ("segment",),
    **dict.fromkeys(("data.train_images", "data.val_images"), ("pose", "people", "segment")),
    **dict.fromkeys(("network.alignment", "network.codec"), ("pose",)),
    "network.threshold": ("pose", "people"),
    **dict.fromkeys(("views.flip", "views.colour"), ("pose", "people", "segment")),
    **dict.fromkeys(("views.scale", "views.rotation_deg", "views.shift"), ("pose", "people")),
    **dict.fromkeys(("views.half_body", "views.upright", "views.blur", "views.dropout"), ("pose",)),
    **dict.fromkeys(
        ("optimisation.loss", "optimisation.foreground", "optimisation.hardest"), ("pose",)
    ),
    "optimisation.label_smoothing": ("classify",),
    "optimisation.region_loss": ("segment",),
}
"""Keys that mean something for some tasks only: for others they are refused, not passed over."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Part):
    """What is trained.

    alignment: `udp`, or `legacy` to repeat the official runs (see `heads.geometry`).
    init: the same network to start from: a name of `hrpose models`, or a file, ours or public.
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
    threshold: float = Field(default=0.05, ge=0, le=1)
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
    def _can_be_trained(cls, head: HeadSpec) -> HeadSpec:
        kinds = [kind for kinds in LEARNED.values() for kind in kinds]
        if head.kind not in kinds:
            raise ValueError(f"trained are {', '.join(kinds)}; got {head.kind}")
        return head


class Labels(_Part):
    """A keypoint file, and the folder of its photographs."""

    train: str
    train_images: str


class Data(_Part):
    """What is learned from, relative to the data folder.

    root: the data folder, where the command line names none.
    train, val: COCO keypoint files (pose); folders with a folder of photographs for each class
        (classify); folders of masks, PNGs with the class of each pixel (segment).
    train_images, val_images: the photographs of keypoint files and masks.
    more: keypoint files beside `train` that are learned from too, of the same keypoints.
    classes: of masks, by number; 255 at most, for 255 marks pixels that nobody labelled.
    weights: how often samples of a source are drawn, relatively.
    skip_bad: leave out annotations and photographs in which `hrpose data check` finds errors, as
        far as it finds them without opening photographs (keypoint files).
    """

    root: str = ""
    train: str
    train_images: str = ""
    val: str
    val_images: str = ""
    more: tuple[Labels, ...] = ()
    classes: tuple[str, ...] = Field(default=(), max_length=255)
    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    skip_bad: bool = False
    description: str = ""

    def keypoint_files(self, data: Path) -> list[tuple[Path, Path]]:
        """The keypoint files to learn from in the data folder, each with its photographs' one."""
        labels = [(self.train, self.train_images)]
        labels += [(more.train, more.train_images) for more in self.more]
        return [(data / train, data / images) for train, images in labels]


class Views(_Part):
    """Augmentation; see `training.augment`."""

    scale: float = Field(default=0.35, ge=0, lt=1)
    rotation_deg: float = Field(default=45.0, ge=0, le=180)
    upright: float = Field(default=0.0, ge=0, le=1)
    shift: float = Field(default=0.05, ge=0, lt=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    half_body: float = Field(default=0.3, ge=0, le=1)
    colour: float = Field(default=0.2, ge=0, lt=1)
    blur: float = Field(default=0.0, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, le=1)


class ImageViews(_Part):
    """Augmentation of classified photographs, by torchvision.

    smallest: share of a photograph's area that a view shows at least (arXiv:1409.4842).
    policy: `auto` is AutoAugment for ImageNet (arXiv:1805.09501), `trivial` TrivialAugment
        (arXiv:2103.10158).
    mixup, cutmix: alpha of arXiv:1710.09412 and arXiv:1905.04899; with both, either by chance.
    """

    smallest: float = Field(default=0.08, gt=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    policy: Literal["none", "trivial", "auto"] = "none"
    erasing: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)


class Optimisation(_Part):
    """How it is trained. A step's learning rate rises in a line for warmup_steps, then falls.

    samples_per_epoch: drawn by data.weights; 0: every sample once, in random order.
    schedule: `cosine` falls to a hundredth at the end; `step` to a tenth after each epoch of
        milestones, as in the official code.
    batch: samples that a process sees at once; accumulate: so many batches make a step.
    rate_is_for: the samples of a step that learning_rate is meant for; the rate grows with those
        there are, over all processes. 0: it is taken as it stands.
    optimizer: `adamw` takes weight decay off the weights, `adam` adds it to the gradient, `sgd` has
        momentum 0.9; `muon` learns more from few steps, see `training.muon`.
    clip_norm: longest gradient that a step follows; 0: any.
    loss, foreground, hardest: of heatmaps, see `training.losses.heatmap_loss`.
    label_smoothing: of classes (arXiv:1512.00567, section 7).
    region_loss: of class maps, see `training.losses.region_loss`.
    ema: decay of the averaged weights, which are what is kept (`training.average`); 0: they are
        the last step's.
    precision: what the network computes in while it is trained; fp16 scales its gradients; auto is
        bf16 where the device has such arithmetic, and fp32 where it would only imitate it.
    frozen: parts that stay as they began (`backbone`, `backbone.layer1`; see `training.freeze`).
    compile: by torch.compile: minutes at the start, less time a step.
    device: `cpu`, `cuda`, `cuda:1`.  workers: processes that make samples; 0: none but this one.
    threads: of the processor; 0: as many as it has. Beside other work fewer are faster, because
        threads wait for the slowest.
    """

    epochs: PositiveInt
    samples_per_epoch: int = Field(default=0, ge=0)
    batch: PositiveInt = 32
    accumulate: PositiveInt = 1
    rate_is_for: int = Field(default=0, ge=0)
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[PositiveInt, ...] = ()
    clip_norm: float = Field(default=1.0, ge=0)
    loss: HeatmapLoss = "mse"
    foreground: float = Field(default=0.0, ge=0)
    hardest: int = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    region_loss: RegionLoss = "cross_entropy"
    frozen: tuple[str, ...] = ()
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    device: DeviceName = "cpu"
    seed: int = Field(default=0, ge=0, lt=2**63)
    workers: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0, le=4096)
    save_every_s: PositiveFloat = 180.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones belong to schedule step, and to it alone")
        if self.foreground and self.loss == "mse":
            raise ValueError(f"foreground belongs to losses mae and smooth_l1; got {self.loss}")
        return self


class Teacher(_Part):
    """Distillation; see `training.teacher`.

    network: a name of `hrpose models` or a checkpoint.
    weight: share of the loss against the teacher's heatmaps; the rest is against the labels. Both
        are measured by optimisation.loss.
    """

    network: str
    weight: float = Field(default=0.5, gt=0, le=1)


class Watch(_Part):
    """What a run leaves to look at.

    log_every: steps.  keep: so many states, the newest and those before.
    pictures_every: epochs; 0: never.
    """

    log_every: PositiveInt = 50
    keep: PositiveInt = 2
    pictures_every: int = Field(default=0, ge=0)
    tensorboard: bool = False


class Recipe(_Part):
    """One run. name: of its folder and of the network it makes."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    network: Network
    data: Data
    views: Views = Views()
    image_views: ImageViews = ImageViews()
    optimisation: Optimisation
    teacher: Teacher | None = None
    watch: Watch = Watch()

    @property
    def task(self) -> Task:
        """What is learned, which the head decides."""
        return next(task for task, kinds in LEARNED.items() if self.network.head.kind in kinds)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.task == "segment" and len(self.data.classes) < 2:
            raise ValueError("masks need data.classes: the names of their numbers, in order")
        if self.task != "classify" and not (self.data.train_images and self.data.val_images):
            raise ValueError("data.train_images and data.val_images say where photographs are")
        if self.optimisation.frozen and not (self.network.init or self.network.backbone_init):
            raise ValueError("optimisation.frozen needs network.init or network.backbone_init")
        if self.data.more and self.task not in ("pose", "people"):
            raise ValueError(f"data.more are keypoint files; {self.task} has none")
        if self.data.weights and not self.optimisation.samples_per_epoch:
            raise ValueError("data.weights need optimisation.samples_per_epoch: how many are drawn")
        for key in self._given():
            tasks = READ_BY.get(key, (self.task,))
            if self.task not in tasks:
                raise ValueError(f"{key} is read by {', '.join(tasks)}; this learns {self.task}")
        return self

    def _given(self) -> list[str]:
        """Tables, and keys as `table.key`, that are not what they are if left out."""
        tables = self.model_dump(exclude_defaults=True)
        keys = [
            f"{t}.{key}" for t, table in tables.items() if isinstance(table, dict) for key in table
        ]
        return [*tables, *keys]

    def spec(self, *, skeleton: Skeleton = COCO_17, classes: tuple[str, ...] = ()) -> NetworkSpec:
        """The description of the network that the run makes; what it answers in is the data's.

        RecipeError where there can be none.
        """
        height, width = self.network.input_size
        try:
            return NetworkSpec(
                name=self.name,
                task=self.task,
                backbone=self.network.backbone,
                head=self.network.head,
                neck=self.network.neck,
                input_size=self.network.input_size,
                normalisation=self.network.normalisation,
                alignment=self.network.alignment,
                codec=self.network.codec,
                view=View(short_side=min(height, width), max_long=2 * max(height, width)),
                center_share=0.875 if self.task == "classify" else 1.0,
                threshold=self.network.threshold,
                skeleton=skeleton,
                classes=classes,
            )
        except ValidationError as error:
            raise RecipeError(f"network: {reason_of(error.errors()[0])}") from error


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML. changes: `a.b=c` each, c as TOML or plain text.

    A key that the recipe does not know is an error, never a wish that is not heard.
    Raises RecipeError, which names the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path.name} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is no TOML: {error}") from error
    for change in changes:
        _apply(content, change)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = f"; write --set '{key}=\"...\"'" * (first["type"] == "string_type")
        reason = reason_of(first)
        if first["type"] == "extra_forbidden":
            reason = f"there is no such key{_meant(first['loc'])}"
        raise RecipeError(f"{path.name}, {key or 'recipe'}: {reason}{hint}") from error
    # Before any data is read, and so with classes of nobody's.
    some = recipe.data.classes or ("one", "other")
    recipe.spec(classes=some if recipe.task in ("classify", "segment") else ())
    return recipe


def _meant(place: Sequence[int | str]) -> str:
    """What a key that there is none of may have been meant for, of those of its table."""
    *tables, key = map(str, place)
    form: Any = Recipe
    for name in tables:
        field = form.model_fields.get(name) if hasattr(form, "model_fields") else None
        form = None if field is None else field.annotation
    near = get_close_matches(key, getattr(form, "model_fields", ()), 1)
    return f"; did you mean {near[0]}?" if near else ""


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
