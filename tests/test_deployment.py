"""The image and the compose file, as far as they can be checked without a Docker engine."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.server import CLOSING_S
from service.serving import LOADING_GRACE_S
from service.settings import Settings

ROOT = Path(__file__).parents[1]
CACHE_VARIABLE = "HRPOSE_CACHE"  # read by heads/zoo.py; everything else is a setting


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of every line of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [
        (name, rest.strip()) for name, _, rest in (x.partition(" ") for x in joined.split("\n"))
    ]


def stage_of(name: str | None = None) -> list[tuple[str, str]]:
    """A stage by its name, or the last, after the stages that it is built on."""
    stages: dict[str, list[tuple[str, str]]] = {}
    for instruction, rest in instructions():
        if instruction == "FROM":
            last = rest.partition(" AS ")[2] or "last"
            stages[last] = stages.get(rest.partition(" AS ")[0], [])[:]
        elif stages:
            stages[last].append((instruction, rest))
    return stages[name or "last"]


def last_stage() -> list[tuple[str, str]]:
    return stage_of()


def copied() -> list[str]:
    """What is copied from the repository into the image."""
    rests = [rest.split() for name, rest in instructions() if name == "COPY"]
    return [source for rest in rests if not rest[0].startswith("--from") for source in rest[:-1]]


def environment() -> dict[str, str]:
    rests = [rest for name, rest in last_stage() if name == "ENV"]
    return dict(pair.split("=", 1) for rest in rests for pair in rest.split())


def health_command() -> list[str]:
    (rest,) = [rest for name, rest in last_stage() if name == "HEALTHCHECK"]
    command: list[str] = json.loads(rest[rest.index("CMD") + len("CMD") :])
    return command


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))  # type: ignore[no-untyped-call]


@pytest.fixture(params=["hrpose", "hrpose-gpu"])
def service(request: pytest.FixtureRequest, compose: Any) -> Any:
    return compose["services"][request.param]


# The image


def test_what_is_copied_is_here() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source


def test_what_is_copied_is_tracked() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    for source in copied():
        listed = subprocess.run(
            ["git", "ls-files", "--", source], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert listed.stdout, f"{source} is not tracked"


def test_every_package_and_everything_its_build_reads_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = project["tool"]["setuptools"]
    needed = {package.split(".")[0] for package in tools["packages"]}
    needed |= {f"{module}.py" for module in tools["py-modules"]}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    assert set(copied()) == needed | {"pyproject.toml"}


def test_the_builder_is_sent_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]

    def is_sent(path: str) -> bool:
        sent = True
        for rule in rules:  # the last rule that fits decides
            if fnmatch(path, rule.removeprefix("!").removeprefix("**/")):
                sent = rule.startswith("!")
        return sent

    assert {path.name for path in ROOT.iterdir() if is_sent(path.name)} == set(copied())


def test_torch_comes_from_the_index_of_the_build_argument_before_all_else() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert '--index-url "$TORCH_INDEX"' in installs[0]
    assert not any("TORCH_INDEX" in rest for rest in installs[1:])
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in instructions()


def test_the_lines_that_start_with_torch_are_torch_and_torchvision() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["serve"], *extras["torch"], *extras["train"]]
    found = [line for line in lines if line.startswith("torch")]
    assert [line.split(">=")[0] for line in found] == ["torch", "torchvision"]


def test_the_image_is_the_server_as_a_user_without_rights() -> None:
    stage = dict(last_stage())
    assert stage["USER"].split(":")[0] not in ("root", "0")
    assert json.loads(stage["CMD"]) == ["hrpose", "serve"]
    assert stage["EXPOSE"] == str(Settings.model_fields["port"].default)
    assert "pip" not in stage["RUN"]


def test_the_image_listens_outside_and_lets_waiting_threads_sleep() -> None:
    found = environment()
    assert found["HRPOSE_HOST"] == "0.0.0.0"
    assert found["OMP_WAIT_POLICY"] == "passive"
    assert found["GOMP_SPINCOUNT"] == "0"
    (volume,) = json.loads(dict(last_stage())["VOLUME"])
    assert found[CACHE_VARIABLE] == volume


def test_the_slim_image_is_the_same_server_without_torch() -> None:
    def without_its_folder(stage: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [line for line in stage if not line[1].startswith("--from")]

    assert without_its_folder(stage_of("slim")) == without_its_folder(last_stage())
    installs = [rest for _, rest in stage_of("slim-build") if "pip install" in rest]
    assert len(installs) == 1
    assert "'.[serve]'" in installs[0]


# The health check


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """The port of a server that answers everything so, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def check_health(port: int) -> int:
    python, *arguments = health_command()
    assert python == "python"
    # A proxy of the environment must not come between.
    settings = {"HRPOSE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        timeout=20,
    )
    return done.returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_tells_a_live_server(status: int, code: int) -> None:
    with answering(status) as (port, asked):
        assert check_health(port) == code
    assert asked == ["/health/live"]


