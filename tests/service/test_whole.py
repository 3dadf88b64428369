"""The whole service with the networks that ship: real photographs through a real server."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image as Pillow

from heads.image import decode_image, encode_image, read_image
from service.inference.engine import Engine
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.conftest import real_server

CLIENTS = 32
TIMEOUT_S = 120
"""Of a request: 32 at once take long on a busy machine."""

PHOTOS = ("street", "keeper", "skateboard", "mirror", "astronaut")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(max_batch=8)


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with real_server(Settings(timeout_s=TIMEOUT_S), engine) as (host, port):
        yield f"http://{host}:{port}"


def pose(url: str, data: bytes, **form: Any) -> Any:
    answer = httpx2.post(f"{url}/pose", files={"image": data}, data=form, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def points_of(answer: Any) -> Any:
    """[people, 17, 3] as (x, y, score)."""
    return np.array(
        [[[k["x"], k["y"], k["score"]] for k in p["keypoints"]] for p in answer["people"]]
    ).reshape(-1, 17, 3)


def street_bytes() -> bytes:
    return (ROOT / "docs" / "street.jpg").read_bytes()


def test_three_people_come_back_with_seventeen_named_keypoints(url: str) -> None:
    answer = pose(url, street_bytes())
    assert answer["model"] == "mobilenet_v2_heatmap"
    assert answer["boxes_from"] == "detector:movenet_multipose"
    assert answer["image"] == {"width": 640, "height": 428}
    assert len(answer["people"]) == 3
    for person in answer["people"]:
        names = [k["name"] for k in person["keypoints"]]
        assert names == answer["skeleton"]["keypoints"]
        assert names[5] == "left_shoulder"
    # The standing man faces the camera: his own left is on the picture's right.
    standing = min(answer["people"], key=lambda p: abs(p["box"][0] - 326))
    at = {k["name"]: (k["x"], k["y"]) for k in standing["keypoints"]}
    assert at["left_shoulder"][0] > at["right_shoulder"][0] + 20
    assert at["left_hip"][0] > at["right_hip"][0] + 10
    assert at["nose"][1] < at["left_hip"][1] < at["left_knee"][1] < at["left_ankle"][1]


def test_an_answer_does_not_depend_on_who_else_asks(url: str, engine: Engine) -> None:
    """32 clients at once, each with its own photograph: same answers, and batches were shared."""
    photos = [varied(i) for i in range(CLIENTS)]
    alone = [pose(url, photo) for photo in photos]
    before = engine.counters()["mobilenet_v2_heatmap"].shared_batches
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(lambda photo: pose(url, photo), photos))
    assert engine.counters()["mobilenet_v2_heatmap"].shared_batches > before
    for one, other in zip(alone, together, strict=True):
        assert len(one["people"]) == len(other["people"])
        np.testing.assert_allclose(points_of(one), points_of(other), atol=2e-3)
    assert sum(len(answer["people"]) for answer in alone) > CLIENTS


def varied(i: int) -> bytes:
    """One of the photographs, cut and sometimes mirrored so that no two are the same."""
    image = read_image(ROOT / "docs" / f"{PHOTOS[i % len(PHOTOS)]}.jpg")
    image = image[i // 4 :, 2 * i :]
    return encode_image(image[:, ::-1] if i % 2 else image, "png")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_copy_has_the_same_people_in_the_upright_frame(url: str, orientation: int) -> None:
    """Stored turned, with an EXIF tag that says so, as phones do."""
    upright = Pillow.open(io.BytesIO(street_bytes()))
    turned = {1: upright, 3: upright.rotate(180), 6: upright.rotate(90, expand=True)}
    turned[8] = upright.rotate(-90, expand=True)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    files = {}
    for name, options in (("plain", {}), ("tagged", {"exif": exif})):
        buffer = io.BytesIO()
        picture = upright if name == "plain" else turned[orientation]
        picture.save(buffer, "PNG", **options)
        files[name] = buffer.getvalue()
    plain, tagged = pose(url, files["plain"]), pose(url, files["tagged"])
    assert tagged["image"] == {"width": 640, "height": 428}
    np.testing.assert_allclose(points_of(tagged), points_of(plain), atol=1e-2)


def test_the_clients_box_gives_the_detectors_person(url: str) -> None:
    detected = pose(url, street_bytes())
    boxes = [person["box"] for person in detected["people"]]
    given = pose(url, street_bytes(), boxes=json.dumps(boxes))
    assert given["boxes_from"] == "client"
    np.testing.assert_allclose(points_of(given), points_of(detected), atol=0.05)


def test_swapped_colours_change_the_answer(url: str) -> None:
    image = decode_image(street_bytes())
    right = points_of(
        pose(url, encode_image(image, "png"), threshold=0.0, boxes="[[326,174,71,197]]")
    )
    swapped = encode_image(np.ascontiguousarray(image[..., ::-1]), "png")
    wrong = points_of(pose(url, swapped, threshold=0.0, boxes="[[326,174,71,197]]"))
    assert np.abs(right - wrong)[..., 2].max() > 0.02


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg"])
def test_the_drawn_picture_shows_the_skeletons(url: str, kind: str) -> None:
    image = decode_image(street_bytes())
    answer = pose(url, encode_image(image, "png"))
    drawn = httpx2.post(
        f"{url}/pose",
        files={"image": encode_image(image, "png")},
        headers={"accept": kind},
        timeout=120,
    )
    assert drawn.headers["content-type"] == kind
    picture = decode_image(drawn.content)
    assert picture.shape == image.shape
    changed = np.abs(picture.astype(int) - image).max(axis=2) > 60
    for person in points_of(answer):
        x, y = person[5, :2].round().astype(int)  # left shoulder
        assert changed[y - 3 : y + 4, x - 3 : x + 4].any()
    assert 0.005 < changed.mean() < 0.2


def test_detect_answers_boxes_only(url: str) -> None:
    answer = httpx2.post(f"{url}/detect", files={"image": street_bytes()}, timeout=60).json()
    assert answer["model"] == "movenet_multipose"
    assert len(answer["boxes"]) >= 3


def test_every_embedded_network_answers_by_name(url: str) -> None:
    for name in ("movenet_multipose", "movenet_thunder", "hrnet_w18_small"):
        assert pose(url, street_bytes(), model=name)["model"] == name


def test_a_public_network_without_weights_says_how_to_get_them(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path))
    answer = httpx2.post(
        f"{url}/pose", files={"image": street_bytes()}, data={"model": "hrnet_w48"}, timeout=60
    )
    assert answer.status_code == 409
    assert "hrpose weights get hrnet_w48" in answer.json()["detail"]
