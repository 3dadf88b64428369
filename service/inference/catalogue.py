"""What can be served: names, what is known of each network without loading it, and the defaults."""

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heads import zoo
from heads.checkpoint import read_spec
from heads.errors import CheckpointError, WeightsMissing
from heads.onnx_file import check_form, read_onnx_spec
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec, Task, default_spec
from models.errors import SpecError, UnknownName
from service.errors import InvalidParameter
from service.inference.answers import ModelState
from service.inference.stamp import Stamp, stamp_of

log = logging.getLogger("hrpose")

DEFAULT = "default"

ENDINGS = (".safetensors", ".onnx")
"""Of the files that hold a network together with its spec."""

BACKBONES = Path(__file__).parents[1] / "backbones.json"

_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""A name that cannot lead out of a folder."""

EMBEDDED_DEFAULT = "mobilenet_v2_heatmap"
"""The embedded network with the best AP on the validation photos; docs/scores.md has the table."""

OFFICIAL_DEFAULTS = ("hrnet_w48", "hrnet_w32")
"""Of the public ones these win the default as soon as they are in the cache, where torch is."""

DEFAULT_CLASSIFIER = "efficientnet_lite0"
"""Its weights come with a Python package that hrpose depends on."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of one network without loading it.

    random_weights: it is, or would be, served as building it gives it; its answers mean nothing.
    runtime: what runs it, and with which precision, once it is loaded.
    """

    name: str
    task: str
    state: ModelState
    backbone: str
    head: str
    input_size: tuple[int, int] | None
    parameters: int | None
    licence: str
    origin: str
    scores: dict[str, float | str] = field(default_factory=dict)
    command: str | None = None
    is_default: bool = False
    random_weights: bool = False
    skeleton: Skeleton | None = None
    runtime: str | None = None


class Catalogue:
    """Names of networks: the zoo's, a file's given at start, and every `<backbone>+<head>`.

    allow_random: a `<backbone>+<head>` is there without weights too.
    folder: its files are served by their names without the ending; they go before the zoo's.
    """

    def __init__(self, model: str, allow_random: bool = False, folder: Path | None = None) -> None:
        self._allow_random = allow_random
        if folder is not None and not folder.is_dir():
            raise InvalidParameter("models_dir", f"models_dir: {folder} is no folder")
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._specs = _Specs()
        self.default = self._resolve(model)

    def name_of(self, model: str) -> str:
        """The name that a model is served under; UnknownName lists what there is."""
        name = self.default if model == DEFAULT else model
        if self._own(name) is not None:
            return name
        name = name.replace(" ", "+")  # which a plus in a query stands for
        if "+" in name:
            try:
                spec = default_spec(name)
            except SpecError as error:
                raise UnknownName("model", name, self._names()) from error
            if not _is_backbone(spec.backbone.name):
                raise UnknownName("model", name, self._names())
            return spec.name
        try:
            return zoo.find(name).name
        except UnknownName:
            raise UnknownName("model", name, self._names()) from None

    def source(self, name: str) -> str | Path:
        """What `heads.load.load` takes for a name."""
        return self._own(name) or name

    def file(self, name: str) -> Path | None:
        """The file of a name, whose change is a new network; None where there is none."""
        if (own := self._own(name)) is not None:
            return own
        entries = zoo.entries()
        found = (e.name for e in entries if name in (e.name, e.network) and is_here(e.name))
        here = next(found, None)
        return None if here is None else zoo.locate(here)

    def check(self, name: str) -> None:
        """Raises what loading a name would end in, as far as that can be told without torch.

        CheckpointError where its file is damaged, WeightsMissing where there is none.
        """
        if (own := self._own(name)) is not None:
            self._specs.of(own)
        elif "+" in name:
            info = self.info(name, {})
            if info.state == "weights-missing":
                raise WeightsMissing(name, info.command or "hrpose models")

    def named(self, name: str, spec: NetworkSpec) -> NetworkSpec:
        """The spec as it is served: a file goes by the name that it is asked for by.

        One of the folder by its own, and one given at start by what it said of itself then.
        """
        return spec if self._own(name) is None else spec.model_copy(update={"name": name})

    def _own(self, name: str) -> Path | None:
        """The file that was given at start, or lies in the folder now."""
        return self._files.get(name) or self._in_folder(name)

    def _in_folder(self, name: str) -> Path | None:
        if self._folder is None or name == DEFAULT or name in self._files:
            return None
        if not _PLAIN.fullmatch(name):
            return None
        paths = (self._folder / f"{name}{ending}" for ending in ENDINGS)
        return next((path for path in paths if os.path.isfile(path)), None)

    def _own_names(self) -> tuple[str, ...]:
        lying = () if self._folder is None else sorted(self._folder.glob("*"))
        stems = (path.stem for path in lying if path.suffix in ENDINGS)
        return (*self._files, *(name for name in stems if self._in_folder(name)))

    def infos(self, loaded: Mapping[str, NetworkSpec]) -> list[ModelInfo]:
        """Every network that has a name of its own, also without weights here, and all loaded.

        loaded: what is served by name.
        """
        own = self._own_names()
        named = (*own, *(entry.name for entry in zoo.entries()), *loaded)
        found = []
        for name in dict.fromkeys(named):
            try:
                found.append(self.info(name, loaded))
            except (CheckpointError, UnknownName) as error:  # damaged, or removed meanwhile
                if name not in own:
                    raise
                log.warning("not listed: %s", error)
        return found

    def first_at_hand(self, task: Task, loaded: Mapping[str, NetworkSpec]) -> str | None:
        """A network of that task which is loaded, or else whose weights are here."""
        for name in dict.fromkeys((*loaded, *self._own_names())):
            with suppress(CheckpointError, UnknownName):  # damaged, or removed meanwhile
                if self.info(name, loaded).task == task:
                    return name
        return next((e.name for e in zoo.entries() if e.task == task and is_here(e.name)), None)

    def info(self, name: str, loaded: Mapping[str, NetworkSpec]) -> ModelInfo:
        """What is known of a network by its name in this catalogue."""
        if (own := self._own(name)) is not None:
            # What is loaded is served on, whatever has become of its file.
            spec = loaded[name] if name in loaded else self._specs.of(own)
            return self._of_spec(name, spec, self._state(name, loaded))
        if "+" in name:
            return self._of_form(name, loaded)
        try:
            entry = zoo.find(name)
        except UnknownName:
            if name in loaded:  # its file in the folder is gone
                return self._of_spec(name, loaded[name], "loaded")
            raise
        try:
            path = zoo.locate(name)
        except WeightsMissing as missing:
            return self._of_entry(entry, "weights-missing", missing.command)
        state = self._state(name, loaded)
        if entry.embedded:
            return self._of_spec(name, read_spec(path), state)
        return self._of_entry(entry, state, None)

    def _state(self, name: str, loaded: Mapping[str, NetworkSpec]) -> ModelState:
        return "loaded" if name in loaded else "available"

    def _of_form(self, form: str, loaded: Mapping[str, NetworkSpec]) -> ModelInfo:
        """Of a `<backbone>+<head>`, which gets weights as `heads.load.load` gets them."""
        if form in loaded:
            return self._of_spec(form, loaded[form], "loaded")
        of_form = [entry for entry in zoo.entries() if entry.network == form]
        here = next((entry for entry in of_form if is_here(entry.name)), None)
        if here is not None:
            return replace(self.info(here.name, {}), name=form, is_default=form == self.default)
        if self._allow_random:
            return replace(self._of_spec(form, default_spec(form)), random_weights=True)
        command = (
            f"hrpose weights get {of_form[0].name}" if of_form else "hrpose serve --allow-random"
        )
        return self._of_spec(form, default_spec(form), "weights-missing", command)

    def fetch(self, name: str) -> None:
        """Downloads a public network's weights if they are not here."""
        if self._own(name) is None and "+" not in name:
            zoo.get(name, progress=True)

    def _names(self) -> tuple[str, ...]:
        named = (*self._own_names(), *(entry.name for entry in zoo.entries()))
        return (DEFAULT, "<backbone>+<head>", *named)

    def _resolve(self, model: str) -> str:
        """What `default`, a name or a file means; a file is served under its network's name."""
        if model == DEFAULT:
            return resolve_default()
        path = Path(model)
        check_form(path)
        if path.suffix in ENDINGS:
            name = self._specs.of(path).name
            self._files[name] = path
            return name
        if "+" in model or self._own(model) is not None:
            return self.name_of(model)
        return zoo.find(model).name

    def _of_spec(
        self,
        name: str,
        spec: NetworkSpec,
        state: ModelState = "available",
        command: str | None = None,
    ) -> ModelInfo:
        return self._info(
            name,
            spec.network_name,
            task=spec.task,
            state=state,
            input_size=spec.input_size,
            parameters=spec.provenance.parameters,
            licence=spec.provenance.licence,
            origin=spec.provenance.origin,
            scores=dict(spec.provenance.scores),
            command=command,
            random_weights=not spec.provenance.trained,
            skeleton=spec.skeleton if spec.task in ("pose", "people") else None,
        )

    def _of_entry(self, entry: zoo.ZooEntry, state: ModelState, command: str | None) -> ModelInfo:
        return self._info(
            entry.name,
            entry.network,
            task=entry.task,
            state=state,
            input_size=entry.input_size,
            parameters=None,
            licence=entry.licence,
            origin=entry.source,
            scores={"published": entry.published_score},
            command=command,
        )

    def _info(self, name: str, network: str, **known: Any) -> ModelInfo:
        backbone, _, head = network.partition("+")
        return ModelInfo(
            name=name, backbone=backbone, head=head, is_default=name == self.default, **known
        )


