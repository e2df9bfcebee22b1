"""Ask a CarlaRL service for driving actions."""

from carlarl_client.client import AsyncPolicyClient, AsyncSession, PolicyClient, Session
from carlarl_client.errors import (
    BadAnswer,
    ClientClosed,
    ConnectionFailed,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotFound,
    PolicyError,
    ResourceExhausted,
    ServiceUnavailable,
    StateMismatch,
    Unauthorized,
    Unsupported,
    ValidationFailed,
)
from carlarl_client.fallback import AsyncSafeDriver, Fallback, SafeDriver
from carlarl_client.latency import LatencyInTheLoop
from carlarl_client.types import Action, Observation, ObservationDict, Prediction

__all__ = [
    "Action",
    "AsyncPolicyClient",
    "AsyncSafeDriver",
    "AsyncSession",
    "BadAnswer",
    "ClientClosed",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Fallback",
    "InferenceFailed",
    "LatencyInTheLoop",
    "ModelNotFound",
    "Observation",
    "ObservationDict",
    "PolicyClient",
    "PolicyError",
    "Prediction",
    "ResourceExhausted",
    "SafeDriver",
    "ServiceUnavailable",
    "Session",
    "StateMismatch",
    "Unauthorized",
    "Unsupported",
    "ValidationFailed",
]
