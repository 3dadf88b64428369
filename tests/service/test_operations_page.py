"""docs/operations.md names what the server has: metrics, keys of log lines, problems, settings."""

import json
import logging
import re

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service import logs
from service.problems import PROBLEMS
from service.settings import Settings
from service.tracing import PHASES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

ROWS = dict(re.findall(r"^\| `(hrpose_\w+)` \| ([\w, ]*) ?\|", PAGE, re.M))


def test_the_table_of_metrics_is_that_of_the_server(client: TestClient, photo: bytes) -> None:
    client.post("/pose", content=photo)
    client.get("/nothing")
    told: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if re.match(r"hrpose_.*(?<!_created)$", family.name):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            told[name] = labels
    written = {name: {x.strip() for x in row.split(",")} - {""} for name, row in ROWS.items()}
    assert written == told


def test_the_phases_are_those_that_are_observed() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `hrpose_phase_seconds`")]
    assert ", ".join(PHASES) in row


def test_the_keys_of_a_log_line_are_on_the_page() -> None:
    line = json.loads(logs.JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))
    assert all(f"`{key}`" in PAGE for key in line)


def test_problems_and_settings_on_the_page_are_there() -> None:
    assert set(re.findall(r"/problems/[a-z-]+", PAGE)) <= {problem.type for problem in PROBLEMS}
    flags = set(re.findall(r"--((?:models|log|otel)-\w+)", PAGE))
    assert flags == {"models-dir", "log-level", "log-format", "otel-endpoint"}
    assert {flag.replace("-", "_") for flag in flags} <= set(Settings.model_fields)
