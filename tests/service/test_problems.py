"""Every row of the error table: what is sent, and the problem that comes back."""

import json
import logging
import struct
import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from heads.image import encode_image
from service.problems import PROBLEMS
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.conftest import client_of, make_photo
from tests.service.fakes import SECRET, FakeEngine

JPEG = {"content-type": "image/jpeg"}


def assert_problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """The body of an RFC 9457 answer of that kind, which shows no insides."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"/problems/{kind}"
    assert body["status"] == status
    assert list(body)[:4] == ["type", "title", "status", "detail"]
    assert body["title"]
    assert body["detail"]
    for inside in ("Traceback", ".py", str(ROOT), SECRET, "Error("):
        assert inside not in response.text
    return dict(body)


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG file that promises so many pixels, a kilobyte long."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    return chunk + bytes(1024 - len(chunk))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello, world", "not an image"),
        (make_photo()[:40], "end"),
        (make_photo("png")[:400], "damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"GIF89a" + bytes(100), "not an image"),
    ],
    ids=["0 bytes", "text", "header cut", "pixels cut", "svg", "gif"],
)
def test_what_is_no_image_is_a_bad_image(client: TestClient, data: bytes, word: str) -> None:
    for path in ("/pose", "/detect"):
        body = assert_problem(client.post(path, content=data, headers=JPEG), 400, "bad-image")
        assert word in body["detail"]


def test_an_empty_file_in_a_form_is_a_bad_image(client: TestClient) -> None:
    answer = client.post("/pose", files={"image": ("empty.jpg", b"", "image/jpeg")})
    assert_problem(answer, 400, "bad-image")


def test_a_request_without_a_body_is_a_bad_image(client: TestClient) -> None:
    assert_problem(client.post("/pose"), 400, "bad-image")


def test_pixels_are_refused_by_the_header(client: TestClient) -> None:
    data = png_header(20_000, 20_000)
    assert len(data) == 1024
    body = assert_problem(client.post("/pose", content=data, headers=JPEG), 413, "too-large")
    assert body["limit"] == "max_megapixels = 50"
    assert "20000 x 20000" in body["detail"]


def test_a_body_of_50_mb_is_refused(client: TestClient) -> None:
    answer = client.post("/pose", content=bytes(50_000_000), headers=JPEG)
    body = assert_problem(answer, 413, "too-large")
    assert body["limit"] == "max_upload_mb = 16"
    form = client.post("/pose", files={"image": ("big.jpg", bytes(20_000_000), "image/jpeg")})
    assert_problem(form, 413, "too-large")
    text = json.dumps({"image": "A" * 20_000_000})
    as_json = client.post("/pose", content=text, headers={"content-type": "application/json"})
    assert_problem(as_json, 413, "too-large")


def test_too_many_boxes_are_refused(client: TestClient, photo: bytes) -> None:
    boxes = json.dumps([[10, 10, 20, 20]] * 1000)
    answer = client.post("/pose", data={"boxes": boxes}, files={"image": photo})
    body = assert_problem(answer, 413, "too-large")
    assert body["limit"] == "max_people = 100"


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("boxes", "[[NaN, 0, 10, 10]]", "finite"),
        ("boxes", "[[0, 0, Infinity, 10]]", "finite"),
        ("boxes", "[[0, 0, 1e999, 10]]", "finite"),
        ("boxes", "[[0, 0, -10, 10]]", "greater than 0"),
        ("boxes", "[[0, 0, 10, 0]]", "greater than 0"),
        ("boxes", "[[0, 0, 10]]", "required"),
        ("boxes", "[[0, 0, 10, 10, 10]]", "at most 4"),
        ("boxes", "[[1000, 0, 10, 10]]", "outside the image"),
        ("boxes", "[[-50, 0, 10, 10]]", "outside the image"),
        ("boxes", "[[0, 0, 1e30, 10]]", "less than"),
        ("boxes", '[["left", 0, 10, 10]]', "number"),
        ("boxes", "1, 2, 3", "JSON"),
        ("boxes", "7", "list"),
        ("boxes", "[" * 100_000, "JSON"),
        ("threshold", "1.5", "less than or equal to 1"),
        ("threshold", "-0.1", "greater than or equal to 0"),
        ("threshold", "nan", "threshold: Input should be"),
        ("threshold", "high", "number"),
        ("max_people", "0", "greater than or equal to 1"),
        ("max_people", "101", "at most 100"),
        ("max_people", "2.5", "integer"),
        ("max_people", "9" * 5000, "integer"),
        ("flip_test", "perhaps", "boolean"),
        ("model", "x" * 101, "at most 100"),
        ("thresold", "0.5", "there is no parameter 'thresold'"),
        ("thresold", "", "there is no parameter 'thresold'"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_named(
    client: TestClient, photo: bytes, name: str, value: str, word: str
) -> None:
    answer = client.post("/pose", data={name: value}, files={"image": photo})
    body = assert_problem(answer, 422, "invalid-parameter")
    assert body["parameter"] == name
    assert word in body["detail"]


def test_a_query_parameter_is_checked_like_a_field(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose?flip=1", content=photo, headers=JPEG)
    assert assert_problem(answer, 422, "invalid-parameter")["parameter"] == "flip"
    twice = client.post("/pose?threshold=0.1&threshold=0.2", content=photo, headers=JPEG)
    assert "more than once" in assert_problem(twice, 422, "invalid-parameter")["detail"]
    no_boxes = client.post("/detect?boxes=[1,2,3,4]", content=photo, headers=JPEG)
    assert assert_problem(no_boxes, 422, "invalid-parameter")["parameter"] == "boxes"


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("{", "body"),
        ("[" * 100_000, "body"),
        ('"image"', "body"),
        ("{}", "image"),
        ('{"image": 7}', "image"),
        ('{"image": "%%%"}', "image"),
        ('{"image": "data:image/png,abc"}', "image"),
        ('{"image": "AAAA", "threshold": true}', "threshold"),
        ('{"image": "AAAA", "boxes": {"left": 0}}', "boxes"),
        ('{"image": "AAAA", "boxes": [[NaN, 0, 1, 1]]}', "boxes"),
        ('{"image": "AAAA", "model": "\\ud800"}', "model"),
        ('{"image": "AAAA", "modell": "fast"}', "modell"),
    ],
)
def test_json_that_cannot_be_meant_names_the_parameter(
    client: TestClient, text: str, parameter: str
) -> None:
    answer = client.post("/pose", content=text, headers={"content-type": "application/json"})
    body = assert_problem(answer, 422, "invalid-parameter")
    assert body["parameter"] == parameter


def test_a_form_without_an_image_says_what_was_sent(client: TestClient, photo: bytes) -> None:
    body = assert_problem(client.post("/pose", files={"file": photo}), 422, "invalid-parameter")
    assert body["parameter"] == "image"
    assert "sent: file" in body["detail"]
    two = client.post("/pose", files=[("image", photo), ("image", photo)])
    assert_problem(two, 422, "invalid-parameter")
    as_text = client.post("/pose", files={"image": (None, b"photo.jpg")})
    assert "as a file" in assert_problem(as_text, 422, "invalid-parameter")["detail"]


def test_a_form_that_is_none_is_refused(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data"}
    answer = client.post("/pose", content=b"--x\r\n", headers=headers)
    assert_problem(answer, 422, "invalid-parameter")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/pose", content=b"--y\r\n\r\n", headers=broken)
    assert_problem(answer, 422, "invalid-parameter")
    odd = {"content-type": "multipart/form-data; boundary=x; charset=undefined"}
    part = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--x--\r\n'
    )
    answer = client.post("/pose", content=part, headers=odd)
    assert_problem(answer, 422, "invalid-parameter")


def test_a_form_in_a_charset_that_takes_minutes_is_refused_at_once(client: TestClient) -> None:
    """Python's punycode needs time with the square of the length."""
    slow = {"content-type": "multipart/form-data; boundary=x; charset=punycode"}
    field = b"-" + b"b" * 900_000
    head = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
    part = head + field + b"\r\n--x--\r\n"
    detail = assert_problem(
        client.post("/pose", content=part, headers=slow), 422, "invalid-parameter"
    )["detail"]
    assert "charset should be utf-8" in detail


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (
            b'{"image": "aaaa", "boxes": [' + b"[]," * 200_000 + b"[]]}",
            {"content-type": "application/json"},
        ),
        (
            b"".join(
                b'--x\r\nContent-Disposition: form-data; name="boxes"\r\n\r\n['
                + b"[]," * 40_000
                + b"[]]\r\n"
                for _ in range(4)
            )
            + b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx'
            + b"\r\n--x--\r\n",
            {"content-type": "multipart/form-data; boundary=x"},
        ),
    ],
    ids=["json", "form"],
)
def test_json_of_very_many_parts_is_refused_before_it_is_read(
    client: TestClient, body: bytes, headers: dict[str, str]
) -> None:
    detail = assert_problem(
        client.post("/pose", content=body, headers=headers), 422, "invalid-parameter"
    )["detail"]
    assert "at most 100000 parts" in detail


