"""What can be served: names, what is known of each network without loading it, and the defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heads import zoo
from heads.checkpoint import read_spec
from heads.errors import WeightsMissing
from heads.onnx_file import read_onnx_spec
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec, default_spec
from models.errors import SpecError, UnknownName
from service.inference.answers import ModelState

DEFAULT = "default"

EMBEDDED_DEFAULT = "mobilenet_v2_heatmap"
"""The embedded network with the best AP on the validation photos; docs/scores.md has the table."""

OFFICIAL_DEFAULTS = ("hrnet_w48", "hrnet_w32")
"""Official HRNet files win the default as soon as they are in the cache."""

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
    """

    def __init__(self, model: str, allow_random: bool = False) -> None:
        self._allow_random = allow_random
        self._files: dict[str, Path] = {}
        self.default = self._resolve(model)

    def name_of(self, model: str) -> str:
        """The name that a model is served under; UnknownName lists what there is."""
        name = self.default if model == DEFAULT else model
        if name in self._files:
            return name
        if "+" in name:
            try:
                return default_spec(name).name
            except SpecError as error:
                raise UnknownName("model", name, self._names()) from error
        try:
            return zoo.find(name).name
        except UnknownName:
            raise UnknownName("model", name, self._names()) from None

    def source(self, name: str) -> str | Path:
        """What `heads.load.load` takes for a name."""
        return self._files.get(name, name)

    def infos(self, loaded: Mapping[str, NetworkSpec]) -> list[ModelInfo]:
        """Every network that has a name of its own, also without weights here, and all loaded.

        loaded: what is served by name.
        """
        named = (*self._files, *(entry.name for entry in zoo.entries()), *loaded)
        return [self.info(name, loaded) for name in dict.fromkeys(named)]

    def info(self, name: str, loaded: Mapping[str, NetworkSpec]) -> ModelInfo:
        """What is known of a network by its name in this catalogue."""
        if name in self._files:
            return self._of_spec(name, _spec_of(self._files[name]), self._state(name, loaded))
        if "+" in name:
            return self._of_form(name, loaded)
        entry = zoo.find(name)
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
        if name not in self._files and "+" not in name:
            zoo.get(name, progress=True)

    def _names(self) -> tuple[str, ...]:
        named = (*self._files, *(entry.name for entry in zoo.entries()))
        return (DEFAULT, "<backbone>+<head>", *named)

    def _resolve(self, model: str) -> str:
        """What `default`, a name or a file means; a file is served under its network's name."""
        if model == DEFAULT:
            return resolve_default()
        path = Path(model)
        if path.suffix in (".safetensors", ".onnx"):
            name = _spec_of(path).name
            self._files[name] = path
            return name
        return self.name_of(model) if "+" in model else zoo.find(model).name

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


def _spec_of(path: Path) -> NetworkSpec:
    return read_onnx_spec(path) if path.suffix == ".onnx" else read_spec(path)


def resolve_default() -> str:
    """What `default` means here: an official HRNet in the cache, or the embedded network."""
    return next((name for name in OFFICIAL_DEFAULTS if is_here(name)), EMBEDDED_DEFAULT)


def first_at_hand(task: str) -> str | None:
    """A network of that task whose weights are here; None where there is none."""
    return next((e.name for e in zoo.entries() if e.task == task and is_here(e.name)), None)


def is_here(name: str) -> bool:
    """True where the weights of a network of the zoo are on this machine."""
    try:
        zoo.locate(name)
    except WeightsMissing:
        return False
    return True
