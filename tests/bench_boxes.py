"""How well and how fast the detector finds boxes, with its glance and without it.

    python -m tests.bench_boxes --annotations BOXES.json --images FOLDER

BOXES.json: COCO annotations of people, of which only the boxes are read. Prints the official box AP
(pycocotools), the share of photographs that were looked at a second time, and processor time a
photograph, by OpenVINO on one thread, the two ways in turn on each photograph.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from heads.image import read_image
from heads.photo import Photo
from service.inference.engine import DEFAULT_DETECTOR, serve_network
from service.inference.job import Job
from service.inference.loading import Loader, choose
from service.inference.pipeline import PeopleNetwork


@dataclass
class Way:
    """One way to look, and what came of it."""

    name: str
    network: PeopleNetwork
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def look(self, photo: Photo, image_id: int, category_id: int) -> None:
        """Boxes of one photograph, noted as COCO results."""
        start = time.process_time()
        boxes, _ = self.network.boxes(photo, Job())
        self.seconds += time.process_time() - start
        self.results += [
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [*box.xywh],
                "score": box.score,
            }
            for box in boxes
        ]


def measure(annotations: Path, images: Path) -> str:
    """The table."""
    content = json.loads(annotations.read_text())
    category_id = content["categories"][0]["id"]
    loaded = Loader(choose("openvino", threads=1)).load(DEFAULT_DETECTOR, boxes_only=True)
    network = serve_network(loaded, contextlib.nullcontext(True))
    assert isinstance(network, PeopleNetwork)
    once = network.spec.model_copy(
        update={"view": network.spec.view.model_copy(update={"glance": None})}
    )
    ways = [Way("glance", network), Way("one look", PeopleNetwork(once, network.batcher))]
    for entry in content["images"]:
        photo = Photo.of(read_image(images / entry["file_name"]))
        for way in ways:
            way.look(photo, entry["id"], category_id)
    count = len(content["images"])
    crops = network.batcher.counters().crops
    again = (crops - 2 * count) / count  # each way looks once at least
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    lines = [f"{count} photographs, {again:.2f} of them looked at twice", ""]
    lines += [
        f"| {DEFAULT_DETECTOR} | AP | AP50 | AP S | AP M | AP L | AR | ms a photograph |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in ways:
        figures = " | ".join(f"{value:.3f}" for value in box_scores(truth, way.results))
        lines.append(f"| {way.name} | {figures} | {way.seconds / count * 1000:.1f} |")
    return "\n".join(lines)


def box_scores(truth: COCO, results: Sequence[dict[str, Any]]) -> list[float]:
    """AP, AP50, AP of small, medium and large boxes, and AR."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(list(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(evaluation.stats[i]) for i in (0, 1, 3, 4, 5, 8)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    given = parser.parse_args()
    sys.stdout.write(measure(given.annotations, given.images) + "\n")
