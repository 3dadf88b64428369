"""Settings: from the environment, checked, each with a word of help."""

import pytest
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from hrpose import app
from service.settings import Settings


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "host": "0.0.0.0",
        "port": "80",
        "device": "cuda:1",
        "max_upload_mb": "0.5",
        "api_keys": "a,b",
        "log_level": "debug",
    }.items():
        monkeypatch.setenv(f"HRPOSE_{name.upper()}", value)
    settings = Settings()
    assert (settings.host, settings.port, settings.device) == ("0.0.0.0", 80, "cuda:1")
    assert settings.max_upload_bytes == 2**19
    assert settings.keys == ("a", "b")


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.max_upload_mb, settings.max_megapixels, settings.max_people) == (16, 50, 100)
    assert settings.keys == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("threads", "-1"),
        ("max_batch", "0"),
        ("max_wait_ms", "nan"),
        ("max_queue", "0"),
        ("max_upload_mb", "0"),
        ("max_megapixels", "inf"),
        ("max_people", "0"),
        ("timeout_s", "0"),
        ("timeout_s", "1e10"),
        ("max_wait_ms", "1e13"),
        ("max_requests", "0"),
        ("drain_s", "-1"),
        ("log_level", "loud"),
        ("max_queue_mb", "15"),
        ("rate_limit", "often"),
        ("rate_limit", "0/minute"),
        ("model", ""),
        ("host", ""),
        ("keep_alive_s", "0"),
        ("otel_endpoint", "collector:4318"),
        ("otel_endpoint", "http://"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"HRPOSE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--device", "gpu", "device: a device is cpu, cuda or cuda:N; got 'gpu'"),
        ("--otel-endpoint", "x", "otel_endpoint: should be as http://collector:4318/v1/traces"),
    ],
)
def test_a_refusal_says_what_would_do(flag: str, value: str, words: str) -> None:
    answer = CliRunner().invoke(app, ["serve", flag, value])
    assert answer.exit_code == 2
    assert words in " ".join(answer.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "meant"),
    [("HRPOSE_API_KEY", "HRPOSE_API_KEYS"), ("HRPOSE_MAX_PEPOLE", "HRPOSE_MAX_PEOPLE")],
)
def test_a_misspelt_variable_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    answer = CliRunner().invoke(app, ["serve"])
    assert answer.exit_code == 2
    assert f"{name} in the environment is no setting; {meant} is" in " ".join(answer.stderr.split())


@pytest.mark.parametrize(
    "name", ["HRPOSE_SERVICE_HOST", "HRPOSE_SERVICE_PORT", "HRPOSE_PORT_8000_TCP_ADDR"]
)
def test_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets these for a Service that is called hrpose."""
    monkeypatch.setenv(name, "10.0.0.1")
    Settings()


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=80)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_a_plain_value_with_a_word_of_help(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert field.description.endswith(".")
    assert isinstance(field.default, str | int | float | SecretStr)
