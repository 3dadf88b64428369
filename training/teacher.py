"""A trained network that a smaller one learns from: its heatmaps are soft targets (distillation).

Zhang, Zhu, Ye 2019, "Fast Human Pose Estimation", arXiv:1811.05419: the student sees where the
teacher is unsure, and gets a target for keypoints that nobody labelled.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from heads import openvino_core
from heads.export import export_onnx
from heads.geometry import cell_scale
from heads.load import load
from heads.network import Network, input_tensor
from heads.spec import NetworkSpec
from models.errors import HrposeError
from training.errors import RecipeError

SIGMA_TOLERANCE = 0.1
"""Peaks may be wider or narrower by this share: sides and alignments seldom fit to the pixel."""


class Teacher:
    """Heatmaps of a trained network for a student's crops.

    network: a name of `hrpose models` or a checkpoint, with the student's keypoints, and maps that
        are laid out as the student's.
    kind: what it computes in.
    """

    def __init__(
        self,
        network: str,
        student: NetworkSpec,
        device: torch.device,
        kind: torch.dtype = torch.float32,
    ) -> None:
        self._network = load(network).to(device).to(memory_format=torch.channels_last)
        spec = self._network.spec
        if spec.task != "pose" or spec.skeleton.keypoints != student.skeleton.keypoints:
            raise RecipeError(f"teacher {spec.name} answers other keypoints than {student.name}")
        # A center network's peaks are as wide as its people are large.
        if spec.head.kind != "center":
            if spec.alignment != student.alignment:
                raise RecipeError(
                    f"teacher {spec.name} answers maps of alignment {spec.alignment}; those of "
                    f"{student.name} have {student.alignment}"
                )
            sigma = _sigma_at(student, spec)
            if not np.allclose(sigma, student.codec.sigma, rtol=SIGMA_TOLERANCE):
                raise RecipeError(
                    f"peaks of teacher {spec.name} have a sigma of {sigma[0]:.2f} x {sigma[1]:.2f} "
                    f"cells of {student.name}; its own have {student.codec.sigma}"
                )
        self._kind = kind
        self._size = spec.input_size
        whole = spec.head.kind != "center" and spec.input_size == student.input_size
        plain = device.type == "cpu" and kind == torch.float32
        self._compiled = _compiled(self._network) if whole and plain else None
        self._grid = torch.from_numpy(_places(student, spec)).to(device)

    def heatmaps(self, images: Tensor) -> Tensor:
        """RGB uint8 [N, H, W, 3] as the student sees them -> [N, K, h, w] at the student's cells.

        Where the teacher's input has other sides, the crops are resized to it; its maps are read
        where the student's cells lie. A center network teaches with its heatmap branch.
        """
        if self._compiled is not None:
            maps = torch.from_numpy(self._compiled(images.numpy())[0])
        else:
            maps = self._eager(images)
        grid = self._grid.expand(len(maps), -1, -1, -1)
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)

    def _eager(self, images: Tensor) -> Tensor:
        """The teacher's own maps, by torch."""
        spec, kind = self._network.spec, self._kind
        mixed = torch.autocast(images.device.type, kind, enabled=kind != torch.float32)
        with torch.inference_mode(), mixed:
            x = input_tensor(spec, images).contiguous(memory_format=torch.channels_last)
            if x.shape[2:] != self._size:
                x = F.interpolate(x, size=self._size, mode="bilinear", antialias=True)
            answer = self._network(x)
        maps: Tensor = answer["kpt_heatmap"].sigmoid() if isinstance(answer, dict) else answer
        return maps.float().clone()  # an inference tensor must not meet autograd


def _compiled(network: Network) -> Any | None:
    """The network by OpenVINO, in half of torch's time on a processor; None where it cannot be had.

    In 32 bits, by as many threads as torch has: the same maps but for rounding.
    """
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # a training process beside it has the same cores
    }
    try:
        core = openvino_core.core()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "teacher.onnx"
            export_onnx(network, file)
            return core.compile_model(file, "CPU", options)
    except (ImportError, HrposeError, RuntimeError):  # not installed, or no words for the network
        return None


def _sigma_at(student: NetworkSpec, teacher: NetworkSpec) -> npt.NDArray[np.float64]:
    """How wide the teacher's peaks are in the student's cells, as (x, y)."""
    pixels = teacher.codec.sigma * cell_scale(
        teacher.input_size, teacher.heatmap_size, teacher.alignment
    )
    shrunk = np.array(student.input_size[::-1]) / np.array(teacher.input_size[::-1])
    cells = cell_scale(student.input_size, student.heatmap_size, student.alignment)
    return np.asarray(pixels * shrunk / cells)


def _places(student: NetworkSpec, teacher: NetworkSpec) -> npt.NDArray[np.float32]:
    """Where the student's cells lie in the teacher's maps: [h, w, 2], from -1, first cell, to 1.

    The student's pixels become the teacher's as `F.interpolate` resizes: edges fall on edges.
    """
    scale = cell_scale(student.input_size, student.heatmap_size, student.alignment)
    across = [np.arange(n) * s for n, s in zip(student.heatmap_size[::-1], scale, strict=True)]
    points = np.stack(np.meshgrid(*across), axis=-1)  # [h, w, 2] as (x, y), the student's pixels
    factor = np.array(teacher.input_size[::-1]) / np.array(student.input_size[::-1])
    points = (points + 0.5) * factor - 0.5
    if teacher.head.kind == "center":
        cells = teacher.center_codec().to_cells(points)
    else:
        cells = points / cell_scale(teacher.input_size, teacher.heatmap_size, teacher.alignment)
    last = np.array(teacher.heatmap_size[::-1]) - 1
    return np.asarray(2 * cells / last - 1, np.float32)
