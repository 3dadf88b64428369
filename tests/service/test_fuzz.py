"""Whatever is sent, the answer is a success or a problem that blames the request."""

import base64
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from service.parameters import PoseParameters
from service.settings import Settings
from tests.service.conftest import client_of, make_photo
from tests.service.fakes import FakeEngine

PHOTO = make_photo(width=64, height=48)

NAMES = st.sampled_from((*PoseParameters.model_fields, "image", "Boxes", "", "\x00"))

TEXTS = st.one_of(
    st.text(max_size=30),
    st.floats().map(str),
    st.sampled_from(("[[1,2,3,4]]", "[1,2,3,4]", "[[]]", "[null]", "{}", "true", "1", "fast")),
)

TREES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(Settings(), FakeEngine()) as started:
        yield started


def assert_no_fault(answer: object) -> None:
    status = getattr(answer, "status_code")  # noqa: B009
    assert status == 200 or 400 <= status < 500, getattr(answer, "text", "")


@settings(max_examples=80, deadline=None)
@given(fields=st.lists(st.tuples(NAMES, TEXTS), max_size=4), in_query=st.booleans())
def test_no_option_makes_a_fault(
    client: TestClient, fields: list[tuple[str, str]], in_query: bool
) -> None:
    options = dict(fields)
    if in_query:
        assert_no_fault(client.post("/pose", content=PHOTO, params=options))
    else:
        assert_no_fault(client.post("/pose", files={"image": PHOTO}, data=options))


@settings(max_examples=80, deadline=None)
@given(fields=st.dictionaries(NAMES, TREES, max_size=4), with_image=st.booleans())
def test_no_json_makes_a_fault(
    client: TestClient, fields: dict[str, object], with_image: bool
) -> None:
    image = {"image": base64.b64encode(PHOTO).decode()} if with_image else {}
    text = json.dumps({**fields, **image})
    headers = {"content-type": "application/json"}
    assert_no_fault(client.post("/pose", content=text, headers=headers))


@settings(max_examples=80, deadline=None)
@given(
    body=st.binary(max_size=200),
    kind=st.sampled_from(
        (
            "application/json",
            "image/jpeg",
            "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=",
            "multipart/form-data; charset=nonsense; boundary=x",
            "application/x-www-form-urlencoded",
            ";;;",
        )
    ),
)
def test_no_body_makes_a_fault(client: TestClient, body: bytes, kind: str) -> None:
    for sent in (body, b"--x\r\nContent-Disposition: form-data; " + body):
        assert_no_fault(client.post("/pose", content=sent, headers={"content-type": kind}))


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, len(PHOTO)), at=st.integers(0, len(PHOTO) - 1), value=st.integers(0, 255))
def test_no_damaged_image_makes_a_fault(client: TestClient, cut: int, at: int, value: int) -> None:
    damaged = bytearray(PHOTO)
    damaged[at] = value
    assert_no_fault(client.post("/pose", content=bytes(damaged)))
    assert_no_fault(client.post("/detect", content=PHOTO[:cut]))


@settings(max_examples=80, deadline=None)
@given(accept=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40))
def test_no_accept_header_makes_a_fault(client: TestClient, accept: str) -> None:
    headers = {b"accept": accept.strip().encode("latin-1")}
    assert_no_fault(client.post("/pose", content=PHOTO, headers=headers))
