"""A trained network that a smaller one learns from: its heatmaps are soft targets (distillation).

Zhang, Zhu, Ye 2019, "Fast Human Pose Estimation", arXiv:1811.05419: the student sees where the
teacher is unsure, and gets a target for keypoints that nobody labelled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.load import load
from heads.network import input_tensor
from heads.spec import NetworkSpec
from training.errors import RecipeError


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
        theirs, ours = ((s.alignment, s.codec.sigma) for s in (spec, student))
        # A center network's peaks are as wide as its people are large.
        if spec.head.kind != "center" and theirs != ours:
            raise RecipeError(
                f"teacher {spec.name} answers maps of alignment {theirs[0]} and sigma {theirs[1]}; "
                f"those of {student.name} have {ours[0]} and {ours[1]}"
            )
        self._kind = kind
        self._size, self._heatmap_size = spec.input_size, student.heatmap_size

    def heatmaps(self, images: Tensor) -> Tensor:
        """RGB uint8 [N, H, W, 3] as the student sees them -> [N, K, h, w] at the student's size.

        Where the teacher's input has other sides, the crops are resized to it. A center network
        teaches with its heatmap branch.
        """
        spec, kind = self._network.spec, self._kind
        mixed = torch.autocast(images.device.type, kind, enabled=kind != torch.float32)
        with torch.inference_mode(), mixed:
            x = input_tensor(spec, images).contiguous(memory_format=torch.channels_last)
            if x.shape[2:] != self._size:
                x = F.interpolate(x, size=self._size, mode="bilinear", antialias=True)
            answer = self._network(x)
        maps: Tensor = answer["kpt_heatmap"].sigmoid() if isinstance(answer, dict) else answer
        maps = maps.float()
        if maps.shape[2:] != self._heatmap_size:
            maps = F.interpolate(maps, size=self._heatmap_size, mode="bilinear")
        return maps.clone()  # an inference tensor must not meet autograd
