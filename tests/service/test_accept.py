"""Which media type an Accept header gets."""

import pytest
from fastapi.testclient import TestClient

from heads.image import decode_image, read_header
from service.accept import JPEG, JSON, PNG, choose
from service.errors import NotAcceptable
from tests.service.conftest import HEIGHT, WIDTH


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, JSON),
        ("", JSON),
        (",, ,", JSON),
        (", image/png,", PNG),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/*", JSON),
        ("image/*", JPEG),
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("image/jpeg;q=0.5, image/png", PNG),
        ("image/jpeg;q=0.5, image/png;q=0.4", JPEG),
        ("application/json;q=0.1, image/*;q=0.9", JPEG),
        ("image/png, */*", PNG),  # what is named is meant
        ("image/png, image/jpeg", PNG),  # the first of equals
        ("*/*, application/json;q=0", JPEG),  # all but JSON
        ("text/html, */*;q=0.1", JSON),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", PNG),
        ("application/json; charset=utf-8", JSON),
    ],
)
def test_the_best_liked_type_is_chosen(header: str | None, expected: str) -> None:
    assert choose(header) == expected


@pytest.mark.parametrize(
    "header", ["text/html", "image/webp", "*/*;q=0", "json", "image/png;q=x", "application/xml"]
)
def test_nothing_liked_is_not_acceptable(header: str) -> None:
    with pytest.raises(NotAcceptable, match="image/jpeg"):
        choose(header)


@pytest.mark.parametrize("path", ["/pose", "/detect"])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_picture_comes_back_drawn(client: TestClient, photo: bytes, path: str, kind: str) -> None:
    answer = client.post(path, content=photo, headers={"accept": f"image/{kind}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["vary"] == "Accept"
    assert read_header(answer.content) == (kind, WIDTH, HEIGHT)
    assert (decode_image(answer.content) != decode_image(photo)).any()
