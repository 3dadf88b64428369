"""What a network answers in validation: in evaluation mode, with 32 bits, on the processor."""

import torch

from heads.image import Image
from heads.network import Maps, Network, input_tensor
from heads.spec import NetworkSpec
from training.errors import TrainingDiverged


def answers(network: Network, spec: NetworkSpec, views: Image) -> Maps:
    """Of RGB uint8 views [N, H, W, 3], float32.

    Raises TrainingDiverged where one is not finite: no comparison with it means anything.
    """
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        said = network(input_tensor(spec, torch.from_numpy(views).to(device)))
    parts = said if isinstance(said, dict) else {"": said}
    maps = {name: tensor.float().cpu() for name, tensor in parts.items()}
    if not all(tensor.isfinite().all() for tensor in maps.values()):
        raise TrainingDiverged(f"{spec.name} answers what is not finite; try a lower learning_rate")
    return maps if isinstance(said, dict) else maps[""]
