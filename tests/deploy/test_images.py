"""What the images are made of, and compose.yaml, without building anything."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from gateway.observability import otlp
from gateway.observability.tracing import Tracing
from tests.deploy.containers import missing
from tests.stack import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE = ROOT / "compose.yaml"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(name: str) -> list[str]:
    """What docker/NAME.txt asks for."""
    lines = (ROOT / "docker" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("name", ["gateway", "triton", "triton-gpu"])
def test_bounds_as_in_pyproject(name: str) -> None:
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    bounds = {line.replace("[grpc,http]", "[grpc]") for line in (*PROJECT["dependencies"], *extras)}
    assert set(asked(name)) <= bounds


def test_the_gateway_s_packages_are_those_that_it_imports() -> None:
    listed = asked("gateway")
    traces = PROJECT["optional-dependencies"]["traces"]
    assert set(traces) <= set(listed)
    names = {normal(re.split(r"[^\w-]", line)[0]) for line in listed}
    modules: set[str] = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    providers = packages_distributions()
    imported = {
        normal(providers[module][0])
        for module in modules
        - set(sys.stdlib_module_names)
        - {"gateway", "policy_spec", "opentelemetry"}
    }
    # These come with others that are listed.
    assert imported - {"starlette", "pydantic-core"} <= names
    # Whose files are served, not imported; and packages that share one name.
    shared = {normal(re.split(r"[^\w-]", line)[0]) for line in traces}
    assert names - imported <= {"fastapi-offline", "uvloop", *shared}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] not in "# "]
    first = next(rest for word, rest in lines if word == "ARG")
    installs = re.findall(r"\bpip install [^&\n]*", text)
    assert installs, "what is installed is locked, or the product itself"
    assert all("--require-hashes" in one or "--no-deps" in one for one in installs), installs
    base = re.fullmatch(r"BASE=(\S+):(\S+)", first)
    assert base is not None, "the base can be given, and so pinned by its digest"
    assert base[2] != "latest"
    assert {rest.split()[0] for word, rest in lines if word == "FROM"} == {"${BASE}"}
    users = [rest for word, rest in lines if word == "USER"]
    assert users[-1] == "1000:1000", "a number, which Kubernetes' runAsNonRoot can check"
    assert any(word == "HEALTHCHECK" for word, _ in lines)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in lines:
        if word == "COPY" and "--from=" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            for source in (source.replace("${LOCK}", "triton") for source in sources):
                assert (ROOT / source).exists(), source
                assert source == "." or f"!{source}" in ignored, f"{source} is in .dockerignore"


def test_nothing_else_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"


def test_triton_s_flags_are_those_of_the_embedded_one() -> None:
    """All of its flags but for those that name this machine's folders and addresses."""
    flag = re.compile(r"""(?<=["\s])--[a-z][a-z-]+(?==|"|\s)""")
    here = set(flag.findall((ROOT / "docker" / "triton.sh").read_text()))
    embedded = set(flag.findall((ROOT / "carlarl" / "serving" / "triton_server.py").read_text()))
    own = {"--backend-directory", "--backend-config", "--cache-directory"}
    own |= {
        f"--{what}-{part}" for what in ("http", "grpc", "metrics") for part in ("address", "port")
    }
    assert here == embedded - own


@cache
def services() -> dict[str, dict[str, Any]]:
    """compose.yaml with its variables' defaults, all profiles; the specification takes it.

    `make test-deploy` has podman-compose read it.
    """
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    text = yaml.safe_dump(yaml.safe_load(text))  # with its anchors resolved
    compose_spec.PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="extension key `cap_drp`"):
        compose_spec.PyCompose.from_yaml(text.replace("cap_drop:", "cap_drp:", 1))
    read: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return read


def test_what_compose_starts() -> None:
    profiles = {name: set(service["profiles"]) for name, service in services().items()}
    assert profiles == {
        "triton": {"cpu"},
        "triton-gpu": {"gpu"},
        "gateway": {"cpu", "gpu"},
        "tools": {"tools"},
        "prometheus": {"monitoring"},
        "grafana": {"monitoring"},
    }
    waits = services()["gateway"]["depends_on"]
    assert {name: one["condition"] for name, one in waits.items()} == dict.fromkeys(
        ("triton", "triton-gpu"), "service_healthy"
    )
    assert services()["triton-gpu"]["networks"]["inside"]["aliases"] == ["triton"]
    assert services()["triton"]["shm_size"]


def test_how_compose_traces(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry takes what is passed where nothing is set, empty values too, without a word."""
    gateway, triton = (services()[name]["environment"] for name in ("gateway", "triton"))
    passed = {name: value for name, value in gateway.items() if name.startswith("OTEL_")}
    sampling = {name for name in passed if name.startswith("OTEL_TRACES_SAMPLER")}
    assert set(passed) - sampling == {name for name in triton if name.startswith("OTEL_")}
    for name, value in passed.items():
        monkeypatch.setenv(name, value or "")
    assert otlp.traces_url() is None
    monkeypatch.setenv(otlp.ENDPOINT, "http://127.0.0.1:1")
    assert Tracing().begin("POST", "/predict", {}) is not None
    assert not caplog.records
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    assert Tracing().begin("POST", "/predict", {}) is None


def test_what_compose_opens() -> None:
    published = {name: service.get("ports", []) for name, service in services().items()}
    assert published.pop("gateway") == ["127.0.0.1:8080:8080"]
    assert published.pop("grafana") == ["127.0.0.1:3000:3000"]
    assert not any(published.values())
    for service in services().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        variables = service.get("environment", {})
        secret = [name for name in variables if re.search("PASSWORD|KEY|SECRET", name)]
        assert all(variables[name].startswith("/run/secrets/") for name in secret)
        assert not service["image"].endswith(":latest")


def test_what_prometheus_scrapes() -> None:
    content = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in content["scrape_configs"]
    }
    assert targets == {"gateway": ["gateway:8080"], "triton": ["triton:8002"]}
    assert {target.split(":")[0] for one in targets.values() for target in one} <= set(services())


def test_missing_packages_are_named() -> None:
    assert missing({"sh": "dash", "/bin/sh": "dash"}) == ""
    sentence = missing({"sh": "dash", "no-such-program": "one", "/no/such/file": "two"})
    assert sentence == "needed: apt-get install --no-install-recommends one two"
