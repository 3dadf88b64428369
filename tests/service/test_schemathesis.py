"""Requests made from the OpenAPI document: no fault, and no answer that the document denies."""

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import make_photo, real_server
from tests.service.fakes import FakeEngine

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

EXAMPLES = 25

KEY = {"X-API-Key": "pear"}

TAKE_IMAGE = ("/pose", "/detect", "/classify", "/segment")

PHOTO = make_photo(width=64, height=48)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running server."""
    with real_server(Settings(api_keys=SecretStr("admin:pear")), FakeEngine()) as (host, port):
        yield f"http://{host}:{port}"


def operations() -> Iterator[Any]:
    """Every operation of the document."""
    document = create_app(Settings(), FakeEngine()).openapi()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield pytest.param(found.ok(), id=found.ok().label)


@pytest.mark.parametrize("operation", list(operations()))
def test_every_answer_is_one_that_the_document_promises(operation: Any, url: str) -> None:
    """Statuses, media types, headers and schemas; whatever is sent, the server has no fault."""
    promised = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]

    takes_image = operation.path in TAKE_IMAGE
    modes = [
        GenerationMode.POSITIVE,
        *([GenerationMode.NEGATIVE] if operation.method == "post" else []),
    ]

    # The same requests every time: what a longer search finds becomes a test of its own.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of([operation.as_strategy(mode) for mode in modes]))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=url, headers=KEY, checks=promised)
        if takes_image:
            put_photo(case)  # what is made up is never a photograph
            seen[
                case.call_and_validate(base_url=url, headers=KEY, checks=promised).status_code
            ] += 1

    seen: Counter[int] = Counter()
    ask()
    assert not takes_image or seen[200] > 0


def put_photo(case: Any) -> None:
    """Puts a sound photograph into a request."""
    if not isinstance(case.body, dict):
        case.body = PHOTO
    elif case.media_type == "application/json":
        case.body = {**case.body, "image": base64.b64encode(PHOTO).decode()}
    else:
        case.body = {**case.body, "image": PHOTO}
