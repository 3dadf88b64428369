"""A name or a file -> Network: embedded networks, downloaded public ones, and files of others."""

from pathlib import Path

from heads import zoo
from heads.checkpoint import load_network
from heads.errors import CheckpointError
from heads.network import Network, build
from heads.spec import NetworkSpec, default_spec
from models.errors import SpecError
from models.weights import load_strict, read_state, rename


def load(name_or_file: str | Path, network: str | None = None) -> Network:
    """The network of that name or in that file, in eval mode.

    name_or_file: a name of `hrpose models`, a checkpoint of ours (.safetensors), or a public
        file (.pth, .safetensors) together with `network`, its `<backbone>+<head>`.
    Raises UnknownName, WeightsMissing (a known network that is not downloaded yet),
    CheckpointError (a file that cannot be used) or WeightsError (tensors that do not fit).
    """
    path = Path(name_or_file)
    if network is not None:
        return load_public(path, default_public_spec(network))
    if path.suffix == ".safetensors":
        return load_network(path)
    if path.suffix in (".pth", ".pt", ".tar"):
        raise CheckpointError(
            f"{path.name} does not say what network it holds: pass network='<backbone>+<head>'"
        )
    entry = zoo.find(str(name_or_file))
    located = zoo.locate(entry.name)
    if entry.embedded:
        return load_network(located)
    return load_public(located, public_spec(entry))


def load_public(path: Path, spec: NetworkSpec) -> Network:
    """A public file of tensors, strictly, into the network that `spec` describes."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path.name}")
    network = build(spec)
    load_strict(network, rename(read_state(path), "auto"), path.name)
    return network.eval()


def default_public_spec(network: str) -> NetworkSpec:
    """The spec of a public file about which only `<backbone>+<head>` is known.

    Public pose files were made with the official crop unless their name says otherwise.
    """
    spec = default_spec(network)
    if spec.head.kind == "center":
        raise SpecError(f"{network}: no public file holds a center head of this form")
    codec = spec.codec.model_copy(update={"refine": "quarter"})
    return spec.model_copy(update={"alignment": "legacy", "codec": codec})


def public_spec(entry: zoo.ZooEntry) -> NetworkSpec:
    """The spec of a public network: its entry in the zoo says what differs from the usual."""
    if entry.task != "pose":
        raise SpecError(
            f"{entry.name} is a {entry.task} network; only pose networks are served yet"
        )
    spec = default_spec(entry.network, input_size=entry.input_size)
    # Published recipes widen the Gaussian, and DARK's blur with it, at the larger input.
    large = entry.input_size[0] >= 384
    return spec.model_copy(
        update={
            "name": entry.name,
            "alignment": entry.alignment,
            "codec": spec.codec.model_copy(
                update={
                    "refine": entry.refine,
                    "sigma": 3.0 if large else 2.0,
                    "blur_kernel": 17 if large else 11,
                }
            ),
            "normalisation": spec.normalisation.model_copy(
                update={"channel_order": entry.channel_order}
            ),
            "provenance": spec.provenance.model_copy(
                update={"origin": entry.source, "licence": entry.licence}
            ),
        }
    )
