"""The parts that `POST /predict` and `/stream` share."""

from dataclasses import dataclass

from gateway.config.live import LiveSettings
from gateway.inference.predictor import Predictor
from gateway.inference.registry import Registry
from gateway.observability.exchange import Observers
from gateway.security.access_control import AccessControl
from gateway.security.state_tokens import StateTokens


@dataclass(frozen=True, slots=True)
class Service:
    """Settings, access control, versions, predictor, observers and tokens of one gateway."""

    live: LiveSettings
    access_control: AccessControl
    versions: Registry
    predictor: Predictor
    observers: Observers
    tokens: StateTokens

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request."""
        return self.live.now.max_body_bytes or self.versions.body_bytes

    @property
    def max_frame_bytes(self) -> int:
        """The largest frame of a stream, which has one observation."""
        return self.live.now.max_body_bytes or self.versions.frame_bytes