def test_the_health_check_fails_where_nothing_listens() -> None:
    with answering(200) as (port, _):
        pass
    assert check_health(port) == 1


# The compose file


def test_the_compose_file_fits_the_compose_specification(compose: Any) -> None:
    pytest.importorskip("check_jsonschema", reason="the package that carries the schema")
    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []
    compose_with_a_slip = {**compose, "services": {"hrpose": {"read-only": True}}}
    assert not validator.is_valid(compose_with_a_slip)


def test_plain_up_starts_the_cpu_server_on_port_8000(compose: Any) -> None:
    plain = {name: s for name, s in compose["services"].items() if "profiles" not in s}
    assert list(plain) == ["hrpose"]
    assert plain["hrpose"]["ports"] == ["8000:8000"]
    assert plain["hrpose"]["build"]["args"]["TORCH_INDEX"].endswith("/cpu")


def test_the_gpu_server_has_a_profile_a_gpu_cuda_and_a_port_of_its_own(compose: Any) -> None:
    gpu = compose["services"]["hrpose-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "/whl/cu" in gpu["build"]["args"]["TORCH_INDEX"]
    assert gpu["environment"]["HRPOSE_DEVICE"] == "cuda"
    assert gpu["image"] != compose["services"]["hrpose"]["image"]
    assert gpu["ports"] != compose["services"]["hrpose"]["ports"]


def test_a_service_has_few_rights_and_bounded_resources(service: Any) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_a_service_may_write_to_the_cache_and_to_tmp_only(service: Any, compose: Any) -> None:
    (volume,) = service["volumes"]
    name, target = volume.split(":")
    assert name in compose["volumes"]
    assert target == environment()[CACHE_VARIABLE]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


def test_a_service_is_checked_as_the_image_is(service: Any) -> None:
    assert "healthcheck" not in service  # the image's own is taken


def test_a_service_has_time_to_finish_what_it_accepted(service: Any) -> None:
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s >= Settings.model_fields["drain_s"].default + CLOSING_S + LOADING_GRACE_S


def test_a_service_computes_with_as_many_threads_as_it_has_cpus(service: Any) -> None:
    assert service["deploy"]["resources"]["limits"]["cpus"] == "${HRPOSE_CPUS:-2}"
    assert "HRPOSE_THREADS" not in service["environment"]  # which 0 means, and workers share


def test_every_variable_is_a_setting_of_the_server(compose: Any) -> None:
    servers = [s for s in compose["services"].values() if s["image"].startswith("hrpose:")]
    names = {name for s in servers for name in s["environment"]}
    names |= {name for name in environment() if name.startswith("HRPOSE_")} - {CACHE_VARIABLE}
    known = {f"HRPOSE_{field.upper()}" for field in Settings.model_fields}
    assert names <= known
