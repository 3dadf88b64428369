"""The manifests of deploy/kubernetes, held to the published schemas, the image and the server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from service.server import CLOSING_S
from service.serving import LOADING_GRACE_S
from service.settings import Settings
from tests.test_deployment import environment, last_stage

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))  # type: ignore[no-untyped-call]


PLAIN = {document["kind"]: document for document in documents("hrpose.yaml")}
(KSERVE,) = documents("kserve.yaml")

PODS = {
    "deployment": PLAIN["Deployment"]["spec"]["template"]["spec"],
    "kserve": KSERVE["spec"]["predictor"],
}


@pytest.fixture(params=sorted(PODS))
def pod(request: pytest.FixtureRequest) -> Any:
    return PODS[request.param]


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_each_object_fits_the_schema_of_kubernetes(kind: str) -> None:
    validation = pytest.importorskip("kubernetes_validate", reason="has the schemas")
    version = validation.latest_version()
    validation.validate(PLAIN[kind], version, strict=True)
    with pytest.raises(validation.ValidationError):
        validation.validate({**PLAIN[kind], "spec": {"replicaz": 1}}, version, strict=True)


def test_the_pod_of_kserve_fits_the_schema_of_a_pod() -> None:
    """KServe's own fields stand beside a pod's.

    What they may be is written down from its InferenceService v1beta1 (config/crd/full of
    kserve/kserve at aaac4e294), which the whole manifest was held to by hand: it is in no package.
    """
    validation = pytest.importorskip("kubernetes_validate", reason="has the schemas")
    own: dict[str, type[object] | set[str]] = {
        "minReplicas": int,
        "maxReplicas": int,
        "scaleMetric": {"cpu", "memory"},  # in Standard mode; Knative's are concurrency and rps
        "scaleTarget": int,
    }
    for field, allowed in own.items():
        value = PODS["kserve"][field]
        assert value in allowed if isinstance(allowed, set) else type(value) is allowed
    spec = {key: value for key, value in PODS["kserve"].items() if key not in own}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    validation.validate(body, validation.latest_version(), strict=True)
    assert KSERVE["apiVersion"] == "serving.kserve.io/v1beta1"
    assert KSERVE["kind"] == "InferenceService"
    mode = KSERVE["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    assert mode == "Standard"  # what a pod has here, Knative refuses


def test_keys_come_from_the_secret(pod: Any) -> None:
    (container,) = pod["containers"]
    (keys,) = (entry for entry in container["env"] if entry["name"] == "HRPOSE_API_KEYS")
    reference = keys["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "hrpose", "key": "api-keys", "optional": True}


def test_a_pod_runs_without_rights(pod: Any) -> None:
    user = dict(last_stage())["USER"].split(":")
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == user
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_may_write_to_the_cache_and_to_tmp_only(pod: Any) -> None:
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {environment()["HRPOSE_CACHE"], "/tmp"}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"])


def test_a_pod_has_time_to_finish_what_it_accepted(pod: Any) -> None:
    needed = Settings.model_fields["drain_s"].default + CLOSING_S + LOADING_GRACE_S
    assert pod["terminationGracePeriodSeconds"] >= sleep_s(pod) + needed


def sleep_s(pod: Any) -> int:
    """How long a pod that is going serves on before it is told to stop."""
    (container,) = pod["containers"]
    return int(container["lifecycle"]["preStop"]["sleep"]["seconds"])


def test_a_pod_serves_on_until_nobody_sends_it_requests(pod: Any) -> None:
    assert sleep_s(pod) >= 5


def test_no_service_sets_what_the_server_reads(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes would tell of the Service `hrpose` is no port."""
    monkeypatch.setenv("HRPOSE_PORT", "tcp://10.96.0.1:80")
    with pytest.raises(ValidationError, match="port"):
        Settings()
    assert pod["enableServiceLinks"] is False


def test_probes_ask_what_the_server_answers(pod: Any) -> None:
    from service.app import create_app
    from tests.service.fakes import FakeEngine

    paths = set(create_app(Settings(), FakeEngine()).openapi()["paths"])
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    for name, asked in (("readinessProbe", "/health/ready"), ("livenessProbe", "/health/live")):
        probe = container[name]["httpGet"]
        assert probe["path"].endswith(asked)
        assert probe["path"] in paths
        assert probe["port"] in (port["name"], port["containerPort"])


def test_a_pod_computes_with_as_many_threads_as_it_has_cpus(pod: Any) -> None:
    (container,) = pod["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    resources = container["resources"]
    assert values["HRPOSE_THREADS"] == resources["limits"]["cpu"] == resources["requests"]["cpu"]
    assert set(values) <= {f"HRPOSE_{field.upper()}" for field in Settings.model_fields}


def test_service_and_autoscaler_mean_the_deployment() -> None:
    deployment, service = PLAIN["Deployment"], PLAIN["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    target = PLAIN["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
