"""The Open Inference Protocol: by hand over HTTP, and as the client of Triton speaks it."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.settings import Settings
from service.v2 import HEADER_LENGTH, MAX_IMAGES
from tests.processes import free_port
from tests.service.conftest import client_of, make_photo, wait_until
from tests.service.fakes import SECRET, FakeEngine

ROOT = Path(__file__).parents[2]
STREET = ROOT / "docs" / "street.jpg"


def request_of(*photos: bytes, **more: Any) -> dict[str, Any]:
    """A request with its images in base64."""
    texts = [base64.b64encode(photo).decode() for photo in photos]
    image = {"name": "image", "datatype": "BYTES", "shape": [len(photos)], "data": texts}
    return {"inputs": [image], **more}


def infer(client: TestClient, name: str, body: dict[str, Any]) -> Any:
    return client.post(f"/v2/models/{name}/infer", json=body)


def arrays(answer: Any) -> dict[str, Any]:
    """Outputs of a JSON answer by name."""
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in answer.json()["outputs"]}


def test_people_are_those_of_pose(client: TestClient, photo: bytes) -> None:
    people = client.post("/pose", content=photo).json()["people"]
    answer = infer(client, "default", request_of(photo, id="7"))
    assert (answer.status_code, answer.json()["id"]) == (200, "7")
    assert answer.json()["model_name"] == "fast"
    found = arrays(answer)
    assert found["keypoints"].shape == (2, 17, 3)
    assert found["people_per_image"].tolist() == [2]
    for person, keypoints, box, score in zip(
        people, found["keypoints"], found["boxes"], found["scores"], strict=True
    ):
        points = [[k["x"], k["y"], k["score"]] for k in person["keypoints"]]
        np.testing.assert_allclose(keypoints, points, atol=0.01)
        np.testing.assert_allclose(box, person["box"], atol=0.01)
        assert score == pytest.approx(person["score"], abs=1e-3)


def test_people_of_several_images_stand_in_a_row(client: TestClient, photo: bytes) -> None:
    wide = make_photo(width=640)
    found = arrays(infer(client, "fast", request_of(photo, wide)))
    assert found["people_per_image"].tolist() == [2, 2]
    np.testing.assert_allclose(found["boxes"][2:, 0], 2 * found["boxes"][:2, 0], rtol=1e-5)


def test_options_are_parameters_of_the_request(
    client: TestClient, engine: FakeEngine, photo: bytes
) -> None:
    options = {"max_people": 1, "threshold": 0.25, "flip_test": True}
    found = arrays(infer(client, "fast", request_of(photo, parameters=options)))
    assert found["scores"].shape == (1,)
    asked = engine.asked[-1][1]
    assert (asked.max_people, asked.threshold, asked.flip_test) == (1, 0.25, True)


def test_only_the_outputs_that_were_named_are_answered(client: TestClient, photo: bytes) -> None:
    body = request_of(photo, outputs=[{"name": "scores"}])
    assert list(arrays(infer(client, "fast", body))) == ["scores"]


def test_nobody_is_no_row_and_still_has_a_shape(client: TestClient, photo: bytes) -> None:
    found = arrays(infer(client, "fast", request_of(photo, parameters={"threshold": 1.0})))
    assert found["keypoints"].shape == (0, 17, 3)
    assert found["people_per_image"].tolist() == [0]


def test_classes_and_class_maps_are_tensors_too(client: TestClient, photo: bytes) -> None:
    named = arrays(infer(client, "namer", request_of(photo, photo, parameters={"top_k": 2})))
    assert named["classes"].tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(named["probabilities"], [[0.7, 0.2]] * 2, rtol=1e-6)
    painted = arrays(infer(client, "painter", request_of(photo)))["class_map"]
    assert painted.shape == (240, 320)
    assert set(np.unique(painted)) == {0, 2}


def test_values_travel_binary_in_both_directions(client: TestClient, photo: bytes) -> None:
    data = len(photo).to_bytes(4, "little") + photo
    image = {
        "name": "image", "datatype": "BYTES", "shape": [1],
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    header = json.dumps({"inputs": [image], "parameters": {"binary_data_output": True}}).encode()
    answer = client.post(
        "/v2/models/fast/infer", content=header + data, headers={HEADER_LENGTH: str(len(header))}
    )
    assert answer.status_code == 200, answer.text
    end = int(answer.headers[HEADER_LENGTH])
    outputs = json.loads(answer.content[:end])["outputs"]
    at = end
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        assert size == 4 * int(np.prod(output["shape"]))
        at += size
    assert at == len(answer.content)
    keypoints = np.frombuffer(answer.content[end:], "<f4", count=2 * 17 * 3).reshape(2, 17, 3)
    plain = arrays(infer(client, "fast", request_of(photo)))["keypoints"]
    np.testing.assert_allclose(keypoints, plain, rtol=1e-6)


def test_metadata_names_tensors_and_their_types(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    pose = client.get("/v2/models/default").json()
    assert pose["name"] == "fast"
    assert pose["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert pose["outputs"][0]["name"] == "keypoints"
    assert client.get("/v2/models/painter").json()["outputs"][0]["datatype"] == "UINT8"


def test_networks_and_server_say_whether_they_are_ready(
    client: TestClient, engine: FakeEngine
) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/fast/ready").json() == {"name": "fast", "ready": True}
    assert client.get("/v2/models/missing/ready").status_code == 409
    engine.is_full = True
    for path in ("/v2/health/ready", "/v2/models/fast/ready"):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json())) == (503, {"error"})
        assert answer.headers["retry-after"] == "1"


def _without(key: str) -> dict[str, Any]:
    body = request_of(b"x")
    del body["inputs"][0][key]
    return body


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "inputs"),
        ({"inputs": [1, 2]}, 422, "one input"),
        (_without("shape"), 422, "shape"),
        (_without("datatype"), 422, "BYTES"),
        (_without("data"), 422, "data"),
        (request_of(b"no image"), 400, "image"),
        (request_of(b"x", outputs=[{"name": "heat"}]), 422, "heat"),
        (request_of(b"x", parameters={"model": "slow"}), 422, "model"),
        (request_of(b"x", parameters={"threshold": 2}), 422, "threshold"),
        (request_of(b"x", parameters={"binary_data_output": 1}), 422, "binary_data_output"),
        (request_of(*[b"x"] * (MAX_IMAGES + 1)), 413, str(MAX_IMAGES)),
        ({"inputs": [{**request_of(b"x")["inputs"][0], "shape": [2]}]}, 422, "shape"),
        (
            {"inputs": [{**request_of(b"x")["inputs"][0], "parameters": {"binary_data_size": 0}}]},
            422,
            "one of them",
        ),
        ({"inputs": [{**request_of(b"x")["inputs"][0], "shape": [True]}]}, 422, "shape"),
        ({"inputs": [{**request_of(b"x")["inputs"][0], "data": ["%"]}]}, 422, "base64"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(
    client: TestClient, body: dict[str, Any], status: int, word: str
) -> None:
    answer = infer(client, "fast", body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert word in answer.json()["error"]


@pytest.mark.parametrize("length", ["0", "-1", "99999999", "1e3", "x", "9" * 5000, "0" * 19 + "1x"])
def test_a_wrong_header_length_is_refused(client: TestClient, photo: bytes, length: str) -> None:
    body = json.dumps(request_of(photo)).encode()
    answer = client.post("/v2/models/fast/infer", content=body, headers={HEADER_LENGTH: length})
    assert answer.status_code == 422, answer.text


def infer_binary(client: TestClient, tail: bytes, size: int | None) -> Any:
    """Asks with bytes after the JSON, which says that they are so many."""
    image: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
    if size is not None:
        image["parameters"] = {"binary_data_size": size}
    header = json.dumps({"inputs": [image]}).encode()
    return client.post(
        "/v2/models/fast/infer", content=header + tail, headers={HEADER_LENGTH: str(len(header))}
    )


NO_TENSOR = "the bytes after the JSON are no BYTES tensor"


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"", "the shape has 1 images; 0 came"),
        (b"\x05", NO_TENSOR),
        (b"\xff\xff\xff\xff", NO_TENSOR),
        (b"\x09\0\0\0short", NO_TENSOR),
        (b"\0" * 12, "the shape has 1 images; 3 came"),
        (b"\0" * 4 * (MAX_IMAGES + 1), NO_TENSOR),
    ],
)
def test_damaged_binary_values_are_refused(client: TestClient, tail: bytes, reason: str) -> None:
    answer = infer_binary(client, tail, len(tail))
    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("size", [None, 0, 99])
def test_bytes_after_the_json_are_all_of_the_input(
    client: TestClient, photo: bytes, size: int | None
) -> None:
    tail = len(photo).to_bytes(4, "little") + photo
    assert infer_binary(client, tail, len(tail)).status_code == 200
    answer = infer_binary(client, tail, size)
    assert answer.status_code == 422
    assert f"{len(tail)} bytes" in answer.json()["error"]


@pytest.mark.parametrize("binary_by_default", [True, False])
def test_each_output_may_have_a_form_of_its_own(
    client: TestClient, photo: bytes, binary_by_default: bool
) -> None:
    outputs = [
        {"name": "boxes", "parameters": {"binary_data": True}},
        {"name": "scores", "parameters": {"binary_data": False}},
        {"name": "people_per_image"},
    ]
    parameters = {"binary_data_output": binary_by_default}
    answer = infer(client, "fast", request_of(photo, outputs=outputs, parameters=parameters))
    end = int(answer.headers[HEADER_LENGTH])
    boxes, scores, counts = json.loads(answer.content[:end])["outputs"]
    plain = arrays(infer(client, "fast", request_of(photo)))
    assert (boxes["name"], boxes["parameters"]) == ("boxes", {"binary_data_size": 32})
    found = np.frombuffer(answer.content[end : end + 32], "<f4").reshape(2, 4)
    np.testing.assert_allclose(found, plain["boxes"], rtol=1e-6)
    assert (scores["name"], "parameters" in scores) == ("scores", False)
    np.testing.assert_allclose(scores["data"], plain["scores"], rtol=1e-6)
    assert ("data" in counts) is not binary_by_default
    assert len(answer.content) == end + 32 + 4 * binary_by_default


@pytest.mark.parametrize(
    ("name", "status"), [("nobody", 404), ("missing", 409), ("full", 429), ("broken", 500)]
)
def test_refusals_have_the_status_of_the_other_routes(
    client: TestClient, photo: bytes, name: str, status: int
) -> None:
    answer = infer(client, name, request_of(photo))
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert SECRET not in answer.text
    assert answer.status_code == client.post(f"/pose?model={name}", content=photo).status_code


def test_bodies_and_answers_are_limited(engine: FakeEngine, photo: bytes) -> None:
    with client_of(Settings(max_upload_mb=0.05), engine) as client:
        big = infer(client, "fast", request_of(b"x" * 60_000))
        assert (big.status_code, set(big.json())) == (413, {"error"})
        long = infer(client, "painter", request_of(photo))  # 76,800 numbers as text
        assert (long.status_code, set(long.json())) == (413, {"error"})


def test_keys_are_asked_for_and_not_by_health(engine: FakeEngine, photo: bytes) -> None:
    with client_of(Settings(api_keys="k"), engine) as client:  # type: ignore[arg-type]
        answer = infer(client, "fast", request_of(photo))
        assert (answer.status_code, set(answer.json())) == (401, {"error"})
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v2/models/fast").status_code == 401
        assert client.get("/v2/health/ready").status_code == 200


# Triton's client against a process


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a process that serves the real networks."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "hrpose", "serve", "--port", str(port)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(is_ready, timeout_s=120)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(40)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_of_triton_gets_what_pose_answers(server: str, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    photo = STREET.read_bytes()
    people = httpx2.post(f"http://{server}/pose", content=photo, timeout=60).json()["people"]
    client = http.InferenceServerClient(server, network_timeout=60)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("default")
    assert not client.is_model_ready("hrnet_w48_dark")
    assert client.get_server_metadata()["name"] == "hrpose"
    assert client.get_model_metadata("default")["inputs"][0]["datatype"] == "BYTES"

    image = http.InferInput("image", [1], "BYTES")
    sent: bytes | str = photo if binary else base64.b64encode(photo).decode()
    image.set_data_from_numpy(np.array([sent], object), binary_data=binary)
    names = ("keypoints", "boxes", "scores", "people_per_image")
    outputs = None if binary else [http.InferRequestedOutput(n, binary_data=False) for n in names]
    answer = client.infer("default", [image], outputs=outputs, parameters={"max_people": 50})
    keypoints = answer.as_numpy("keypoints")
    assert len(people) == 3
    assert keypoints.dtype == np.float32
    expected = [[[k["x"], k["y"], k["score"]] for k in p["keypoints"]] for p in people]
    np.testing.assert_allclose(keypoints, expected, atol=6e-3)
    np.testing.assert_allclose(answer.as_numpy("boxes"), [p["box"] for p in people], atol=6e-3)
    np.testing.assert_allclose(answer.as_numpy("scores"), [p["score"] for p in people], atol=6e-4)
    assert answer.as_numpy("people_per_image").tolist() == [3]

    errors = pytest.importorskip("tritonclient.utils")
    with pytest.raises(errors.InferenceServerException, match="nobody"):
        client.infer("nobody", [image])
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/fast/config", 404),
        ("GET", "/v2/models/fast/versions/1", 404),
        ("GET", "/v2/models/fast/infer", 405),
        ("GET", "/v2/", 404),
    ],
)
def test_what_is_not_there_is_said_in_the_form_of_the_protocol(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_rows_may_be_lists_of_their_own(client: TestClient, photo: bytes) -> None:
    body = request_of(photo, photo)
    flat = arrays(infer(client, "fast", body))
    image = body["inputs"][0]
    image |= {"shape": [2, 1], "data": [[text] for text in image["data"]]}
    nested = arrays(infer(client, "fast", body))
    np.testing.assert_array_equal(nested["keypoints"], flat["keypoints"])


def test_nothing_may_be_said_as_null(client: TestClient, photo: bytes) -> None:
    body = request_of(photo, id=None, parameters=None, outputs=None)
    body["inputs"][0]["parameters"] = None
    assert infer(client, "fast", body).status_code == 200
    body["outputs"] = [{"name": "scores", "parameters": None}]
    assert list(arrays(infer(client, "fast", body))) == ["scores"]


@pytest.mark.parametrize("outputs", [0, {}, "", [0], [{"name": "nobody"}]])
def test_wrong_outputs_are_refused_before_the_work(
    client: TestClient, engine: FakeEngine, photo: bytes, outputs: Any
) -> None:
    answer = infer(client, "fast", request_of(photo, outputs=outputs))
    assert answer.status_code == 422
    assert "output" in answer.json()["error"]
    assert not engine.asked
