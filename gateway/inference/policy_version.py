"""One policy version: what its ensemble's configuration says, and its golden inference."""

import json
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any

from gateway.api.actions import Actions, actions_of
from gateway.api.codec import Codec, codec_of
from gateway.api.errors import (
    GatewayError,
    InferenceFailed,
    ServiceUnavailable,
    StateMismatch,
    Unsupported,
)
from gateway.security.state_tokens import TOKEN_BYTES, Memory
from gateway.triton.batch import Rows
from gateway.triton.client import FUSED, Triton
from gateway.triton.tensors import Tensors
from policy_spec.leaves import Leaf, leaves
from policy_spec.signature import Signature
from policy_spec.validate import takes_bytes, takes_images, takes_lists

GOLDEN_TIMEOUT_S = 5.0
WARMUP_ROWS = (1, 8, 64, 256)
OWN_ACTION = "policy_action"
NUMBER_CHARS = 26
"""Characters of a number in JSON, with its comma."""
NAME_CHARS = 16
"""Characters around a name in JSON, and around a row."""
OPTIONS_BYTES = 4096
IMAGE_BYTES = 512
"""Bytes of the heads of a PNG."""
SEED_BITS = 53
"""Bits of a seed that the gateway draws: JavaScript holds such integers exactly."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Golden:
    """Deterministic inference whose result is known, within a tolerance.

    `observations` are all rows of it, `actions` the numbers of the tensor `action` for each.
    """

    observations: Rows
    actions: tuple[tuple[float, ...], ...]
    tolerance: float

    def rows(self, count: int) -> Rows:
        """Return `count` rows; the observations are repeated in turn."""
        known = self.observations.count
        return self.observations.pick(index % known for index in range(count))


@dataclass(frozen=True)
class PolicyVersion:
    """One immutable policy version, as its ensemble's configuration describes it.

    `model` is the model that the gateway calls for it: the fused one if Triton has that ready,
    else the ensemble.
    """

    version: str
    model: str
    device: str
    signature: Signature
    codec: Codec
    actions: Actions
    tensors: Tensors
    format: str
    formats: tuple[str, ...]
    artifact_digest: str
    model_card: dict[str, Any]
    certificate: dict[str, Any] | None
    golden: Golden
    max_batch_size: int
    decodes: bool
    """Whether its fused model decodes images."""

    @classmethod
    def parse(
        cls, config: dict[str, Any], model: str, device: str, fused: dict[str, Any]
    ) -> "PolicyVersion":
        """Read an ensemble's configuration. Raises InferenceFailed where it is no policy's.

        `fused` is the fused model's, or empty.
        """
        try:
            parameters = {
                name: value["string_value"] for name, value in config["parameters"].items()
            }
            golden = json.loads(parameters["golden"])
            certificate = parameters.get("certificate")
            card = json.loads(parameters["model_card"])
            signature = Signature.from_card(card)
            codec = codec_of(signature.observation_space)
            apart = any(one["name"] == OWN_ACTION for one in config.get("output", ()))
            actions = actions_of(signature.action_space, signature.control, apart)
            tensors = Tensors(signature.layout, actions.outputs, signature.state)
            observations = codec.read_observations(golden["observations"])
            packed = codec.pack(observations)
            taken = {one["name"] for one in fused.get("input", ())}
            return cls(
                version=parameters["version"],
                model=model,
                device=device,
                signature=signature,
                codec=codec,
                actions=actions,
                tensors=tensors,
                format=parameters["format"],
                formats=tuple(parameters["formats"].split(",")),
                artifact_digest=parameters["artifact_digest"],
                model_card=card,
                certificate=json.loads(certificate) if certificate else None,
                golden=Golden(
                    Rows.of(tensors, len(observations), packed, None),
                    tuple(tuple(map(float, action)) for action in golden["actions"]),
                    float(golden["tolerance"]),
                ),
                max_batch_size=max(1, int(config["max_batch_size"])),
                decodes=any(leaf.encoded in taken for leaf in signature.layout.apart),
            )
        except (
            *(KeyError, ValueError, TypeError, AttributeError, RecursionError),
            GatewayError,
        ) as error:
            name = config.get("name")
            log.error("the configuration of %s describes no policy", name, exc_info=error)
            raise InferenceFailed(f"the configuration of {name} describes no policy") from error

    @property
    def body_bytes(self) -> int:
        """Bytes of a JSON request with `max_batch_size` rows, in base64 where that is allowed."""
        row = sum(min(_json_bytes(leaf)) for leaf in leaves(self.signature.observation_space))
        return OPTIONS_BYTES + (row + self._token_bytes) * self.max_batch_size

    @property
    def frame_bytes(self) -> int:
        """Bytes of a JSON step, in the longest form that each leaf may have."""
        row = sum(max(_json_bytes(leaf)) for leaf in leaves(self.signature.observation_space))
        return OPTIONS_BYTES + row + self._token_bytes

    @property
    def _token_bytes(self) -> int:
        state = self.signature.state_bytes
        return (state + TOKEN_BYTES) * 4 // 3 if state else 0

    def states_of(self, memory: Memory) -> list[bytes | None]:
        """Return the states that it can go on with. Raises StateMismatch."""
        if memory.version is None:
            return memory.states
        if (memory.version, memory.digest) != (self.version, self.artifact_digest):
            raise StateMismatch(
                f"the memory is of another {memory.version} than is served: start an episode"
            )
        return memory.states

    def seed_of(self, deterministic: bool, seed: int | None) -> int | None:
        """Return the seed to sample with, a new one if none is given; None if deterministic.

        Raises Unsupported if the policy can't be sampled.
        """
        if deterministic:
            return None
        if self.signature.noise == "none":
            raise Unsupported(
                f"{self.version} has no noise to sample with: ask with deterministic true"
            )
        return secrets.randbits(SEED_BITS) if seed is None else seed

    def check_own_actions(self) -> None:
        """Raise Unsupported if the policy's own actions are not known."""
        if not self.actions.tells_own:
            raise Unsupported(f"{self.version} does not tell its own actions: export it again")

    def no_images(self) -> GatewayError | None:
        """Return why encoded images can't be sent to it, or None where they can."""
        if not self.decodes:
            return Unsupported(
                f"{self.version} decodes no images: send raw bytes, or promote it: the active "
                "version decodes them, unless it was exported by an earlier release"
            )
        if not self.model.startswith(FUSED):
            return ServiceUnavailable(f"the model that decodes images for {self.version} is away")
        return None

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
        size = self.actions.outputs[0].size
        actions, _ = self.tensors.parted(data)
        for row, expected in zip(self.actions.rows(actions), self.golden.actions, strict=False):
            for value, right in zip(row[:size], expected, strict=True):
                if not abs(value - right) <= self.golden.tolerance:
                    raise InferenceFailed(f"{self.model} does not give its golden actions")

    async def warm_up(self, triton: Triton, deadline: float) -> None:
        """Run the golden observations at several batch sizes, before `deadline` (perf_counter)."""
        for rows in WARMUP_ROWS:
            if rows <= self.max_batch_size:
                left_s = deadline - time.perf_counter()
                await triton.infer(self.model, self.golden.rows(rows), left_s)


def _json_bytes(leaf: Leaf) -> list[int]:
    """Return how many bytes a leaf takes in JSON, in each of its forms."""
    space, size, named = leaf.space, leaf.nbytes, len(leaf.name) + NAME_CHARS
    if takes_images(space):  # a PNG of noise is larger: a byte more for each line
        size += size // 1024 + space.shape[0] + IMAGE_BYTES
    forms = [-(-size // 3) * 4] if takes_bytes(space) or takes_images(space) else []
    if takes_lists(space):
        forms.append(NUMBER_CHARS * space.size)
    return [named + form for form in forms]