def test_an_image_in_the_query_is_told_where_it_belongs(client: TestClient, photo: bytes) -> None:
    detail = assert_problem(client.post("/pose?image=x", content=photo), 422, "invalid-parameter")[
        "detail"
    ]
    assert detail == "image is sent in the body, not in the query"


def test_a_name_that_is_no_text_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/pose",
        content=b'{"image": "aaaa", "\\ud800": 1}',
        headers={"content-type": "application/json"},
    )
    assert "no parameter" in assert_problem(answer, 422, "invalid-parameter")["detail"]


def test_of_many_unknown_names_the_first_is_refused(client: TestClient) -> None:
    """At once: every other request waits while one thread makes a list of all of them."""
    names = json.dumps({"image": "aaaa", **{f"n{i}": 1 for i in range(90_000)}})
    start = time.process_time()
    body = assert_problem(
        client.post("/pose", content=names, headers={"content-type": "application/json"}),
        422, "invalid-parameter",
    )  # fmt: skip
    reading = time.process_time()
    json.loads(names)
    reading = time.process_time() - reading
    assert body["parameter"] == "n0"
    assert time.process_time() - start < 10 * reading


def test_a_form_may_not_have_thousands_of_fields(client: TestClient, photo: bytes) -> None:
    fields = {f"field{i}": "1" for i in range(300)}
    answer = client.post("/pose", data=fields, files={"image": photo})
    assert "Too many fields" in assert_problem(answer, 422, "invalid-parameter")["detail"]


