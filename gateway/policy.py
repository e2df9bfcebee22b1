"""One policy version: what its ensemble's configuration says, and its golden inference."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InferenceFailed
from gateway.triton import Triton

GOLDEN_TIMEOUT_S = 30.0
WARMUP_ROWS = (1, 8, 64, 256)

log = logging.getLogger(__name__)

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Golden:
    """Deterministic inference whose result is known: inputs, actions [N,3] and a tolerance."""

    speed: NDArray[np.float32]
    steering: NDArray[np.float32]
    sensors: NDArray[np.float32]
    actions: NDArray[np.float32]
    tolerance: float

    def tensors(self, rows: int) -> Tensors:
        """Give the ensemble's inputs for `rows` rows, the observations repeated in turn."""
        pick = np.arange(rows) % len(self.actions)
        return {
            "speed": self.speed[pick],
            "steering": self.steering[pick],
            "sensors": self.sensors[pick],
            "deterministic": np.ones((rows, 1), np.bool_),
            "seed": np.zeros((rows, 1), np.int64),
            "row": np.arange(rows, dtype=np.int64).reshape(-1, 1),
        }


@dataclass(frozen=True)
class PolicyVersion:
    """One immutable policy version, as its ensemble's configuration describes it."""

    version: str
    model: str
    device: str
    sensors: int
    format: str
    formats: tuple[str, ...]
    artifact_digest: str
    model_card: dict[str, Any]
    certificate: dict[str, Any] | None
    golden: Golden
    max_batch_size: int

    @classmethod
    def parse(cls, config: dict[str, Any], device: str) -> "PolicyVersion":
        """Read an ensemble's configuration. Raises InferenceFailed where it is no policy's."""
        try:
            parameters = {
                name: value["string_value"] for name, value in config["parameters"].items()
            }
            golden = json.loads(parameters["golden"])
            seen = golden["observations"]
            certificate = parameters.get("certificate")
            return cls(
                version=parameters["version"],
                model=config["name"],
                device=device,
                sensors=int(parameters["sensors"]),
                format=parameters["format"],
                formats=tuple(parameters["formats"].split(",")),
                artifact_digest=parameters["artifact_digest"],
                model_card=json.loads(parameters["model_card"]),
                certificate=json.loads(certificate) if certificate else None,
                golden=Golden(
                    speed=np.array([[o["speed"]] for o in seen], np.float32),
                    steering=np.array([[o["steering"]] for o in seen], np.float32),
                    sensors=np.array([o["sensors"] for o in seen], np.float32),
                    actions=np.array(golden["actions"], np.float32).reshape(-1, 3),
                    tolerance=float(golden["tolerance"]),
                ),
                max_batch_size=max(1, int(config["max_batch_size"])),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            name = config.get("name")
            log.error("the configuration of %s describes no policy", name, exc_info=error)
            raise InferenceFailed(f"the configuration of {name} describes no policy") from error

    async def check_golden(self, triton: Triton, timeout_s: float = GOLDEN_TIMEOUT_S) -> None:
        """Run the golden inference. Raises InferenceFailed where its actions differ."""
        rows = min(len(self.golden.actions), self.max_batch_size)
        actions = await triton.infer(self.model, self.golden.tensors(rows), timeout_s)
        expected = self.golden.actions[:rows]
        if actions.shape != expected.shape or not np.allclose(
            actions, expected, rtol=0, atol=self.golden.tolerance
        ):
            raise InferenceFailed(f"{self.model} does not give its golden actions")

    async def warm_up(self, triton: Triton) -> None:
        """Run the golden observations at several batch sizes."""
        for rows in WARMUP_ROWS:
            if rows <= self.max_batch_size:
                await triton.infer(self.model, self.golden.tensors(rows), GOLDEN_TIMEOUT_S)
