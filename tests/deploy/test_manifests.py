"""What Kubernetes is given: the overlays rendered by kubectl's kustomize, against real schemas."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

from gateway.config.settings import Settings, read_settings
from gateway.observability.metrics import Metrics
from gateway.observability.otlp import ENDPOINT
from tests.deploy import kserve_models
from tests.stack import ROOT

K8S = ROOT / "docker" / "k8s"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "kserve")
KUBERNETES = "1.37"
"""Version whose schemas are asked; sidecars are in it since 1.29."""

Document = dict[str, Any]


@cache
def rendered(folder: str) -> list[Document]:
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl), "kustomize", str(K8S / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(folder: str, kind: str) -> list[Document]:
    return [document for document in rendered(folder) if document["kind"] == kind]


def problems(document: Document) -> str:
    """What Kubernetes' own schema has against a document; unknown fields too."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{document['kind']} {document['metadata']['name']}: {error}"
    return ""


def test_the_schemas_refuse_what_is_wrong() -> None:
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {}}
    assert not problems(document)
    assert "prots" in problems(document | {"spec": {"prots": []}})


@pytest.mark.parametrize("folder", OVERLAYS)
def test_kubernetes_takes_them(folder: str) -> None:
    core = [one for one in rendered(folder) if "kserve.io" not in one["apiVersion"]]
    assert {
        "Deployment", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget",
        "HorizontalPodAutoscaler", "Namespace",
    } == {one["kind"] for one in core}  # fmt: skip
    assert not [text for one in core if (text := problems(one))]
    namespaced = [one for one in core if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in namespaced} == {"carlarl"}


