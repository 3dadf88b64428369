"""No server: ONNX Runtime called in a loop by a script. Reads lines `PHOTO SECONDS [BOXES]`.

python -m tests.peers.loop NETWORK; answers each line with JSON as tests.peers.load does.
"""

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from heads.export import export_onnx
from heads.load import load
from heads.onnx_file import INPUT
from tests.peers.usual import boxes_of, to_answer


def main(name: str) -> None:
    """Runs what each line of the input asks."""
    onnxruntime = importlib.import_module("onnxruntime")
    network = load(name)
    height, width = network.spec.input_size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        export_onnx(network, file)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    say("ready")
    for line in sys.stdin:
        photo, seconds, *more = line.split(maxsplit=2)
        data = np.frombuffer(Path(photo).read_bytes(), np.uint8)
        times: list[float] = []
        end = time.perf_counter() + float(seconds)
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
            assert decoded is not None
            image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
            boxes = boxes_of(more[0] if more else None, image.shape[1], image.shape[0])
            crops = []
            for box in boxes:
                left, top, right, bottom = map(int, (*box[:2], box[0] + box[2], box[1] + box[3]))
                crops.append(cv2.resize(image[top:bottom, left:right], (width, height)))
            (heatmaps,) = session.run(None, {INPUT: np.stack(crops)})
            json.dumps(to_answer(heatmaps, boxes))
            times.append(time.perf_counter() - start)
        say(json.dumps({"seconds": sum(times), "times": times, "failed": 0}))


def say(line: str) -> None:
    """A line to whoever started this."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
