"""The models in the live Triton, over HTTP and gRPC, as any Triton client would call them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from converters.artifact import artifact
from converters.export import parity
from converters.repository import comparison
from tests.converters.conftest import edges
from tests.stack import ROOT, Stack

VERSIONS = {"v0.1.0": "1000", "v0.2.0": "2000"}
TYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}


class Client:
    """One way to Triton: `infer(model, tensors, version)` gives the outputs by name."""

    def __init__(self, module: ModuleType, address: str) -> None:
        self._module = module
        self._client = module.InferenceServerClient(address)

    def infer(
        self, model: str, tensors: dict[str, np.ndarray], version: str = "", **options: Any
    ) -> Any:
        inputs = []
        for name, array in tensors.items():
            one = self._module.InferInput(name, list(array.shape), TYPES[str(array.dtype)])
            one.set_data_from_numpy(array)
            inputs.append(one)
        return self._client.infer(model, inputs, model_version=version, **options)

    def action(self, model: str, tensors: dict[str, np.ndarray]) -> np.ndarray:
        action: np.ndarray = self.infer(model, tensors).as_numpy("action")
        return action

    def close(self) -> None:
        self._client.close()


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Client]:
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    address = {"http": stack.triton_http, "grpc": stack.triton_grpc}[request.param]
    one = Client(module, address)
    yield one
    one.close()


def tensors(
    observations: np.ndarray, *, deterministic: bool = True, seed: int = 0
) -> dict[str, np.ndarray]:
    rows = len(observations)
    return {
        "speed": observations[:, :1].copy(),
        "steering": observations[:, 1:2].copy(),
        "sensors": observations[:, 2:].copy(),
        "deterministic": np.full((rows, 1), deterministic),
        "seed": np.full((rows, 1), seed, np.int64),
    }


def flat(source: artifact.Artifact) -> np.ndarray:
    return source.preprocessing.flatten(source.observations)


def recorded(version: str) -> artifact.Artifact:
    return artifact.load(ROOT / "artifacts" / version)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("version", VERSIONS)
def test_ensembles_act_as_the_trained_policy(client: Client, version: str, form: str) -> None:
    source = recorded(version)
    observations = np.concatenate([flat(source)[:200], edges()])
    features = source.preprocessing.features(observations)
    expected = parity.actions(source, features, np.zeros((len(features), 3), np.float32))
    name = f"carla_policy-{version}" if form == "onnx" else f"carla_policy_{form}-{version}"
    actions = client.action(name, tensors(observations))
    np.testing.assert_allclose(actions, expected, rtol=0, atol=parity.TOLERANCE)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_step_alone(client: Client, version: str) -> None:
    source = recorded(version)
    given = tensors(flat(source)[:8], deterministic=False, seed=11)
    made = client.infer(f"preprocess-{version}", given, VERSIONS[version])
    features, noise = made.as_numpy("features"), made.as_numpy("noise")
    assert features.tobytes() == source.preprocessing.features(flat(source)[:8]).tobytes()
    assert noise.shape == (8, 3)
    expected = parity.actions(source, features.copy(), noise.copy())
    for form in ("onnx", "torchscript"):
        answer = client.infer(
            f"policy_{form}-{version}", {"features": features, "noise": noise}, VERSIONS[version]
        )
        np.testing.assert_allclose(answer.as_numpy("action"), expected, rtol=0, atol=1e-5)


def test_a_nonce_comes_back(client: Client) -> None:
    """Row by row, through both steps of an ensemble; zeros where there is none."""
    observations = flat(recorded("v0.2.0"))[:3]
    given = tensors(observations)
    steps = {"features": observations, "noise": np.zeros((3, 3), np.float32)}
    nonce = np.array([[7], [-8], [2**62]], np.int64)
    for model, inputs in (
        ("carla_policy", given),
        ("carla_policy-v0.2.0", given),
        ("carla_policy_torchscript-v0.2.0", given),
        ("carla_policy_fused-v0.2.0", {"observation": observations}),
        ("preprocess-v0.2.0", given),
        ("policy_onnx-v0.2.0", steps),
        ("policy_torchscript-v0.2.0", steps),
    ):
        echo = client.infer(model, inputs | {"nonce": nonce}).as_numpy("nonce_echo")
        assert echo.tobytes() == nonce.tobytes(), model
        assert not client.infer(model, inputs).as_numpy("nonce_echo").any(), model


def test_alias_is_the_active_version(client: Client, stack: Stack) -> None:
    active = httpx.get(f"{stack.gateway_url}/versions").json()["active"]
    given = tensors(flat(recorded(active))[:32])
    concrete = client.action(f"carla_policy-{active}", given)
    assert client.action("carla_policy", given).tobytes() == concrete.tobytes()


def test_alone_and_inside_a_batch(client: Client) -> None:
    given = tensors(flat(recorded("v0.2.0"))[:64])
    together = client.action("carla_policy", given)
    for index in range(64):
        alone = client.action("carla_policy", {k: v[index : index + 1] for k, v in given.items()})
        assert alone.tobytes() == together[index].tobytes()


def test_seeds(client: Client) -> None:
    observations = np.repeat(flat(recorded("v0.2.0"))[100:101], 6, axis=0)
    first = client.action("carla_policy", tensors(observations, deterministic=False, seed=3))
    again = client.action("carla_policy", tensors(observations, deterministic=False, seed=3))
    other = client.action("carla_policy", tensors(observations, deterministic=False, seed=4))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert len(np.unique(first, axis=0)) > 1  # each row has noise of its own
    given = tensors(observations[:1], deterministic=False, seed=3)
    given["row"] = np.array([[4]], np.int64)
    assert client.action("carla_policy", given)[0].tobytes() == first[4].tobytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("speed", np.nan, "speed must be finite"),
        ("sensors", np.inf, "sensors must be finite"),
        ("seed", -1, "seed and row must not be negative"),
    ],
)
def test_bad_values(client: Client, name: str, value: float, message: str) -> None:
    given = tensors(flat(recorded("v0.2.0"))[:3])
    given[name][1, 0] = value
    with pytest.raises(InferenceServerException, match=message):
        client.action("carla_policy", given)


def test_wrong_shape(client: Client) -> None:
    given = tensors(flat(recorded("v0.2.0"))[:3])
    given["sensors"] = given["sensors"][:, :4].copy()
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        client.action("carla_policy", given)


def test_a_bad_request_in_a_batch_fails_alone(stack: Stack) -> None:
    """Hundreds of requests at once, which Triton joins; every tenth one is bad."""
    observations = flat(recorded("v0.2.0"))
    expected = Client(tritonclient.http, stack.triton_http).action(
        "carla_policy", tensors(observations[:200])
    )
    before = _statistics(stack, "preprocess-v0.2.0", "2000")

    def call(index: int) -> np.ndarray | str:
        given = tensors(observations[index : index + 1])
        if index % 10 == 0:
            given["steering"][0, 0] = np.nan
        one = Client(tritonclient.http, stack.triton_http)
        try:
            return one.action("carla_policy", given)
        except InferenceServerException as error:
            return str(error)
        finally:
            one.close()

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(call, range(200)))
    for index, answer in enumerate(answers):
        if index % 10 == 0:
            assert "steering must be finite" in answer
        else:
            assert isinstance(answer, np.ndarray)
            assert answer[0].tobytes() == expected[index].tobytes()
    after = _statistics(stack, "preprocess-v0.2.0", "2000")
    joined = max(batch["batch_size"] for batch in after["batch_stats"])
    executions = after["execution_count"] - before["execution_count"]
    assert joined > 1
    assert executions < 200, "no requests were joined, so nothing was shown"


def _statistics(stack: Stack, model: str, version: str) -> dict[str, Any]:
    url = f"http://{stack.triton_http}/v2/models/{model}/versions/{version}/stats"
    content: dict[str, Any] = httpx.get(url).json()["model_stats"][0]
    return content


def test_repository_is_what_the_artifacts_export_to(tmp_path: Path) -> None:
    """The committed repository is this code's export of the committed artifacts.

    Compared but for the last digits of what depends on the processor: golden actions and errors.
    """
    from converters.export.export import export

    fresh = tmp_path / "model_repository"
    export(artifact.versions_in(ROOT / "artifacts"), fresh)
    assert comparison.differences(fresh, ROOT / "model_repository") == []


def test_a_missing_input_is_refused(client: Client) -> None:
    """Triton lets it through: as many inputs came as must, since one may be left out."""
    with pytest.raises(InferenceServerException, match="observation is missing") as raised:
        client.infer("carla_policy_fused-v0.2.0", {"noise_key": np.zeros((1, 2), np.int64)})
    assert ".py" not in str(raised.value)


def test_no_rows_are_refused(triton_http: str) -> None:
    """Triton lets no rows through that have the bytes of one."""
    one = {"name": "observation", "shape": [0, 7], "datatype": "FP32"}
    described = json.dumps({"inputs": [{**one, "parameters": {"binary_data_size": 28}}]}).encode()
    answer = httpx.post(
        f"http://{triton_http}/v2/models/carla_policy_fused-v0.2.0/infer",
        content=described + bytes(28),
        headers={"Inference-Header-Content-Length": str(len(described))},
    )
    assert answer.status_code == 400
    assert answer.json() == {"error": "observation must have rows"}
