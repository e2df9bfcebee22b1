"""The action of an observation is the same, bit for bit, in whatever company it travels."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.artifact import artifact
from converters.artifact.observations import corners, json_form
from gateway.triton.batch import Rows
from gateway.triton.client import tensors_of
from policy_spec.signature import driving_space
from tests.gateway.driving import rows_of
from tests.stack import ROOT, Stack, running_stack

Action = bytes
POOL = 96
ENSEMBLE, FUSED = "carla_policy-v0.2.0", "carla_policy_fused-v0.2.0"


def observations() -> list[dict[str, Any]]:
    space = driving_space(5)
    edges = corners(space)
    recorded = artifact.load(ROOT / "artifacts" / "v0.2.0").observations
    picked = np.linspace(0, len(recorded[0]) - 1, POOL - len(edges[0])).astype(int)
    rows = (np.concatenate([one[picked], edge]) for one, edge in zip(recorded, edges, strict=True))
    return json_form(space, tuple(rows))


def bits(action: dict[str, float]) -> Action:
    return struct.pack("<3d", action["throttle"], action["brake"], action["steer"])


async def ask(client: httpx.AsyncClient, rows: list[dict[str, Any]], **fields: Any) -> list[Action]:
    answer = await client.post(
        "/predict", json={"observations": rows, "deterministic": True, **fields}
    )
    assert answer.status_code == 200, answer.text
    return [bits(action) for action in answer.json()["actions"]]


class Company:
    """Compositions of requests, sent at once; every action compared with the one alone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pool = observations()
        self.alone = asyncio.run(self._alone())
        self.compositions = 0

    async def _alone(self) -> list[Action]:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return [(await ask(client, [seen]))[0] for seen in self.pool]

    def check(self, composition: list[list[int]]) -> None:
        asyncio.run(self._check(composition))
        self.compositions += len(composition)

    async def _check(self, composition: list[list[int]]) -> None:
        async with httpx.AsyncClient(base_url=self.url) as client:
            requests = [ask(client, [self.pool[i] for i in rows]) for rows in composition]
            for rows, answer in zip(composition, await asyncio.gather(*requests), strict=True):
                assert answer == [self.alone[i] for i in rows]


@pytest.fixture(scope="module")
def company(gateway_url: str) -> Company:
    return Company(gateway_url)


compositions = st.lists(
    st.lists(st.integers(0, POOL - 1), min_size=1, max_size=40), min_size=1, max_size=16
)


@settings(max_examples=100, deadline=None)
@given(compositions)
def test_alone_and_in_any_company(company: Company, composition: list[list[int]]) -> None:
    company.check(composition)


@pytest.mark.reliability
def test_thousands_of_compositions(company: Company) -> None:
    """What the property test and this one sent together, with requests up to the largest."""
    generator = np.random.default_rng(0)
    while company.compositions < 3000:
        sizes = generator.integers(1, 12, 24)
        company.check([generator.integers(0, POOL, size).tolist() for size in sizes])
    company.check([generator.integers(0, POOL, 1000).tolist() for _ in range(3)])
    assert company.compositions > 3000


@pytest.fixture(scope="module")
def another_server() -> Iterator[Stack]:
    with running_stack(WORKERS="2") as running:
        yield running


def test_on_any_worker_and_after_a_restart(company: Company, another_server: Stack) -> None:
    """A server started anew, with two workers, gives the same bits."""
    other = Company(another_server.gateway_url)
    assert other.alone == company.alone
    for start in range(0, POOL, 12):
        other.check([list(range(start, start + 12)), list(range(POOL))])


@pytest.mark.parametrize("protocol", [tritonclient.http, tritonclient.grpc])
def test_the_ensemble_and_the_fused_model_agree(stack: Stack, protocol: Any) -> None:
    """Both ways through Triton, by tritonclient: sampled and deterministic, all sizes."""
    address = stack.triton_http if protocol is tritonclient.http else stack.triton_grpc
    dtypes = {"FP32": np.float32, "BOOL": np.bool_, "INT64": np.int64}
    pool = observations()
    client = protocol.InferenceServerClient(address)

    def infer(rows: Rows, model: str) -> bytes:
        inputs = []
        for name, kind, data in tensors_of(model, rows):
            array = np.frombuffer(data, dtypes[kind]).reshape(rows.count, -1)
            inputs.append(protocol.InferInput(name, array.shape, kind))
            inputs[-1].set_data_from_numpy(array)
        action: bytes = client.infer(model, inputs).as_numpy("action").tobytes()
        return action

    for seed in (None, 0, 2**63 - 1):
        for size in (1, 2, 7, 96):
            rows = rows_of(pool[:size], seed)
            assert infer(rows, FUSED) == infer(rows, ENSEMBLE)
        mixed = Rows.join([rows_of(pool[:3]), rows_of(pool[3:9], seed or 7)])
        assert infer(mixed, FUSED) == infer(mixed, ENSEMBLE)
    client.close()
