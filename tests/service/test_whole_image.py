"""POST /classify and /segment: the same inputs and refusals as /pose, and what comes back."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pillow
from pydantic import SecretStr

from heads.image import decode_image
from service.inference.engine import Engine
from service.png import encode_indexed
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine
from tests.service.test_problems import JPEG, assert_problem, png_header

PATHS = ("/classify", "/segment")


@pytest.mark.parametrize("path", PATHS)
def test_every_form_of_input_gives_the_same_answer(
    client: TestClient, photo: bytes, path: str
) -> None:
    answers = [
        client.post(path, files={"image": ("a.jpg", photo, "image/jpeg")}),
        client.post(path, content=photo, headers=JPEG),
        client.post(path, json={"image": base64.b64encode(photo).decode()}),
    ]
    assert [a.status_code for a in answers] == [200] * 3
    assert len({a.text for a in answers}) == 1


def test_classes_come_likeliest_first(client: TestClient, photo: bytes) -> None:
    answer = client.post("/classify", content=photo, headers=JPEG, params={"top_k": 2}).json()
    assert answer == {
        "model": "namer",
        "image": {"width": 320, "height": 240},
        "classes": [
            {"index": 0, "name": "cat", "probability": 0.7},
            {"index": 1, "name": "dog", "probability": 0.2},
        ],
        "random_weights": False,
        "timing_ms": {"decode": 1.0, "queue": 0.0, "network": 2.0, "total": 3.0},
    }


def test_runs_give_the_class_map_back(client: TestClient, photo: bytes) -> None:
    answer = client.post("/segment", content=photo, headers=JPEG).json()
    assert [(c["name"], c["share"]) for c in answer["classes"]] == [("grass", 0.75), ("sky", 0.25)]
    runs = np.array(answer["runs"])
    class_map = np.repeat(runs[:, 0], runs[:, 1]).reshape(240, 320)
    assert (class_map[:60] == 0).all()
    assert (class_map[60:] == 2).all()


def test_a_png_holds_indices_and_their_colours(client: TestClient, photo: bytes) -> None:
    headers = JPEG | {"accept": "image/png"}
    answer = client.post("/segment", content=photo, headers=headers)
    picture = Pillow.open(io.BytesIO(answer.content))
    assert picture.mode == "P"
    indices = np.asarray(picture)
    assert indices.shape == (240, 320)
    assert set(np.unique(indices)) == {0, 2}
    assert picture.convert("RGB").getpixel((5, 5)) == (0, 0, 200)


@pytest.mark.parametrize(
    ("accept", "params"), [("image/jpeg", {}), ("image/png", {"view": "overlay"})]
)
def test_an_overlay_shows_the_picture_under_colours(
    client: TestClient, photo: bytes, accept: str, params: dict[str, str]
) -> None:
    headers = JPEG | {"accept": accept}
    answer = client.post("/segment", content=photo, headers=headers, params=params)
    assert answer.headers["content-type"] == accept
    drawn, original = decode_image(answer.content).astype(int), decode_image(photo).astype(int)
    expected = (original[10, 10] + [0, 0, 200]) / 2
    assert np.abs(drawn[10, 10] - expected).max() < 12
    expected = (original[200, 300] + [0, 200, 0]) / 2
    assert np.abs(drawn[200, 300] - expected).max() < 12


@pytest.mark.parametrize("path", PATHS)
def test_refusals_are_those_of_pose(client: TestClient, photo: bytes, path: str) -> None:
    def sent(**options: Any) -> Any:
        return client.post(path, **({"content": photo, "headers": JPEG} | options))

    assert_problem(sent(content=b""), 400, "bad-image")
    assert_problem(sent(content=b"no image"), 400, "bad-image")
    assert_problem(sent(params={"model": "nonsense"}), 404, "unknown-model")
    assert_problem(sent(params={"model": "missing"}), 409, "weights-missing")
    assert_problem(sent(params={"treshold": "1"}), 422, "invalid-parameter")
    assert_problem(sent(params={"model": "full"}), 429, "overloaded")
    assert_problem(sent(params={"model": "broken"}), 500, "internal")
    assert_problem(sent(headers={"content-type": "text/html"}), 415, "media-type")
    assert_problem(sent(headers=JPEG | {"accept": "text/html"}), 406, "not-acceptable")
    assert_problem(client.get(path), 405, "method")


@pytest.mark.parametrize("path", PATHS)
def test_limits_are_those_of_pose(client: TestClient, path: str) -> None:
    many_pixels = client.post(path, content=png_header(20_000, 20_000), headers=JPEG)
    assert assert_problem(many_pixels, 413, "too-large")["limit"] == "max_megapixels = 50"
    many_bytes = client.post(path, content=bytes(20_000_000), headers=JPEG)
    assert assert_problem(many_bytes, 413, "too-large")["limit"] == "max_upload_mb = 16"


@pytest.mark.parametrize("path", PATHS)
def test_work_that_takes_too_long_is_dropped(engine: FakeEngine, photo: bytes, path: str) -> None:
    with client_of(Settings(timeout_s=0.2), engine) as client:
        answer = client.post(f"{path}?model=stuck", content=photo, headers=JPEG)
        assert_problem(answer, 504, "deadline")
        assert engine.dropped.acquire(timeout=5)


@pytest.mark.parametrize("path", PATHS)
def test_keys_are_asked_for(engine: FakeEngine, photo: bytes, path: str) -> None:
    with client_of(Settings(api_keys=SecretStr("apple")), engine) as client:
        assert_problem(client.post(path, content=photo), 401, "unauthorized")
        wrong = client.post(path, content=photo, headers={"x-api-key": "pear"})
        assert_problem(wrong, 403, "unauthorized")
        right = client.post(path, content=photo, headers={"x-api-key": "apple"})
        assert right.status_code == 200


@pytest.mark.parametrize("value", ["classmap", "OVERLAY", "1"])
def test_a_view_that_is_none_is_refused(client: TestClient, photo: bytes, value: str) -> None:
    answer = client.post("/segment", content=photo, headers=JPEG, params={"view": value})
    assert "view" in assert_problem(answer, 422, "invalid-parameter")["detail"]


@pytest.mark.parametrize("value", ["0", "1001", "many", "-3", "1.5"])
def test_top_k_is_a_count(client: TestClient, photo: bytes, value: str) -> None:
    answer = client.post("/classify", content=photo, headers=JPEG, params={"top_k": value})
    assert "top_k" in assert_problem(answer, 422, "invalid-parameter")["detail"]


def test_pictures_of_classes_are_not_written(client: TestClient, photo: bytes) -> None:
    answer = client.post("/classify", content=photo, headers=JPEG | {"accept": "image/png"})
    assert_problem(answer, 406, "not-acceptable")


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 64)])
def test_an_indexed_png_is_read_back_by_others(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 256, shape, dtype=np.uint8)
    palette = [(i, 255 - i, i // 2) for i in range(256)]
    picture = Pillow.open(io.BytesIO(encode_indexed(indices, palette)))
    np.testing.assert_array_equal(np.asarray(picture), indices)
    colours = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(colours, np.array(palette, np.uint8)[indices])


def test_the_embedded_classifier_knows_an_elephant() -> None:
    """Real weights through the whole server: the keeper stands before an elephant."""
    data = (ROOT / "docs" / "keeper.jpg").read_bytes()
    with client_of(Settings(), Engine()) as client:
        answer = client.post("/classify", content=data, headers=JPEG).json()
        assert answer["model"] == "efficientnet_lite0"
        assert answer["classes"][0]["name"] == "Indian elephant"
        assert answer["classes"][0]["probability"] > 0.7
        assert not answer["random_weights"]
        assert_problem(client.post("/segment", content=data, headers=JPEG), 409, "weights-missing")


def test_random_weights_are_served_only_when_asked_and_say_so() -> None:
    data = (ROOT / "docs" / "keeper.jpg").read_bytes()
    with client_of(Settings(allow_random=True), Engine(allow_random=True)) as client:
        for path, head in (("/classify", "classify"), ("/segment", "fpn")):
            params = {"model": f"mobilenet_v2+{head}"}
            answer = client.post(path, content=data, headers=JPEG, params=params).json()
            assert answer["random_weights"]
            assert "random weights" in answer["model"]
