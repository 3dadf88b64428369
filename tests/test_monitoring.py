"""Prometheus and Grafana beside the server, as far as they can be checked without them."""

import json
import re
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.settings import Settings
from tests.conftest import ROOT
from tests.service.conftest import client_of, make_photo
from tests.service.fakes import FakeEngine

MONITORING = ROOT / "deploy" / "monitoring"


def read_yaml(path: Any) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def services() -> Any:
    return read_yaml(ROOT / "docker-compose.yml")["services"]


@pytest.fixture(params=["prometheus", "grafana"])
def service(request: pytest.FixtureRequest, services: Any) -> Any:
    return services[request.param]


@pytest.fixture(scope="module")
def dashboard() -> Any:
    path = MONITORING / "grafana" / "dashboards" / "hrpose.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def metrics() -> str:
    """What a server tells that has answered, refused and failed."""
    photo = make_photo()
    with client_of(Settings(), FakeEngine()) as client:
        for path in ("/pose", "/detect", "/classify", "/segment", "/pose?model=full"):
            client.post(path, content=photo)
        return _text(client)


def _text(client: TestClient) -> str:
    return client.get("/metrics").text


def mounted(mount: Any) -> tuple[str, str, bool]:
    """Source, with what stands for a variable that is not set, target, and whether read-only."""
    if isinstance(mount, str):
        source, target, *mode = mount.split(":")
        return source, target, mode == ["ro"]
    source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", mount["source"])
    assert mount["bind"] == {"create_host_path": False}
    return source, mount["target"], mount["read_only"]


def expressions(dashboard: Any) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_a_service_is_only_started_when_asked_for_and_listens_here_only(service: Any) -> None:
    assert service["profiles"] == ["monitoring"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_a_service_has_few_rights_and_a_pinned_version(service: Any) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_what_is_mounted_is_here_and_not_written_to(service: Any) -> None:
    bound = [mount for mount in map(mounted, service["volumes"]) if mount[0].startswith("./")]
    assert bound
    for source, _, read_only in bound:
        assert (ROOT / source).exists(), source
        assert read_only


def test_grafana_lets_nobody_in_who_could_change_it_and_asks_nobody_outside(services: Any) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    outside = [name for name in environment if name.startswith("GF_ANALYTICS_")]
    assert {environment[name] for name in outside} == {"false"}


def test_prometheus_asks_the_servers_on_their_port_with_a_key(services: Any) -> None:
    (job,) = read_yaml(MONITORING / "prometheus.yml")["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == {
        n for n, s in services.items() if s["image"].startswith("hrpose")
    }
    assert found["port"] == Settings.model_fields["port"].default
    key_file = job["authorization"]["credentials_file"]
    mounts = map(mounted, services["prometheus"]["volumes"])
    assert [read_only for _, target, read_only in mounts if target == key_file] == [True]


def test_grafana_finds_prometheus_and_the_dashboard(services: Any, dashboard: Any) -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = read_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = read_yaml(provisioning / "dashboards" / "hrpose.yml")["providers"]
    mounts = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts


def test_every_metric_of_the_dashboard_is_told_by_the_server(dashboard: Any, metrics: str) -> None:
    told = {re.split(r"[{ ]", line)[0] for line in metrics.splitlines() if line[0] != "#"}
    for expression in expressions(dashboard):
        asked = re.findall(r"\b(?:hrpose|process|python)_\w+", expression)
        assert asked, expression
        assert set(asked) <= told, expression


def test_every_label_of_the_dashboard_is_told_by_the_server(dashboard: Any, metrics: str) -> None:
    for expression in expressions(dashboard):
        (name, *_) = re.findall(r"\b(?:hrpose|process|python)_\w+", expression)
        lines = [line for line in metrics.splitlines() if line.startswith(name)]
        told = set(re.findall(r"(\w+)=", " ".join(lines)))
        asked = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", expression)
            for label in group.split(",")
        }  # fmt: skip
        assert asked <= told, expression


def test_the_dashboard_shows_what_an_operator_asks_first(dashboard: Any) -> None:
    titles = " ".join(panel["title"] for panel in dashboard["panels"])
    for word in ("Requests", "p50", "p95", "p99", "Phases", "waiting", "Refusals", "People"):
        assert word in titles
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
