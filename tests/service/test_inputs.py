"""All ways to send a photograph and its options give the same answer."""

import base64
import io
import json
import tempfile
import tracemalloc
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.body import Body
from service.errors import InvalidParameter
from service.inference.answers import PoseOptions
from service.settings import MIB, Settings
from tests.service.conftest import HEIGHT, WIDTH, client_of, make_photo
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem

JPEG = {"content-type": "image/jpeg"}
JSON = {"content-type": "application/json"}


def as_json(photo: bytes, **options: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(photo).decode(), **options}


def test_the_answer_is_as_documented(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose", files={"image": ("x.jpg", photo, "image/jpeg")})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["model", "skeleton", "image", "boxes_from", "people", "timing_ms"]
    assert body["model"] == "fast"
    assert list(body["skeleton"]) == ["name", "keypoints", "edges"]
    assert body["image"] == {"width": WIDTH, "height": HEIGHT}
    assert body["boxes_from"] == "detector:finder"
    assert list(body["timing_ms"]) == ["decode", "detect", "queue", "network", "total"]
    first = body["people"][0]
    assert list(first) == ["box", "box_score", "score", "keypoints"]
    assert first["box"] == pytest.approx([16, 24, 128, 204])
    assert first["box_score"] == 0.8
    assert first["score"] == pytest.approx(0.72)
    assert [point["name"] for point in first["keypoints"]] == body["skeleton"]["keypoints"]
    assert first["keypoints"][0] == pytest.approx(
        {"name": "nose", "x": 80.0, "y": 42.36, "score": 0.9}
    )


def test_every_form_of_the_photograph_gives_the_same_answer(
    client: TestClient, photo: bytes
) -> None:
    encoded = base64.b64encode(photo).decode()
    broken_lines = base64.encodebytes(photo).decode()
    answers = [
        client.post("/pose", files={"image": photo}),
        client.post("/pose", files={"image": ("a.png", photo, "text/plain")}),
        client.post("/pose", content=photo, headers=JPEG),
        client.post("/pose", content=photo, headers={"content-type": "IMAGE/PNG; x=1"}),
        client.post("/pose", content=photo, headers={"content-type": "application/octet-stream"}),
        client.post("/pose", content=photo),
        client.post("/pose", json={"image": encoded}),
        client.post("/pose", json={"image": broken_lines}),
        client.post("/pose", json={"image": f"data:image/jpeg;base64,{encoded}"}),
        client.post("/pose", content=(photo[i : i + 500] for i in range(0, len(photo), 500))),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {answers[0].text}


def test_every_form_of_the_options_means_the_same(
    client: TestClient, engine: FakeEngine, photo: bytes
) -> None:
    boxes = [[10.0, 20.0, 100.0, 200.0], [150.0, 20.0, 100.0, 200.0]]
    as_text = {
        "boxes": json.dumps(boxes),
        "threshold": "0.25",
        "max_people": "7",
        "flip_test": "true",
        "model": "fast",
    }
    client.post("/pose", files={"image": photo}, data=as_text)
    client.post("/pose", content=photo, headers=JPEG, params=as_text)
    client.post("/pose", files={"image": photo}, params=as_text)
    client.post(
        "/pose",
        json=as_json(
            photo, boxes=boxes, threshold=0.25, max_people=7, flip_test=True, model="fast"
        ),
    )
    one_by_one = {**as_text, "boxes": [json.dumps(box) for box in boxes]}
    client.post("/pose", files={"image": photo}, data=one_by_one)
    expected = PoseOptions(tuple(tuple(box) for box in boxes), 0.25, 7, True)  # type: ignore[misc]
    assert engine.asked == [("fast", expected)] * 5


def test_what_is_left_out_or_empty_takes_its_default(
    client: TestClient, engine: FakeEngine, photo: bytes
) -> None:
    blank = {"boxes": "", "threshold": "", "max_people": "", "flip_test": "", "model": ""}
    client.post("/pose", files={"image": photo})
    client.post("/pose", files={"image": photo}, data=blank)
    client.post("/pose", json=as_json(photo, boxes=None, threshold=None, model=None))
    assert engine.asked == [("fast", PoseOptions())] * 3


def test_a_single_box_needs_no_outer_list(
    client: TestClient, engine: FakeEngine, photo: bytes
) -> None:
    client.post("/pose", files={"image": photo}, data={"boxes": "[1, 2, 30, 40]"})
    assert engine.asked[0][1].boxes_xywh == ((1.0, 2.0, 30.0, 40.0),)
    body = client.post("/pose?boxes=[1,2,30,40]", content=photo).json()
    assert body["boxes_from"] == "client"
    assert body["people"][0]["box_score"] is None


def test_no_boxes_are_an_answer_of_nobody(client: TestClient, photo: bytes) -> None:
    body = client.post("/pose?boxes=[]", content=photo).json()
    assert body["people"] == []
    assert body["boxes_from"] == "client"


def test_detect_answers_boxes(client: TestClient, photo: bytes) -> None:
    body = client.post("/detect?max_people=1", content=photo).json()
    assert list(body) == ["model", "image", "boxes", "timing_ms"]
    assert body["model"] == "finder"
    assert body["boxes"] == [{"box": [16.0, 24.0, 128.0, 204.0], "score": 0.8}]
    assert len(client.post("/detect?threshold=0.75", content=photo).json()["boxes"]) == 1
    assert client.post("/detect", json=as_json(photo, model="fast")).json()["model"] == "fast"


def test_large_uploads_never_touch_the_disk(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    photo = make_photo("bmp", 1600, 1200)
    assert len(photo) > 5_000_000
    assert client.post("/pose", files={"image": io.BytesIO(photo)}).status_code == 200


@pytest.mark.parametrize("promised", [True, False])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(
    engine: FakeEngine, photo: bytes, promised: bool
) -> None:
    with client_of(Settings(max_upload_mb=len(photo) / MIB), engine) as client:
        for body, status in ((photo, 200), (photo + b"\0", 413)):
            content = body if promised else iter([body])
            assert client.post("/pose", content=content, headers=JPEG).status_code == status


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_every_kind_of_image_file_is_read(client: TestClient, kind: str) -> None:
    assert client.post("/pose", files={"image": make_photo(kind)}).status_code == 200


@pytest.mark.parametrize(
    ("options", "parameter", "said"),
    [
        ({"threshold": "NaN"}, "threshold", "finite number"),
        ({"threshold": "inf"}, "threshold", "finite number"),
        ({"boxes": "[[true, 0, 10, 10]]"}, "boxes", "should be a number"),
        ({"boxes": "[[NaN, 0, 10, 10]]"}, "boxes", "finite number"),
    ],
)
def test_what_is_no_number_is_said_to_be_none(
    client: TestClient, photo: bytes, options: dict[str, str], parameter: str, said: str
) -> None:
    answer = client.post("/pose", files={"image": photo}, data=options)
    body = assert_problem(answer, 422, "invalid-parameter")
    assert (body["parameter"], said in body["detail"]) == (parameter, True), body


def test_a_name_may_not_stand_twice_in_json_either(client: TestClient, photo: bytes) -> None:
    text = json.dumps(as_json(photo, threshold=0.1))[:-1] + ', "threshold": 0.9}'
    answer = client.post("/pose", content=text, headers=JSON)
    assert "more than once" in assert_problem(answer, 422, "invalid-parameter")["detail"]


def test_base64_may_have_white_space_anywhere(client: TestClient, photo: bytes) -> None:
    whole = client.post("/pose", json=as_json(photo)).json()["people"]
    text = base64.b64encode(photo).decode()
    for pieces in (text[:1], text[:76]):
        size = len(pieces)
        broken = "\r\n \t".join(text[at : at + size] for at in range(0, len(text), size))
        assert client.post("/pose", json={"image": broken}).json()["people"] == whole
    assert_problem(client.post("/pose", json={"image": text + "\u00a0"}), 422, "invalid-parameter")


def test_white_space_costs_no_memory_of_its_own() -> None:
    """A string for each piece between two spaces would be tens of bytes for three."""
    text = "aa " * 500_001
    tracemalloc.start()
    with pytest.raises(InvalidParameter):
        Body(None, json.dumps({"image": text}).encode(), ()).parse()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(text)
