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
        return to_input(form["image"].file.read(), self.model.size, form.get("boxes"))

    def batch(self, inputs: list[Any]) -> Any:
        """One array of the crops of several uploads."""
        return np.concatenate([array for array, _ in inputs]), [boxes for _, boxes in inputs]

    def predict(self, batch: Any) -> Any:
        """Heatmaps of a batch."""
        arrays, boxes = batch
        with torch.no_grad():
            return self.model(torch.from_numpy(arrays)).numpy(), boxes

    def unbatch(self, output: Any) -> Any:
        """Answers one by one."""
        heatmaps, boxes = output
        ends = np.cumsum([len(people) for people in boxes])[:-1]
        return list(zip(np.split(heatmaps, ends), boxes, strict=True))

    def encode_response(self, output: Any) -> Any:
        """JSON of everybody."""
        return to_answer(*output)


if __name__ == "__main__":
    api = PoseAPI(sys.argv[2], max_batch_size=8, batch_timeout=0.01, api_path="/pose")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
