"""The same endpoint by LitServe, which gathers batches in a process of its own.

python -m tests.peers.lit PORT NETWORK
"""

import sys
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import Request

from tests.peers.usual import Plain, to_answer, to_input

LitAPI: Any = litserve.LitAPI


class PoseAPI(LitAPI):  # type: ignore[misc]
    """Photographs to keypoints in LitServe's steps."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name

    def setup(self, device: str) -> None:
        """Loads the network."""
        self.model = Plain(self.name).to(device)

    def decode_request(self, request: Request) -> Any:
        """The network's input of one upload."""
        form: Any = request  # LitServe hands in the form that was sent
        return to_input(form["image"].file.read(), self.model.size)

    def batch(self, inputs: list[Any]) -> Any:
        """One array of several inputs."""
        return np.stack([array for array, _ in inputs]), [size for _, size in inputs]

    def predict(self, batch: Any) -> Any:
        """Heatmaps of a batch."""
        arrays, sizes = batch
        with torch.no_grad():
            return self.model(torch.from_numpy(arrays)).numpy(), sizes

    def unbatch(self, output: Any) -> Any:
        """Answers one by one."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: Any) -> Any:
        """JSON of one person."""
        return to_answer(*output)


if __name__ == "__main__":
    api = PoseAPI(sys.argv[2], max_batch_size=8, batch_timeout=0.01, api_path="/pose")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