def test_an_unknown_network_lists_what_there_is(client: TestClient, photo: bytes) -> None:
    for path in ("/pose", "/detect"):
        answer = client.post(f"{path}?model=nobody", content=photo, headers=JPEG)
        body = assert_problem(answer, 404, "unknown-model")
        assert "fast" in body["known"]
        assert "fast" in body["detail"]
    assert_problem(client.get("/models/nobody"), 404, "unknown-model")


def test_an_unknown_address_lists_what_there_is(client: TestClient) -> None:
    for path in ("/nothing", "/static/nothing.js", "/static/%2e%2e/app.js", "/x" * 1000):
        body = assert_problem(client.get(path), 404, "not-found")
        assert "/pose" in body["detail"]


def test_browsers_ask_whether_the_page_has_changed(client: TestClient) -> None:
    for path in ("/", "/docs", "/static/app.js"):
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"


def test_a_picture_too_long_for_a_jpeg_is_said_to_be(client: TestClient) -> None:
    """A PNG may be longer than a JPEG; as JSON it is answered."""
    photo = encode_image(np.zeros((4, 70_000, 3), np.uint8), "png")
    refused = client.post("/pose", content=photo, headers={"accept": "image/jpeg"})
    assert (refused.status_code, refused.json()["type"]) == (406, "/problems/not-acceptable")
    assert "no side of more than 65500 pixels" in refused.json()["detail"]
    for accepted in ("image/png", "application/json"):
        assert client.post("/pose", content=photo, headers={"accept": accepted}).status_code == 200


def test_only_files_of_the_page_are_static(client: TestClient) -> None:
    for path in ("__init__.py", "%2e%2e/app.py", "__pycache__"):
        assert client.get(f"/static/{path}").status_code == 404


