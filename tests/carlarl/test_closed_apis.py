"""Triton's control APIs are closed to anyone but the commands of the user who serves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from carlarl.promotion.triton_control import ControlError, TritonControl
from carlarl.serving import cleanup, running
from gateway.config.settings import Settings
from tests.stack import Stack, free_ports


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/carla_policy/load"),
        ("POST", "/v2/repository/models/carla_policy/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("POST", "/v2/systemsharedmemory/unregister"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/logging"),
    ],
)
@pytest.mark.parametrize("secret", [None, "", "a-wrong-one"])
def test_closed_over_http(stack: Stack, method: str, path: str, secret: str | None) -> None:
    headers = {} if secret is None else {"carlarl-secret": secret}
    url = f"http://{stack.triton_http}{path}"
    answer = httpx.request(method, url, headers=headers, json={})
    assert answer.status_code == 403
    assert httpx.get(f"http://{stack.triton_http}/v2/models/carla_policy/ready").status_code == 200


def test_closed_over_grpc(triton_grpc: str) -> None:
    with tritonclient.grpc.InferenceServerClient(triton_grpc) as client:
        closed: list[Callable[[], Any]] = [
            client.get_model_repository_index,
            lambda: client.unload_model("carla_policy"),
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ]
        for call in closed:
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
        assert client.is_model_ready("carla_policy")
        assert client.get_inference_statistics("carla_policy").model_stats


def test_open_to_whoever_finds_the_secret(stack: Stack) -> None:
    url = f"http://{stack.triton_http}"
    served = running.embedded_at(url)
    assert served is not None
    secret = served.secret
    assert secret
    assert len(secret) == 64
    with TritonControl(url) as control:
        assert "carla_policy" in control.models()
    with (
        TritonControl(url, "a-wrong-one") as control,
        pytest.raises(ControlError, match="run the command as the user who runs `carlarl serve`"),
    ):
        control.models()
    with (
        TritonControl(url, "a-wrong-one") as control,
        pytest.raises(ControlError, match="this Triton is closed"),
    ):
        control.load("carla_policy")
    headers = {"carlarl-secret": secret}
    assert httpx.get(f"{url}/v2/logging", headers=headers).status_code == 200
    with tritonclient.grpc.InferenceServerClient(stack.triton_grpc) as client:
        protocol = {"triton-grpc-protocol-carlarl-secret": secret}
        assert client.get_model_repository_index(headers=protocol).models


def test_the_secret_is_for_this_user_alone_and_in_no_log(stack: Stack) -> None:
    (file,) = cleanup.SHARED_MEMORY.glob(f"carlarl-{stack.process.pid}-*/service.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.stat().st_uid == os.getuid()
    served = running.embedded_at(f"http://{stack.triton_http}")
    assert served is not None
    assert str(served.secret) not in stack.output()


def test_no_secret_of_another_machine_or_of_a_dead_command() -> None:
    port, other = free_ports(2)
    settings = Settings(triton_http_port=port, triton_grpc_port=9, triton_secret="kept-by-it")
    with cleanup.own_folder() as folder:
        running.announce(folder, settings)
        for host in ("127.0.0.1", "localhost"):
            served = running.embedded_at(f"http://{host}:{port}")
            assert served is not None
            assert (served.secret, served.grpc_port) == ("kept-by-it", 9)
        assert running.embedded_at(f"http://triton:{port}") is None
        assert running.embedded_at(f"http://127.0.0.1:{other}") is None
        dead = folder.with_name(f"{folder.name}-dead")  # nobody holds its lock
        dead.mkdir()
        running.announce(dead, settings.model_copy(update={"triton_http_port": other}))
        assert running.embedded_at(f"http://127.0.0.1:{other}") is None
        cleanup.sweep()
        assert not dead.exists()
