"""One policy version: what its ensemble's configuration says, and its golden inference."""

import json
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Any

from gateway.api.codec import Codec, codec_of
from gateway.api.errors import InferenceFailed
from gateway.triton.batch import Rows
from gateway.triton.client import Triton

GOLDEN_TIMEOUT_S = 5.0
WARMUP_ROWS = (1, 8, 64, 256)

log = logging.getLogger(__name__)

_ACTION = Struct("<3f")


@dataclass(frozen=True)
class Observation:
    """One recorded observation: km/h, -1 to 1, and the sensors' readings."""

    speed: float
    steering: float
    sensors: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """Deterministic inference whose result is known, action by action, within a tolerance."""

    observations: tuple[Observation, ...]
    actions: tuple[tuple[float, ...], ...]
    tolerance: float

    def rows(self, count: int) -> Rows:
        """Give `count` rows, the observations repeated in turn."""
        seen = self.observations
        return Rows.of([seen[index % len(seen)] for index in range(count)], None)


@dataclass(frozen=True)
class PolicyVersion:
    """One immutable policy version, as its ensemble's configuration describes it.

    `model` is what the gateway calls for it: the ensemble, or the model that does the same in
    one process where Triton has that ready.
    """

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

    @cached_property
    def codec(self) -> Codec:
        """What decodes observations of its signature."""
        return codec_of(self.sensors)

    @classmethod
    def parse(cls, config: dict[str, Any], model: str, device: str) -> "PolicyVersion":
        """Read an ensemble's configuration. Raises InferenceFailed where it is no policy's."""
        try:
            parameters = {
                name: value["string_value"] for name, value in config["parameters"].items()
            }
            golden = json.loads(parameters["golden"])
            certificate = parameters.get("certificate")
            return cls(
                version=parameters["version"],
                model=model,
                device=device,
                sensors=int(parameters["sensors"]),
                format=parameters["format"],
                formats=tuple(parameters["formats"].split(",")),
                artifact_digest=parameters["artifact_digest"],
                model_card=json.loads(parameters["model_card"]),
                certificate=json.loads(certificate) if certificate else None,
                golden=Golden(
                    tuple(
                        Observation(seen["speed"], seen["steering"], tuple(seen["sensors"]))
                        for seen in golden["observations"]
                    ),
                    tuple(tuple(map(float, action)) for action in golden["actions"]),
                    float(golden["tolerance"]),
                ),
                max_batch_size=max(1, int(config["max_batch_size"])),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            name = config.get("name")
            log.error("the configuration of %s describes no policy", name, exc_info=error)
            raise InferenceFailed(f"the configuration of {name} describes no policy") from error

    async def check_golden(
        self,
        triton: Triton,
        max_rows: int = 1000,
        timeout_s: float = GOLDEN_TIMEOUT_S,
        *,
        probe: bool = False,
    ) -> None:
        """Run the golden inference, or its first rows; as a `probe` in quarantine, too.

        Raises InferenceFailed where its actions differ, and what `Triton.infer` raises.
        """
        rows = min(len(self.golden.actions), self.max_batch_size, max_rows)
        data = await triton.infer(self.model, self.golden.rows(rows), timeout_s, probe=probe)
        for action, expected in zip(_ACTION.iter_unpack(data), self.golden.actions, strict=False):
            for value, right in zip(action, expected, strict=True):
                if not abs(value - right) <= self.golden.tolerance:
                    raise InferenceFailed(f"{self.model} does not give its golden actions")

    async def warm_up(self, triton: Triton, deadline: float) -> None:
        """Run the golden observations at several batch sizes, before `deadline` (perf_counter)."""
        for rows in WARMUP_ROWS:
            if rows <= self.max_batch_size:
                left_s = deadline - time.perf_counter()
                await triton.infer(self.model, self.golden.rows(rows), left_s)
