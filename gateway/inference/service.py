"""What `POST /predict` and `/stream` work with alike."""

from dataclasses import dataclass

from gateway.config.live import LiveSettings
from gateway.inference.predictor import Predictor
from gateway.inference.registry import Registry
from gateway.observability.exchange import Observers
from gateway.security.access_control import AccessControl


@dataclass(frozen=True, slots=True)
class Service:
    """Who may ask, what is served, the way to Triton, and who is told of each answer."""

    live: LiveSettings
    access_control: AccessControl
    versions: Registry
    predictor: Predictor
    observers: Observers
