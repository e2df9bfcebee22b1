"""Artifacts, served by the real Triton and gateway, asked for the policies' own actions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from converters.artifact import artifact
from converters.export.export import export
from converters.repository import configs
from policy_spec.leaves import leaves
from policy_spec.signature import Signature
from policy_spec.validate import unpack
from tests.gateway.processes import gateway_process
from tests.triton import running_triton

AT_ONCE = 250
"""Observations of a request: as many as a body of images may have."""


@dataclass(frozen=True)
class Served:
    """A version that is served at a gateway."""

    url: str
    version: str
    signature: Signature

    @property
    def leaves(self) -> list[str]:
        """The names of the observation's leaves."""
        return [leaf.name for leaf in leaves(self.signature.observation_space)]

    def act(self, rows: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Return the answer to observations, for each leaf an array of shape (n, …)."""
        space = self.signature.observation_space
        each = (dict(zip(rows, one, strict=True)) for one in zip(*rows.values(), strict=True))
        observations = [
            unpack(space, {name: one.tobytes() for name, one in row.items()}, "bytes")
            for row in each
        ]
        asked = {"observations": observations, "version": self.version, "policyActions": True}
        form = {"Content-Type": "application/msgpack"}
        body = msgspec.msgpack.encode(asked | options)
        answer = httpx.post(f"{self.url}/predict", content=body, headers=form, timeout=60)
        told: dict[str, Any] = msgspec.msgpack.decode(answer.content)
        return told

    def actions(self, rows: dict[str, Any], deterministic: bool) -> np.ndarray[Any, Any]:
        """Return the policy's own actions, shape (n, elements)."""
        found: list[Any] = []
        for first in range(0, len(next(iter(rows.values()))), AT_ONCE):
            some = {name: part[first : first + AT_ONCE] for name, part in rows.items()}
            answer = self.act(some, deterministic=deterministic, seed=first)
            assert "policyActions" in answer, answer
            found += answer["policyActions"]
        return np.array(found).reshape(len(found), -1)


@contextmanager
def served(folders: list[Path], target: Path) -> Iterator[list[Served]]:
    """Export artifacts into one repository and serve all of them."""
    export(folders, target)
    models = [path.name for path in target.iterdir() if "torchscript" not in path.name]
    models.remove(configs.ALIAS)
    with running_triton(target, models) as (http, _):
        settings = {"TRITON_URL": f"http://127.0.0.1:{http}", "MODEL_VERSION": folders[0].name}
        with gateway_process(**settings, REQUEST_TIMEOUT_MS="60000") as url:
            yield [Served(url, path.name, artifact.load(path).card.signature) for path in folders]