def test_a_wrong_method_names_the_right_one(client: TestClient) -> None:
    answer = client.get("/pose")
    assert "POST" in assert_problem(answer, 405, "method")["detail"]
    assert answer.headers["allow"] == "POST"
    answer = client.delete("/models")
    assert "GET, HEAD" in assert_problem(answer, 405, "method")["detail"]
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "accept", ["text/html", "image/gif", "application/json;q=0, image/*;q=0", "nonsense"]
)
def test_an_answer_that_cannot_be_written_is_refused(
    client: TestClient, photo: bytes, accept: str
) -> None:
    answer = client.post("/pose", content=photo, headers={**JPEG, "accept": accept})
    assert "image/png" in assert_problem(answer, 406, "not-acceptable")["detail"]


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/plain", "video/mp4", "application/xml"],
)
def test_a_wrong_content_type_says_what_is_read(
    client: TestClient, photo: bytes, content_type: str
) -> None:
    answer = client.post("/pose", content=photo, headers={"content-type": content_type})
    assert "multipart/form-data" in assert_problem(answer, 415, "media-type")["detail"]


def test_a_compressed_body_is_refused(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose", content=photo, headers={**JPEG, "content-encoding": "gzip"})
    assert_problem(answer, 415, "media-type")


def test_missing_weights_come_with_the_command(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose?model=missing", content=photo, headers=JPEG)
    body = assert_problem(answer, 409, "weights-missing")
    assert body["command"] == "hrpose weights get missing"
    assert body["command"] in body["detail"]


def test_a_full_queue_says_when_to_come_back(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose?model=full", content=photo, headers=JPEG)
    body = assert_problem(answer, 429, "overloaded")
    assert answer.headers["retry-after"] == "3"
    assert body["retry_after_s"] == 3


def test_work_that_takes_too_long_is_dropped(engine: FakeEngine, photo: bytes) -> None:
    with client_of(Settings(timeout_s=0.2), engine) as client:
        answer = client.post("/pose?model=stuck", content=photo, headers=JPEG)
        assert "0.2 s" in assert_problem(answer, 504, "deadline")["detail"]
        assert engine.dropped.acquire(timeout=5)


def test_a_fault_shows_only_an_id_that_stands_in_the_log(
    client: TestClient, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="hrpose.http"):
        answer = client.post("/pose?model=broken", content=photo, headers=JPEG)
    body = assert_problem(answer, 500, "internal")
    assert body["id"] in body["detail"]
    assert body["id"] in caplog.text
    assert SECRET in caplog.text
    assert "Traceback" in caplog.text


def test_each_type_of_problem_has_one_meaning() -> None:
    kinds = {(problem.type, problem.status) for problem in PROBLEMS}
    assert len(kinds) == len(PROBLEMS)


@pytest.mark.parametrize("path", ["/pose/", "/models/", "/static"])
def test_an_address_with_a_slash_too_many_leads_nowhere(client: TestClient, path: str) -> None:
    """A redirect would go to wherever the Host header says, with the photograph and the key."""
    answer = client.post(path, content=make_photo(), follow_redirects=False)
    assert_problem(answer, 404, "not-found")


GETS = ("/", "/docs", "/models", "/metrics", "/health/live", "/health/ready", "/v2/health/live")


@pytest.mark.parametrize("path", [*GETS, "/openapi.json", "/static/app.js"])
def test_head_is_answered_where_get_is(client: TestClient, path: str) -> None:
    asked, got = client.head(path), client.get(path)
    assert asked.status_code == got.status_code == 200
    assert asked.content == b""
    assert asked.headers["content-type"] == got.headers["content-type"]


def test_head_is_no_way_to_post(client: TestClient) -> None:
    answer = client.head("/pose")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js"])
@pytest.mark.parametrize("part", ["bytes=0-9", "bytes=999999999-", "x"])
def test_nothing_is_answered_in_parts(client: TestClient, path: str, part: str) -> None:
    answer = client.get(path, headers={"range": part})
    assert answer.status_code == 200
    assert answer.content == client.get(path).content
