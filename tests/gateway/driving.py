"""Rows of today's observations: speed, steering and five sensors, as the gateway makes them."""

from typing import Any

from gateway.api.actions import actions_of
from gateway.api.codec import codec_of
from gateway.triton.batch import Rows
from gateway.triton.tensors import Tensors
from policy_spec.signature import Signature

CARD: dict[str, Any] = {
    "sensors": 5,
    "action": {
        "layout": ["throttle", "brake", "steer"],
        "low": [0.0, 0.0, -1.0],
        "high": [1.0, 1.0, 1.0],
    },
    "distribution": {"std": "parameter", "squash": "clip"},
}
SIGNATURE = Signature.from_card(CARD)
CODEC = codec_of(SIGNATURE.observation_space)
ACTIONS = actions_of(SIGNATURE.action_space, SIGNATURE.control, apart=False)
TENSORS = Tensors(SIGNATURE.layout, ACTIONS.outputs)


def rows_of(observations: list[dict[str, Any]], seed: int | None = None) -> Rows:
    packed = CODEC.pack(CODEC.read_observations(observations))
    return Rows.of(TENSORS, len(observations), packed, seed)