def containers(document: Document) -> list[Document]:
    spec = document["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_restricted_pods(folder: str) -> None:
    """What Kubernetes' Pod Security Standard `restricted` asks for, and a read-only file system."""
    (deployment,) = of_kind(folder, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"emptyDir", "configMap", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for one in containers(deployment):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"startupProbe", "livenessProbe"} <= set(one)
        assert one["resources"]["requests"]["cpu"]
        assert one["resources"]["limits"]["memory"]
        assert not any("hostPort" in port for port in one["ports"])
        assert re.fullmatch(r"\S+(:(?!latest)[\w.]+|@sha256:\w{64})", one["image"]), one["image"]
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}
    gateway = pod["containers"][0]
    assert {p: gateway[p]["httpGet"]["path"] for p in ("livenessProbe", "readinessProbe")} == {
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert gateway["lifecycle"]["preStop"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_they_fit_each_other(folder: str, tmp_path: Path) -> None:
    (deployment,) = of_kind(folder, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    (budget,) = of_kind(folder, "PodDisruptionBudget")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
    ]
    services = of_kind(folder, "Service")
    selectors += [service["spec"]["selector"] for service in services]
    assert all(selector.items() <= labels for selector in selectors)
    ports = {port["name"] for one in containers(deployment) for port in one["ports"]}
    assert {port["targetPort"] for one in services for port in one["spec"]["ports"]} <= ports
    (scaler,) = of_kind(folder, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    (configuration,) = of_kind(folder, "ConfigMap")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    named = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    assert named == [configuration["metadata"]["name"]]
    environment = {one["name"]: one["value"] for one in containers(deployment)[-1]["env"]}
    assert Path(environment["CONFIG_FILE"]).name in configuration["data"]
    assert set(environment) <= {name.upper() for name in Settings.model_fields}
    file = tmp_path / "carlarl.yaml"
    file.write_text(configuration["data"]["carlarl.yaml"])
    secret = tmp_path / "secret"
    secret.write_text("eight-or-more")
    here = {"CONFIG_FILE": str(file), "TRITON_SECRET": str(secret), "STATE_SECRET": str(secret)}
    told = read_settings(**{name.lower(): v for name, v in (environment | here).items()})
    assert told.triton_token == "eight-or-more"
    assert told.state_keys == ["eight-or-more"]
    assert (ROOT / "model_repository" / f"carla_policy-{told.model_version}").is_dir()
    named = read_settings(config_file=ROOT / "carlarl.yaml", profile=told.profile)
    logs = {"log_level", "log_format", "access_log"}
    assert told.model_dump(include=logs) == named.model_dump(include=logs)
    assert named.log_format == "json"


@pytest.mark.parametrize("folder", OVERLAYS)
def test_triton_and_its_gateway_have_one_secret(folder: str) -> None:
    """A file, that both mount: what Triton's closed APIs ask for."""
    (deployment,) = of_kind(folder, "Deployment")
    gateway = containers(deployment)[-1]
    pods = {gateway["name"]: (gateway, deployment["spec"]["template"]["spec"]["volumes"])}
    if folder == "kserve":
        (runtime,) = of_kind(folder, "ServingRuntime")
        pods["triton"] = (runtime["spec"]["containers"][0], runtime["spec"]["volumes"])
    else:
        pods["triton"] = (containers(deployment)[0], pods["gateway"][1])
    for container, volumes in pods.values():
        (variable,) = (one for one in container["env"] if one["name"] == "TRITON_SECRET")
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "triton-secret")
        assert variable["value"] == f"{mount['mountPath']}/secret"
        assert mount["readOnly"] is True
        assert {"name": "triton-secret", "secret": {"secretName": "triton"}} in volumes


def test_traces(tmp_path: Path) -> None:
    """The component fits the overlays: both containers send to one place, and may."""
    parts = {"resources": "overlays/cpu", "components": "traces"}
    paths = {key: [os.path.relpath(K8S / folder, tmp_path)] for key, folder in parts.items()}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(paths))
    documents = rendered(str(tmp_path))
    assert not [text for one in documents if (text := problems(one))]
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    triton, gateway = (
        {one["name"]: one["value"] for one in container["env"]}
        for container in containers(deployment)
    )
    assert {"TRITON_SECRET", ENDPOINT} == set(triton)
    assert {"CONFIG_FILE", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"} <= set(gateway)
    assert triton[ENDPOINT] == gateway[ENDPOINT]
    url = urlsplit(gateway[ENDPOINT])
    (policy,) = (one for one in documents if one["metadata"]["name"] == "carlarl-to-collector")
    collector, names = policy["spec"]["egress"]
    assert [one["port"] for one in collector["ports"]] == [url.port]
    namespaces = [one["namespaceSelector"]["matchLabels"] for one in collector["to"]]
    assert [[str(url.hostname).split(".")[1]]] == [list(one.values()) for one in namespaces]
    assert {one["port"] for one in names["ports"]} == {53}
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels


def test_gpu_only_where_it_is_asked_for() -> None:
    (gpu,), (cpu,) = (of_kind(f"overlays/{name}", "Deployment") for name in ("gpu", "cpu"))
    assert "nvidia.com/gpu" not in json.dumps(cpu)
    triton, gateway = containers(gpu)
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in gateway["resources"]["limits"]


def test_service_monitors() -> None:
    """prometheus-operator's own models take all of them, and they find the services' ports."""
    monitors = of_kind("monitoring", "ServiceMonitor")
    services = {one["metadata"]["name"]: one for one in of_kind("overlays/cpu", "Service")}
    assert {one["metadata"]["name"] for one in monitors} == set(services)
    for monitor in monitors:
        read = ServiceMonitor.model_validate(monitor)
        spec = json.loads(read.model_dump_json(by_alias=True, exclude_none=True))["spec"]
        assert spec == monitor["spec"]  # an unknown field would be gone
        service = services[monitor["metadata"]["name"]]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert wanted <= service["metadata"]["labels"].items()
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_kserve_s_tritons_are_watched() -> None:
    """As the job that the rules name, through a port and labels that their pods have."""
    (monitor,) = of_kind("monitoring", "PodMonitor")
    read = PodMonitor.model_validate(monitor)
    spec = json.loads(read.model_dump_json(by_alias=True, exclude_none=True))["spec"]
    assert spec == monitor["spec"]  # an unknown field would be gone
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (job,) = (one for one in endpoint["relabelings"] if one["targetLabel"] == "job")
    rules = (ROOT / "docker" / "prometheus" / "rules.yml").read_text()
    assert f'absent(up{{job="{job["replacement"]}"}})' in rules
    (runtime,) = of_kind("kserve", "ServingRuntime")
    ports = {one["name"]: one["containerPort"] for one in runtime["spec"]["containers"][0]["ports"]}
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (service,) = of_kind("kserve", "InferenceService")
    assert wanted == {"app": f"isvc.{service['metadata']['name']}-predictor"}
    (policy,) = (
        one["spec"]
        for one in of_kind("kserve", "NetworkPolicy")
        if one["spec"]["podSelector"].get("matchLabels") == wanted
    )
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert ports[endpoint["port"]] in opened


def test_the_rules_as_the_docs_hand_them_over() -> None:
    """The command in docs/OPERATIONS.md, up to what applies it."""
    docs = (ROOT / "docs" / "OPERATIONS.md").read_text()
    (command,) = re.findall(r"^(\(printf (?:.*\n)*?.*rules\.yml\)) \|\n", docs, re.MULTILINE)
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    document = yaml.safe_load(done.stdout)
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yml").read_text())
    assert document["spec"] == rules
    read = PrometheusRule.model_validate(document)
    assert json.loads(read.model_dump_json(by_alias=True, exclude_none=True)) == document


def test_the_metric_that_it_is_scaled_by() -> None:
    adapter = yaml.safe_load((K8S / "monitoring" / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    (scaler,) = of_kind("overlays/cpu", "HorizontalPodAutoscaler")
    pods, resource = scaler["spec"]["metrics"]
    assert pods["pods"]["metric"]["name"] == rule["name"]["as"]
    assert resource["containerResource"]["name"] == "cpu"
    assert resource["containerResource"]["container"] == "gateway"  # busy long before its pod is
    metrics = Metrics()
    asked = (("/predict", "POST"), ("/stream", "WS"))
    for route, method in asked:
        metrics.answered(route, method, 200, 0.001, None)
    name, selector = re.fullmatch(r"(\w+)(\{.*\})", rule["seriesQuery"]).groups()  # type: ignore[union-attr]
    text = asyncio.run(metrics.exposition()).decode()
    matchers = dict(re.findall(r'(route|method)=~"(.*?)"', selector))
    for route, method in asked:
        assert re.fullmatch(matchers["route"], route)
        assert re.fullmatch(matchers["method"], method)
        assert f'{name}{{le="0.001",method="{method}",route="{route}"}} 1.0' in text
    assert not re.fullmatch(matchers["method"], "GET")  # which upgrades are
    for label, pattern in matchers.items():
        assert f'{label}=~"{pattern}"' in rule["metricsQuery"]


def test_kserve() -> None:
    """KServe's own models know every field; what is Kubernetes' own in it, Kubernetes' schema."""
    fields = json.loads(kserve_models.FILE.read_text())
    (runtime,) = of_kind("kserve", "ServingRuntime")
    (service,) = of_kind("kserve", "InferenceService")
    assert not kserve_models.unknown(runtime, "V1alpha1ServingRuntime", fields, "runtime")
    assert not kserve_models.unknown(service, "V1beta1InferenceService", fields, "service")
    wrong = service | {"spec": {"predictor": {"model": {"runtimes": "x"}}}}
    assert kserve_models.unknown(wrong, "V1beta1InferenceService", fields, "service") == [
        "service.spec.predictor.model.runtimes: V1beta1ModelSpec has no such field"
    ]
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
    assert not problems(pod)
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == predictor["maxReplicas"] == 1, "no balancing of Tritons"
    model = predictor["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = {(one["name"], one["version"]) for one in runtime["spec"]["supportedModelFormats"]}
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert not [one for one in of_kind("kserve", "Service") if one["metadata"]["name"] == "triton"]


@pytest.mark.deploy
def test_kserve_s_fields_are_the_package_s() -> None:
    assert json.loads(kserve_models.FILE.read_text()) == kserve_models.fields_of_package()
