"""A name or a file -> Network: embedded networks, downloaded public ones, and files of others."""

import re
from pathlib import Path

import torch

from heads import zoo
from heads.checkpoint import load_network
from heads.codec import Refine
from heads.errors import CheckpointError, WeightsMissing
from heads.geometry import Size
from heads.network import Network, build
from heads.onnx_file import check_form
from heads.spec import (
    INPUT_MULTIPLE,
    CodecSpec,
    NetworkSpec,
    Normalisation,
    Provenance,
    default_spec,
)
from models.errors import SpecError, WeightsError
from models.weights import load_weights


def load(
    name_or_file: str | Path, network: str | None = None, *, allow_random: bool = False
) -> Network:
    """The network of that name or in that file, in eval mode.

    name_or_file: a name of `hrpose models`, `<backbone>+<head>` (the first network of that form
        whose weights are here), a checkpoint of ours (.safetensors), or a public file (.pth,
        .safetensors) together with `network`, its `<backbone>+<head>`.
    allow_random: builds a `<backbone>+<head>` without weights; its spec's name says so.
    Raises UnknownName, WeightsMissing (a known network that is not downloaded yet),
    CheckpointError (a file that cannot be used) or WeightsError (tensors that do not fit).
    """
    path = Path(name_or_file)
    if network is not None:
        return load_public(path, spec_of_public(path.name, network))
    if path.suffix == ".safetensors":
        return load_network(path)
    check_form(path)
    if path.suffix == ".onnx" and path.is_file():
        raise CheckpointError(
            f"{path.name} is an exported network, which cannot be made a torch module again; take "
            "the name or checkpoint that it was exported from"
        )
    if path.suffix in (".pth", ".pt", ".tar"):
        raise CheckpointError(
            f"{path.name} does not say what network it holds: pass network='<backbone>+<head>'"
        )
    name = str(name_or_file)
    return _load_form(name, allow_random) if "+" in name else _load_entry(zoo.find(name))


def _load_entry(entry: zoo.ZooEntry) -> Network:
    path = zoo.locate(entry.name)
    if entry.embedded:
        return load_network(path)
    try:
        return load_public(path, public_spec(entry))
    except WeightsError as error:
        if zoo.verify(entry.name) != "damaged":
            raise
        command = f"hrpose weights get {entry.name}"
        raise WeightsError(f"{path.name} is damaged; `{command}` downloads it anew") from error


def _load_form(network: str, allow_random: bool) -> Network:
    """Any network of the form `<backbone>+<head>`; without weights only where that is allowed."""
    spec = default_spec(network)
    entries = [entry for entry in zoo.entries() if entry.network == network]
    for entry in entries:
        try:
            return _load_entry(entry)
        except WeightsMissing:
            continue
    if allow_random:
        return _untrained(spec)
    if entries:
        raise WeightsMissing(network, f"hrpose weights get {entries[0].name}")
    build(spec)  # what cannot be built at all is said first
    raise WeightsMissing(
        network,
        f"hrpose serve --model CHECKPOINT of a trained {network}, or hrpose serve --allow-random",
    )


def _untrained(spec: NetworkSpec) -> Network:
    """The network as building it gives it, the same at every start."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = build(spec)
    provenance = Provenance(
        trained=False,
        origin="random weights: the answers mean nothing",
        parameters=sum(p.numel() for p in network.parameters()),
    )
    name = f"{spec.name} (random weights)"
    network.spec = spec.model_copy(update={"name": name, "provenance": provenance})
    return network.eval()


def load_public(path: Path, spec: NetworkSpec) -> Network:
    """A public file of tensors, strictly, into the network that `spec` describes."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path.name}")
    network = build(spec)
    try:
        load_weights(network, path)
    except WeightsError as error:
        if not spec.backbone.name.startswith("timm/"):
            raise
        advice = f"hrpose.create_backbone({spec.backbone.name!r}, weights=...)"
        raise WeightsError(f"{error}; files of timm are read by {advice}") from error
    return network.eval()


def spec_of_public(file: str, network: str) -> NetworkSpec:
    """The spec of a public file by its name and its `<backbone>+<head>`.

    A file of the zoo's name is the zoo's. Of others, pose networks were made with the official crop
    and decoding, unless the name says `udp` or `dark`; `384x288` in it is the size of their input.
    Classifiers are built and shown images as the zoo's first of the same form; TensorFlow's, which
    the name tells, want other means.
    """
    alike = [entry for entry in zoo.entries() if entry.network == network and not entry.embedded]
    for entry in alike:
        if Path(entry.file).name == file:
            return public_spec(entry)
    spec = default_spec(network)
    if spec.head.kind == "center":
        raise SpecError(f"{network}: no public file holds a center head of this form")
    said = file.lower()
    if spec.task == "classify" and alike:
        known = public_spec(alike[0])
        own = {"name": spec.name, "provenance": spec.provenance}
        if not any(word in said for word in ("google", "tf_", "adv_")):
            own["normalisation"] = spec.normalisation
        return known.model_copy(update=own)
    if spec.task != "pose":
        return spec
    udp, dark = (re.search(rf"(?<![a-z]){word}(?![a-z])", said) for word in ("udp", "dark"))
    size = _size_in(said) or spec.input_size
    refine: Refine = "dark" if udp or dark else "quarter"
    return spec.model_copy(
        update={
            "input_size": size,
            "alignment": "udp" if udp else "legacy",
            "codec": _published_codec(spec, size, refine),
        }
    )


def _size_in(file: str) -> Size | None:
    """The input's (height, width) that the file's name of a pose network tells last.

    Some write the width first; people are higher than they are wide.
    """
    pairs = [sorted(map(int, pair), reverse=True) for pair in _SIZE.findall(file)]
    sizes = [(h, w) for h, w in pairs if w >= 96 and h <= 1024 and not (h | w) % INPUT_MULTIPLE]
    return sizes[-1] if sizes else None


_SIZE = re.compile(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)")


def _published_codec(spec: NetworkSpec, input_size: Size, refine: Refine) -> CodecSpec:
    """Published recipes widen the Gaussian, and DARK's blur with it, at the larger input."""
    large = spec.task == "pose" and input_size[0] >= 384
    width = {"sigma": 3.0 if large else 2.0, "blur_kernel": 17 if large else 11}
    return spec.codec.model_copy(update={"refine": refine, **width})


def public_spec(entry: zoo.ZooEntry) -> NetworkSpec:
    """The spec of a public network: its entry in the zoo says what differs from the usual."""
    spec = default_spec(entry.network, input_size=entry.input_size)
    classify = entry.task == "classify"
    return spec.model_copy(
        update={
            "name": entry.name,
            "backbone": spec.backbone.model_copy(update={"options": entry.options}),
            "center_share": entry.center_share if classify else spec.center_share,
            "input_size": entry.input_size,
            "alignment": entry.alignment,
            "codec": _published_codec(spec, entry.input_size, entry.refine),
            "normalisation": Normalisation(
                mean=entry.mean, std=entry.std, channel_order=entry.channel_order
            ),
            "provenance": Provenance(origin=entry.source, licence=entry.licence),
        }
    )
