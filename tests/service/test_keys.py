"""API keys: who may ask, and what stays open."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from pydantic import SecretStr
from typer.testing import CliRunner

import hrpose
from service.app import create_app
from service.keys import Key, KeyFileError, digest, line_of, make_key, read_keys
from service.routes.dependencies import ADMIN_NEEDED, KEY_NEEDED
from service.settings import Settings
from tests.service.conftest import client_of, wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem


@pytest.fixture
def locked(engine: FakeEngine) -> Iterator[TestClient]:
    with client_of(Settings(api_keys=SecretStr("apple, pear,")), engine) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer apple"},
        {"authorization": "bearer pear"},
        {"x-api-key": "pear"},
        {"x-api-key": "apple", "authorization": "Basic abc"},
    ],
)
def test_an_accepted_key_opens(locked: TestClient, photo: bytes, headers: dict[str, str]) -> None:
    assert locked.post("/pose", content=photo, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"x-api-key": " "}])
def test_no_key_is_401(locked: TestClient, photo: bytes, headers: dict[str, str]) -> None:
    answer = locked.post("/pose", content=photo, headers=headers)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["plum", "appl", "apple, pear", "Apple", "äpfel"])
def test_a_wrong_key_is_403_and_is_not_repeated(locked: TestClient, photo: bytes, key: str) -> None:
    headers = {b"authorization": f"Bearer {key}".encode()}
    body = assert_problem(locked.post("/pose", content=photo, headers=headers), 403, "unauthorized")
    assert key not in str(body)


def test_a_refused_body_is_not_read(locked: TestClient) -> None:
    assert_problem(locked.post("/pose", content=bytes(50_000_000)), 401, "unauthorized")


def test_the_page_and_health_stay_open(locked: TestClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/static/app.js", "/health/live", "/health/ready"):
        assert locked.get(path).status_code == 200, path
    for path in ("/models", "/models/fast", "/backbones", "/metrics"):
        assert_problem(locked.get(path), 401, "unauthorized")


def test_keys_are_not_shown_with_the_settings() -> None:
    assert "apple" not in repr(Settings(api_keys=SecretStr("apple")))


KEY = make_key()
ADMIN = make_key()


@pytest.fixture
def filed(engine: FakeEngine, tmp_path: Path) -> Iterator[TestClient]:
    """A server whose keys stand in a file, with a route for admin keys."""
    path = tmp_path / "keys.txt"
    lines = (
        line_of(make_key(), "first", "infer"),
        "# our keys",
        "",
        line_of(KEY, "page", "infer"),
        line_of(ADMIN, "ops", "admin"),
    )
    path.write_text("\n".join(lines), encoding="utf-8-sig")  # as some editors write it
    with client_with_admin_route(Settings(api_keys_file=str(path)), engine) as client:
        yield client


@contextlib.contextmanager
def client_with_admin_route(settings: Settings, engine: FakeEngine) -> Iterator[TestClient]:
    app = create_app(settings, engine)
    router = APIRouter(dependencies=[*KEY_NEEDED, *ADMIN_NEEDED])
    router.add_api_route("/change", lambda: {"changed": True}, methods=["POST"])
    app.include_router(router)
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_keys_of_a_file_open_and_others_do_not(filed: TestClient, photo: bytes) -> None:
    for key in (KEY, ADMIN):
        assert filed.post("/pose", content=photo, headers=bearer(key)).status_code == 200
    for key in (digest(KEY).hex(), f"sha256:{digest(KEY).hex()}", "page", make_key()):
        answer = filed.post("/pose", content=photo, headers=bearer(key))
        assert_problem(answer, 403, "unauthorized")


def test_what_changes_the_server_needs_the_scope_admin(filed: TestClient) -> None:
    assert filed.post("/change", headers=bearer(ADMIN)).json() == {"changed": True}
    body = assert_problem(filed.post("/change", headers=bearer(KEY)), 403, "forbidden")
    assert "scope admin; yours has infer" in body["detail"]
    assert_problem(filed.post("/change"), 401, "unauthorized")
    assert_problem(filed.post("/change", headers=bearer("x")), 403, "unauthorized")


def test_without_keys_nobody_changes_the_server(engine: FakeEngine, photo: bytes) -> None:
    with client_with_admin_route(Settings(), engine) as client:
        for headers in ({}, bearer("x")):
            body = assert_problem(client.post("/change", headers=headers), 403, "forbidden")
            assert "hrpose key NAME --scope admin" in body["detail"]
        assert client.post("/pose", content=photo).status_code == 200


def test_a_key_of_the_environment_is_admin_where_it_says_so(engine: FakeEngine) -> None:
    settings = Settings(api_keys=SecretStr("apple,admin:pear"))
    with client_with_admin_route(settings, engine) as client:
        assert client.post("/change", headers=bearer("pear")).status_code == 200
        assert client.post("/change", headers=bearer("apple")).status_code == 403
        assert client.get("/models", headers=bearer("admin:pear")).status_code == 403


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hunter2", "line 1: should be `sha256:<64"),
        ("# fine\n\nsha256:hunter2 page infer", "line 3: should be"),
        (f"{HASH} hunter2", "line 1: should be"),
        (f"{HASH} page infer 5/second hunter2", "line 1: should be"),
        (f"{HASH} page hunter2", "the scope should be one of infer, admin"),
        (f"{HASH} page infer hunter2", "a rate should be as 100/minute"),
        (f"{HASH} page infer 0/minute", "a rate should be as 100/minute"),
        (f"{HASH} page infer\n{HASH} ops admin", "line 2: the name or the key stands twice"),
        (f"{HASH} page infer\n{HASH[:-1]}1 page infer", "line 2: the name or the key stands"),
        ("# nothing but hunter2", "holds no key"),
        ("hunter2\xff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_meant_keeps_the_server_from_starting(
    engine: FakeEngine, tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(KeyFileError) as error:
        create_app(Settings(api_keys_file=str(path)), engine)
    assert word in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_not_there_keeps_the_server_from_starting(
    engine: FakeEngine, tmp_path: Path
) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(KeyFileError, match="cannot be read"):
            create_app(Settings(api_keys_file=str(path)), engine)


@pytest.mark.parametrize("keys", ["admin:", "pear,admin:", " , ", ","])
def test_a_setting_of_keys_that_holds_none_keeps_the_server_from_starting(
    engine: FakeEngine, keys: str
) -> None:
    """As `admin:$UNSET` does: `admin:` would else be a key, and ` , ` leave the server open."""
    with pytest.raises(KeyFileError, match="api_keys"):
        create_app(Settings(api_keys=SecretStr(keys)), engine)


def test_a_key_that_stands_twice_keeps_the_server_from_starting(
    engine: FakeEngine, tmp_path: Path
) -> None:
    """Its scope and rate would be those of whichever is read first."""
    file = tmp_path / "keys"
    file.write_text(line_of("apple", "ops", "admin") + "\n")
    for keys, more in (("apple,admin:apple", ""), ("apple", str(file))):
        settings = Settings(api_keys=SecretStr(keys), api_keys_file=more)
        with pytest.raises(KeyFileError, match="a key stands twice"):
            create_app(settings, engine)


def test_a_key_beyond_ascii_opens(engine: FakeEngine, photo: bytes) -> None:
    key = "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel"
    with client_of(Settings(api_keys=SecretStr(key)), engine) as client:
        for name, value in ((b"x-api-key", b""), (b"authorization", b"Bearer ")):
            headers = [(name, value + key.encode())]
            assert client.post("/pose", content=photo, headers=headers).status_code == 200


def test_the_command_makes_a_key_and_its_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(hrpose.app, ["key", "page", "--scope", "admin", "--rate", "9/hour"])
    assert result.exit_code == 0
    key, line = result.stdout.splitlines()
    assert key not in line
    (tmp_path / "keys.txt").write_text(line)
    (read,) = read_keys(tmp_path / "keys.txt")
    assert read == Key(digest(key), "page", "admin", "9/hour")


@pytest.mark.parametrize("said", [["two words"], ["page", "--scope", "root"], ["p", "--rate", "7"]])
def test_the_command_makes_no_key_that_would_be_refused(said: list[str]) -> None:
    result = CliRunner().invoke(hrpose.app, ["key", *said])
    assert result.exit_code == 1
    assert isinstance(result.exception, KeyFileError)
    assert result.stdout == ""
