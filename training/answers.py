"""What a network answers in validation: in evaluation mode, with 32 bits, on the processor."""

import torch

from heads.image import Image
from heads.network import Maps, Network, input_tensor
from heads.spec import NetworkSpec
from training.errors import TrainingDiverged

LOOKED_AT = 32
"""So many views at once: a crowd in one photograph is not to need more memory than training."""


def answers(network: Network, spec: NetworkSpec, views: Image) -> Maps:
    """Of RGB uint8 views [N, H, W, 3], float32.

    Raises TrainingDiverged where one is not finite: no comparison with it means anything.
    """
    network.eval()
    device = next(network.parameters()).device
    said: list[Maps] = []
    with torch.inference_mode():
        for part in torch.from_numpy(views).split(LOOKED_AT):
            said.append(network(input_tensor(spec, part.to(device))))
    parts = [maps if isinstance(maps, dict) else {"": maps} for maps in said]
    maps = {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}
    if not all(tensor.isfinite().all() for tensor in maps.values()):
        raise TrainingDiverged(f"{spec.name} answers what is not finite; try a lower learning_rate")
    return maps if isinstance(said[0], dict) else maps[""]
