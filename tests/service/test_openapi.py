"""The OpenAPI document says what the server does."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def references(node: Any) -> Iterator[str]:
    """Every $ref anywhere in a document."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def validate(document: dict[str, Any], name: str, answer: Any) -> None:
    """Holds an answer against a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


def test_every_reference_is_there(document: dict[str, Any]) -> None:
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        jsonschema.Draft202012Validator.check_schema(node)


def keys_of(node: Any) -> Iterator[str]:
    """Every key anywhere in a document."""
    if isinstance(node, dict):
        yield from node
        for value in node.values():
            yield from keys_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys_of(value)


def test_bounds_of_numbers_are_in_words_of_json_schema(document: dict[str, Any]) -> None:
    assert not {"ge", "le", "gt", "lt"} & set(keys_of(document))
    asked = {entry["name"]: entry for entry in document["paths"]["/pose"]["post"]["parameters"]}
    for name, fits, does_not in (("threshold", 0.5, 2), ("max_people", 3, 0)):
        schema = jsonschema.Draft202012Validator(asked[name]["schema"])
        assert schema.is_valid(fits)
        assert not schema.is_valid(does_not)
    (top_k,) = (
        entry["schema"]
        for entry in document["paths"]["/classify"]["post"]["parameters"]
        if entry["name"] == "top_k"
    )
    assert (top_k["minimum"], top_k["maximum"]) == (1, 1000)


def test_it_names_every_route_and_its_refusals(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        "/pose", "/detect", "/classify", "/segment", "/models", "/models/{name}", "/backbones",
        "/models/{name}/load", "/models/{name}/unload",
        "/health/live", "/health/ready", "/metrics",
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}",
        "/v2/models/{name}/ready", "/v2/models/{name}/infer",
    }  # fmt: skip
    responses = document["paths"]["/pose"]["post"]["responses"]
    refusals = {"400", "401", "403", "404", "406", "409", "413", "415", "422", "429", "500"}
    assert set(responses) == {"200", "503", "504"} | refusals
    assert set(responses["422"]["content"]) == {"application/problem+json"}
    assert set(responses["200"]["content"]) == {"application/json", "image/jpeg", "image/png"}
    assert "422" not in document["paths"]["/models/{name}"]["get"]["responses"]


@pytest.mark.parametrize(
    ("path", "names", "pictures"),
    [("/classify", {"model", "top_k"}, set()),
     ("/segment", {"model", "view"}, {"image/jpeg", "image/png"})],
)  # fmt: skip
def test_routes_for_a_whole_image_are_described_like_pose(
    document: dict[str, Any], path: str, names: set[str], pictures: set[str]
) -> None:
    operation, pose = document["paths"][path]["post"], document["paths"]["/pose"]["post"]
    assert {p["name"] for p in operation["parameters"]} == names
    assert set(operation["responses"]) == set(pose["responses"])
    assert set(operation["responses"]["200"]["content"]) == {"application/json"} | pictures
    assert set(operation["requestBody"]["content"]) == set(pose["requestBody"]["content"])


def test_it_names_every_form_of_the_input(document: dict[str, Any]) -> None:
    operation = document["paths"]["/pose"]["post"]
    assert {p["name"] for p in operation["parameters"]} == {
        "boxes", "threshold", "max_people", "flip_test", "model",
    }  # fmt: skip
    content = operation["requestBody"]["content"]
    assert set(content) == {
        "multipart/form-data", "image/*", "application/octet-stream", "application/json",
    }  # fmt: skip
    schema = content["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"image": "AAAA", "boxes": [[1, 2, 3, 4]], "threshold": 0.5})
    assert validator.is_valid({"image": "AAAA", "boxes": None})
    for wrong in ({}, {"image": "A", "boxes": [[1, 2, 3]]}, {"image": "A", "thresold": 1}):
        assert not validator.is_valid(wrong)


def test_answers_keep_to_their_schemas(
    document: dict[str, Any], client: TestClient, photo: bytes
) -> None:
    validate(document, "PoseResponse", client.post("/pose", content=photo).json())
    validate(document, "PoseResponse", client.post("/pose?boxes=[1,1,9,9]", content=photo).json())
    validate(document, "DetectResponse", client.post("/detect", content=photo).json())
    validate(document, "ClassifyResponse", client.post("/classify", content=photo).json())
    validate(document, "SegmentResponse", client.post("/segment", content=photo).json())
    validate(document, "ModelsResponse", client.get("/models").json())
    validate(document, "ModelAnswer", client.get("/models/default").json())
    validate(document, "BackbonesResponse", client.get("/backbones").json())
    validate(document, "Problem", client.post("/pose").json())


def test_models_say_what_they_are(client: TestClient, engine: FakeEngine) -> None:
    body = client.get("/models").json()
    assert (body["default"], body["detector"]) == (engine.default, engine.detector)
    by_name = {model["name"]: model for model in body["models"]}
    assert by_name["fast"]["is_default"]
    assert by_name["fast"]["input_size"] == [256, 192]
    assert by_name["missing"]["state"] == "weights-missing"
    assert by_name["missing"]["command"] == "hrpose weights get missing"
    assert client.get("/models/default").json() == by_name["fast"]


def test_backbones_come_with_paper_and_cost(client: TestClient) -> None:
    by_name = {entry["name"]: entry for entry in client.get("/backbones").json()["backbones"]}
    assert by_name["hrnet_w32"]["paper"]
    assert by_name["hrnet_w32"]["multiply_adds"] > 1e9


def test_metrics_count_requests_and_batches(client: TestClient, photo: bytes) -> None:
    client.post("/pose", content=photo)
    client.post("/pose", content=b"no image")
    client.get("/nothing")
    text = client.get("/metrics").text
    for line in (
        'hrpose_requests_total{route="/pose",status="200"} 1.0',
        'hrpose_requests_total{route="/pose",status="400"} 1.0',
        'hrpose_requests_total{route="other",status="404"} 1.0',
        'hrpose_request_seconds_count{route="/pose"} 2.0',
        'hrpose_shared_batches_total{model="fast"} 1.0',
        'hrpose_queue_crops{model="fast"} 2.0',
        "hrpose_requests_at_work 0.0",
    ):
        assert line in text


def test_pages_come_with_a_policy_that_keeps_them_at_home(client: TestClient) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert "text/html" in answer.headers["content-type"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://www.w3.org", "")
        assert "https://" not in answer.text
        assert client.head(path).status_code == 200


def test_the_document_can_be_written_and_read(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert json.loads(json.dumps(document)) == document


def test_it_says_where_a_key_is_needed_and_how_it_is_sent(
    document: dict[str, Any], engine: FakeEngine
) -> None:
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    with client_of(Settings(api_keys=SecretStr("secret")), engine) as locked:
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                answer = locked.request(method, path.replace("{name}", "fast"))
                assert (answer.status_code == 401) == ("security" in operation), (method, path)
