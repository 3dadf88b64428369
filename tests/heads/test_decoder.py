"""Decoding inside an exported graph gives what the codec gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads.codec import HeatmapCodec, Refine
from heads.decoder import HeatmapDecoder
from heads.errors import ExportError
from heads.export import export_decoded
from heads.geometry import Alignment
from heads.load import load

SIZES = {"input_size": (128, 96), "heatmap_size": (32, 24)}


def maps_of(codec: HeatmapCodec, count: int = 200) -> Any:
    """Blobs anywhere, also at the border, with a little noise; the last map is empty."""
    rng = np.random.default_rng(0)
    points = rng.uniform((0, 0), (95, 127), (1, count, 2))
    blobs, _ = codec.encode(points, np.ones((1, count)))
    maps = blobs * rng.uniform(0.2, 1, (1, count, 1, 1)) + rng.uniform(0, 0.01, blobs.shape)
    maps[:, -1] = 0
    return maps.astype(np.float32)


@pytest.mark.parametrize("alignment", ["udp", "legacy"])
@pytest.mark.parametrize("refine", ["none", "quarter", "dark"])
def test_the_module_decodes_as_the_codec(alignment: Alignment, refine: Refine) -> None:
    codec = HeatmapCodec(**SIZES, alignment=alignment, refine=refine)  # type: ignore[arg-type]
    maps = maps_of(codec)
    points, scores = codec.decode(maps)
    found = HeatmapDecoder(codec)(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(found[..., :2], points, atol=1e-4)
    np.testing.assert_array_equal(found[..., 2], scores)
    assert found[0, -1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("blur_kernel", [11, 17])
def test_a_map_smaller_than_the_blur_is_decoded_too(blur_kernel: int) -> None:
    codec = HeatmapCodec((32, 32), (8, 8), blur_kernel=blur_kernel)
    maps = np.random.default_rng(1).uniform(0.1, 1, (3, 2, 8, 8)).astype(np.float32)
    found = HeatmapDecoder(codec)(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(found[..., :2], codec.decode(maps)[0], atol=1e-4)


def test_the_exported_graph_goes_from_crops_to_keypoints(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from service.inference.decoding import measure_decoded

    network = load("mobilenet_v2_heatmap")
    file = tmp_path / "decoded.onnx"
    export_decoded(network, file)
    street = Path(__file__).parents[2] / "docs" / "street.jpg"
    row = measure_decoded(network, file, [street])
    assert row.keypoints == 17 * row.crops >= 3 * 17
    assert row.sure_pixels is not None
    assert row.sure_pixels < 0.05
    assert row.pixels < 1.0
    assert row.score < 1e-4


def test_what_has_no_heatmaps_of_one_person_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pose networks with heatmaps"):
        export_decoded(load("movenet_multipose"), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refine", ["quarter", "dark"])
def test_the_module_works_where_its_maps_are(refine: Refine) -> None:
    """On a device without numbers, which no tensor of the processor may meet."""
    codec = HeatmapCodec((64, 48), (16, 12), refine=refine)
    maps = torch.empty((2, 17, 16, 12), device="meta")
    assert HeatmapDecoder(codec).to("meta")(maps).device.type == "meta"


def test_the_module_leaves_the_foot_of_a_peak_beyond_the_border_as_the_codec() -> None:
    codec = HeatmapCodec((256, 192), (64, 48))
    x, y = np.arange(48), np.arange(64)[:, None]
    floors = np.array([0.0, 0.03, 0.1], np.float32)[:, None, None]
    maps = (np.exp(-((x + 3) ** 2 + (y - 30) ** 2) / 8) + floors).astype(np.float32)[:, None]
    points, _ = codec.decode(maps)
    found = HeatmapDecoder(codec)(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(found[..., :2], points, atol=0.01)