class _Specs:
    """What files say of their networks, read once for as long as they are the same. Thread-safe.

    Networks are listed often, and an ONNX file is read whole to see that it is undamaged.
    """

    def __init__(self) -> None:
        self._read: dict[Path, tuple[Stamp | None, NetworkSpec]] = {}

    def of(self, path: Path) -> NetworkSpec:
        """The spec in a file; CheckpointError where it is damaged or gone."""
        stamp = stamp_of(path)  # before it is read, so that a later change is seen
        known, spec = self._read.get(path, (None, None))
        if spec is None or known != stamp:
            spec = read_onnx_spec(path) if path.suffix == ".onnx" else read_spec(path)
            self._read[path] = stamp, spec
        return spec


def _is_backbone(name: str) -> bool:
    return name.startswith("timm/") or name in _backbones()


@cache
def _backbones() -> frozenset[str]:
    """From a file made by `make docs`: architectures need torch, which may not be installed."""
    content = json.loads(BACKBONES.read_bytes())
    return frozenset(backbone["name"] for backbone in content["backbones"])


def resolve_default() -> str:
    """What `default` means here: an official HRNet in the cache, or the embedded network.

    Where torch is not installed nothing could make the official one ready.
    """
    if find_spec("torch") is None:
        return EMBEDDED_DEFAULT
    return next((name for name in OFFICIAL_DEFAULTS if is_here(name)), EMBEDDED_DEFAULT)


def is_here(name: str) -> bool:
    """True where the weights of a network of the zoo are on this machine."""
    try:
        zoo.locate(name)
    except WeightsMissing:
        return False
    return True
