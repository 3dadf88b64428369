"""An exported network in 8-bit integers: smaller, and faster where the processor has them.

Weights become int8 by output channel, activations by tensor, with ranges taken from sample images
(arXiv:1806.08342); the package nncf decides which operations. Accuracy is lost, and how much only
evaluation tells.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from heads.errors import ExportError
from heads.files import write_whole
from heads.onnx_file import INPUT, add_spec, read_onnx_spec
from models.extras import explained, without_telemetry

FEWEST = 16
"""Sample images: with fewer, ranges would be those of a few pictures."""


def quantize_onnx(file: Path, samples: Sequence[npt.NDArray[np.uint8]], target: Path) -> None:
    """Writes the int8 form of an ONNX file of ours; whole or not at all.

    samples: what the network is fed when it serves, RGB uint8 [H, W, 3] each. The new spec has
    another name and no scores, for those of the original are not its own. Raises ExportError
    with too few samples, PackageMissing, CheckpointError for another file.
    """
    if len(samples) < FEWEST:
        raise ExportError(
            f"quantizing needs {FEWEST} sample images or more; the photographs gave {len(samples)}"
        )
    without_telemetry()
    with explained():
        import nncf
        import onnx
        from nncf.quantization.advanced_parameters import QuantizationParameters

    spec = read_onnx_spec(file)
    small = nncf.quantize(
        onnx.load(file),
        nncf.Dataset([{INPUT: sample[None]} for sample in samples]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        # nncf gives depthwise convolutions a range a channel, which ONNX Runtime cannot run.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_quantization_params=QuantizationParameters(per_channel=False)
        ),
    )
    del small.metadata_props[:]  # the spec and the hash of the original
    provenance = spec.provenance.model_copy(update={"scores": {}})
    spec = spec.model_copy(update={"name": f"{spec.name}_int8", "provenance": provenance})
    write_whole(target, add_spec(small.SerializeToString(), spec))
