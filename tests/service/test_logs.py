"""Log lines: one an event, each with the id of its request, and none that costs a request."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from service import logs
from service.record import HEADER
from service.settings import Settings
from tests.processes import free_port
from tests.service.conftest import client_of, wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem

ROOT = Path(__file__).parents[2]

NASTY = "a\nERROR hrpose: b\r\x1b[31mc\x85\u2028d\u202e"

KEYS = ["time", "level", "logger", "message", "request_id", "route", "status", "seconds"]


def write(formatter: logging.Formatter, message: str, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logs.LineHandler(stream)
    handler.setFormatter(formatter)
    info = None if error is None else (type(error), error, error.__traceback__)
    handler.handle(
        logging.LogRecord("hrpose.test", logging.WARNING, __file__, 1, "%s", (message,), info)
    )
    return stream.getvalue()


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_no_client_can_start_a_line_of_its_own(formatter: logging.Formatter) -> None:
    line = write(formatter, NASTY)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line.splitlines()) == 1


def test_json_keeps_what_was_said() -> None:
    content = json.loads(write(logs.JsonFormatter(), NASTY))
    assert content["message"] == NASTY
    assert list(content) == KEYS
    assert (content["level"], content["logger"]) == ("warning", "hrpose.test")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", content["time"])


def test_a_traceback_is_below_its_line_and_cannot_look_like_one() -> None:
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        text = write(logs.TextFormatter(), "failed", error)
        content = json.loads(write(logs.JsonFormatter(), "failed", error))
    first, *rest = text.splitlines()
    assert "WARNING hrpose.test: failed" in first
    assert any("Traceback" in line for line in rest)
    assert all(line.startswith("    ") for line in rest)
    assert "Traceback" in content["exception"]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the logger of hrpose writes as JSON."""
    stream = io.StringIO()
    handler = logs.LineHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("hrpose")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_request_is_a_line_with_its_id_route_status_and_time(
    client: TestClient, photo: bytes, lines: io.StringIO
) -> None:
    answer = client.post("/pose", content=photo, headers={HEADER: "order-66.a_b"})
    assert answer.headers[HEADER] == "order-66.a_b"
    content = json.loads(lines.getvalue().splitlines()[-1])
    assert content["request_id"] == "order-66.a_b"
    assert (content["route"], content["status"]) == ("/pose", 200)
    assert content["seconds"] > 0
    assert content["logger"] == "hrpose.http"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "../etc", "a\x7fb", "\xff\xfe", "a;b"])
def test_an_id_that_is_not_plain_is_replaced(client: TestClient, sent: str) -> None:
    answer = client.get("/models", headers=[(HEADER.encode(), sent.encode("latin-1"))])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers[HEADER])


def test_every_answer_has_an_id_of_its_own(client: TestClient, photo: bytes) -> None:
    answers = [client.get(path) for path in ("/", "/health/live", "/metrics", "/nothing")]
    answers += [client.get("/pose"), client.post("/pose", content=b"x")]
    answers += [client.post("/pose?model=full", content=photo), client.get("/static/page.js")]
    assert len({answer.headers[HEADER] for answer in answers}) == len(answers)


def test_the_id_of_a_fault_is_that_of_its_request_and_of_all_its_lines(
    client: TestClient, photo: bytes, lines: io.StringIO
) -> None:
    answer = client.post("/pose?model=broken", content=photo, headers={HEADER: "mine"})
    assert assert_problem(answer, 500, "internal")["id"] == answer.headers[HEADER] == "mine"
    written = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert len(written) == 2
    assert {content["request_id"] for content in written} == {"mine"}
    assert "cannot read" in written[0]["exception"]


def test_what_a_working_thread_logs_carries_the_id(photo: bytes, lines: io.StringIO) -> None:
    class Talking(FakeEngine):
        def _behave(self, name: str, job: object) -> None:
            logging.getLogger("hrpose").warning("working on %s for %s", name, type(job).__name__)

    with client_of(Settings(), Talking()) as client:
        client.post("/pose", content=photo, headers={HEADER: "thread"})
    (content,) = [json.loads(x) for x in lines.getvalue().splitlines() if "working on" in x]
    assert content["request_id"] == "thread"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_line_that_cannot_be_written_is_counted_and_not_kept() -> None:
    with open("/dev/full", "w") as full:
        handler = logs.LineHandler(full)
        for _ in range(100):
            handler.handle(logging.makeLogRecord({"msg": "x" * 1000}))
    assert handler.lost == 100
    nowhere = logs.LineHandler(None)
    nowhere.handle(logging.makeLogRecord({"msg": "x"}))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "1>&- 2>&-"])
def test_a_server_whose_log_cannot_be_written_answers(stderr: str, photo: bytes) -> None:
    port = free_port()
    command = f"exec {sys.executable} -m tests.service.serve_fake {stderr}"
    environment = {**os.environ, "HRPOSE_PORT": str(port), "HRPOSE_LOG_FORMAT": "json"}
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx2.get(f"{url}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    with subprocess.Popen(["sh", "-c", command], cwd=ROOT, env=environment) as process:
        try:
            wait_until(is_ready, 60)
            for model, status in (("fast", 200), ("broken", 500), ("fast", 200)):
                answer = httpx2.post(f"{url}/pose?model={model}", content=photo)
                assert answer.status_code == status
        finally:
            process.terminate()
            assert process.wait(15) == 0


def test_installing_puts_one_handler_in_the_place_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = logging.Logger("root of this test")
    root.addHandler(logging.NullHandler())
    own = logging.Logger("hrpose of this test")
    names = {"hrpose": own, None: root}
    monkeypatch.setattr(logging, "getLogger", lambda name=None: names[name])
    handler = logs.install("error", "json")
    assert root.handlers == [handler]
    assert isinstance(handler.formatter, logs.JsonFormatter)
    assert own.level == logging.ERROR
    assert isinstance(logs.install("info", "text").formatter, logs.TextFormatter)
