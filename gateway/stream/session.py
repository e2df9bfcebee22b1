"""Control streams: the steps of one vehicle over one connection; the latest step wins."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from gateway.api import codec
from gateway.api.asyncapi import KEY_PREFIX
from gateway.api.errors import (
    DeadlineExceeded,
    GatewayError,
    ModelNotFound,
    StateMismatch,
    Unauthorized,
    payload_of,
)
from gateway.api.messages import StepAnswer, StepRequest
from gateway.api.paths import STREAM
from gateway.api.problems import JSON, MSGPACK, NOT_READ
from gateway.api.request_head import RequestHead
from gateway.inference.batcher import LATE
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.predictor import Prediction
from gateway.inference.service import Service
from gateway.observability.exchange import Exchange
from gateway.security.rate_limit import PIECE_BYTES, RateLimit
from gateway.stream.episode import Episode, Episodes
from gateway.triton.batch import Rows

IDLE_FRAMES_PER_S = 1000
"""Frames without an action that one vehicle may send in a second: steps that are overtaken or
refused, fragments and control frames."""

POLICY_VIOLATION = 1008


class Connection(Protocol):
    """What a stream needs of its connection."""

    def send(self, data: bytes, text: bool) -> None:
        """Send one frame."""

    def end(self, code: int, reason: str) -> None:
        """Cut the vehicle off."""

    def rested(self) -> None:
        """Note that no step is being answered."""


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle that was let in. Its steps count for `caller`, and each has `deadline_s` seconds.

    `keyed` says that `caller` is the digest of an API key.
    """

    caller: str
    keyed: bool
    request_id: str
    deadline_s: float


@dataclass(eq=False, slots=True)
class _Taken:
    """A step that came in; `step` is None until its policy is known, `start` until it is asked."""

    frame: bytes
    form: str
    exchange: Exchange
    step: StepRequest | None = None
    version: str | None = None
    episode: Episode | None = None

    @property
    def id(self) -> int | None:
        """The caller's number of this step, or None if it can't be read."""
        return codec.step_of(self.frame, self.form) if self.step is None else self.step.step_id


def admit(service: Service, scope: Scope, request_id: str) -> Vehicle:
    """Let a vehicle in, before the upgrade.

    Raises Unauthorized, RateExceeded and ServiceUnavailable as any route does, HTTPException (403)
    for a page of an origin that is not allowed, ValidationFailed for a deadline that is none.
    """
    headers = Headers(scope=scope)
    head = RequestHead(scope["headers"])
    for offered in ",".join(headers.getlist("sec-websocket-protocol")).split(","):
        name = offered.strip()
        if name.startswith(KEY_PREFIX) and b"x-api-key" not in head.found:
            head.found[b"x-api-key"] = name.removeprefix(KEY_PREFIX).encode("latin-1")
    access = service.access_control
    caller = access.enter(STREAM, head.found, scope["client"])
    _check_origin(headers, scope["scheme"], service.live.now.cors_origins)
    return Vehicle(caller, access.keys is not None, request_id, head.deadline_s())


def _check_origin(headers: Headers, scheme: str, allowed: tuple[str, ...]) -> None:
    """Refuse pages of other origins: unlike requests, browsers let them open any stream."""
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    # Where this is plain HTTP, TLS may end at a proxy before it.
    schemes = ("https",) if scheme == "https" else ("http", "https")
    host = headers.get("host", "").lower()
    if origin.lower() not in [f"{one}://{host}" for one in schemes]:
        raise HTTPException(403, "pages of this origin may not open a stream")


class Stream:
    """One vehicle's steps: at most one is being answered, and only the latest one waits.

    Answers go over `connection`; `tasks` holds the work under way.
    """

    def __init__(
        self,
        service: Service,
        vehicle: Vehicle,
        connection: Connection,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._service = service
        self._vehicle = vehicle
        self._connection = connection
        self._tasks = tasks
        self._idle = RateLimit(IDLE_FRAMES_PER_S, IDLE_FRAMES_PER_S)
        self._received = 0
        self._current: _Taken | None = None
        self._latest: _Taken | None = None
        self._place: tuple[PolicyVersion, float] | None = None
        """The policy that an overtaken step waited for, and since when it waited."""
        self._lost = False
        self._episodes = Episodes(service)
        service.observers.metrics.streams.add(1)

    @property
    def busy(self) -> bool:
        """Whether a step is being answered."""
        return self._current is not None

    def receive(self, data: bytes, text: bool) -> None:
        """Take one frame, which gets exactly one answer."""
        form = JSON if text else MSGPACK
        self._received += 1
        exchange = Exchange(
            *(self._service.observers, STREAM, "WS", time.perf_counter()),
            f"{self._vehicle.request_id}-{self._received}",
        )
        taken = _Taken(data, form, exchange)
        read = False
        try:
            self._service.access_control.renew(self._vehicle.caller, self._vehicle.keyed)
            if len(data) > PIECE_BYTES:
                self._service.access_control.charge_body(self._vehicle.caller, len(data))
            read = True
            self._read(taken)
        except Exception as error:
            if not read:  # the next step starts the episode that this one was to start
                with suppress(GatewayError):
                    self._episodes.take(codec.asked_of(data, form))
            self._refuse(taken, error)
            if isinstance(error, Unauthorized):
                self._connection.end(POLICY_VIOLATION, error.message)
            return
        if self._current is None:
            self._begin(taken)
            return
        if self._latest is not None:
            self._skip(self._latest)
        self._latest = taken

    def count_idle(self) -> None:
        """Count a frame that gets no action; cut the vehicle off if it sends too many."""
        if self._idle.take(""):
            self._connection.end(POLICY_VIOLATION, "too many frames that get no action")

    def close(self) -> None:
        """Stop: the vehicle has gone. What was not sent to Triton yet is never sent."""
        self._lost = True
        self._latest = None
        self._service.observers.metrics.streams.add(-1)
        self._episodes.close()

    def _read(self, taken: _Taken) -> None:
        """Decode a frame by the signature of the episode's policy, or of the one that it names.

        The step stays None where that policy, or the active one, is not known yet. Raises
        ValidationFailed and StateMismatch.
        """
        data, form, versions = taken.frame, taken.form, self._service.versions
        usual = self._episodes.policy or versions.active
        if usual is not None:
            try:
                step = usual.codec.read_step[form](data)
            except NOT_READ:
                pass
            else:
                taken.step, taken.version = step, step.version
                taken.episode = self._episodes.take(step)
                return
        asked = codec.asked_of(data, form)
        taken.episode = episode = self._episodes.take(asked)
        codec.check_version(asked.version)
        taken.version = asked.version
        version = episode.version(asked.version)
        policy = versions.known(version)
        if policy is not None:
            taken.step = policy.codec.read_step_apart(data, form)
        elif version is None:  # none is active yet
            codec.read_step_envelope(data, form)

    def _begin(self, taken: _Taken) -> None:
        """Start to answer a step."""
        self._current = taken
        assert taken.episode is not None
        try:
            version = taken.episode.version(taken.version)
        except StateMismatch as error:
            self._settled(error)
            return
        policy = self._service.versions.known(version)
        if policy is not None:
            self._ask(taken, policy)
            return
        task = asyncio.ensure_future(self._resolve(taken, version))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, taken: _Taken, version: str | None) -> None:
        try:
            async with asyncio.timeout(self._deadline(taken) - time.perf_counter()):
                policy = await self._service.versions.resolve(version)
        except TimeoutError:
            self._settled(DeadlineExceeded(LATE))
        except ModelNotFound as error:
            assert taken.episode is not None
            self._settled(taken.episode.missing(error))
        except Exception as error:
            self._settled(error)
        else:
            self._ask(taken, policy)

    def _ask(self, taken: _Taken, policy: PolicyVersion) -> None:
        """Ask the predictor; the step takes the place in line of one that it has overtaken."""
        step = taken.step
        try:
            if step is None or not isinstance(step, policy.codec.step):
                step = taken.step = policy.codec.read_step_apart(taken.frame, taken.form)
            if step.policy_actions:
                policy.check_own_actions()
            assert taken.episode is not None
            states = taken.episode.states(policy)
            seed = policy.seed_of(step.deterministic, step.seed)
            packed = policy.codec.pack((step.observation,), step=True)
        except Exception as error:
            self._settled(error)
            return
        if self._overtaken():
            self._settled(ClientDisconnect())
            return
        since = None
        if self._place is not None and self._place[0] is policy:
            since = self._place[1]
        self._place = (policy, since or time.perf_counter())
        taken.exchange.version = policy.version
        self._service.predictor.predict(
            policy,
            Rows.of(policy.tensors, 1, packed, seed, states),
            seed,
            self._deadline(taken),
            self._settled,
            step=True,
            gone=self._overtaken,
            since=since,
        )

    def _deadline(self, taken: _Taken) -> float:
        timeout_s = self._service.live.now.request_timeout_ms / 1000
        return taken.exchange.arrived + min(self._vehicle.deadline_s, timeout_s)

    def _overtaken(self) -> bool:
        return self._lost or self._latest is not None

    def _settled(self, outcome: Prediction | Exception) -> None:
        """Answer the current step, and go on with the latest one."""
        taken = self._current
        assert taken is not None
        if isinstance(outcome, ClientDisconnect):
            if not self._lost:
                self._skip(taken)
        else:
            self._place = None
            if isinstance(outcome, Exception):
                self._refuse(taken, outcome)
            else:
                self._answer(taken, outcome)
        self._current = None
        following, self._latest = self._latest, None
        if following is not None:
            self._begin(following)
        else:
            self._connection.rested()

    def _answer(self, taken: _Taken, prediction: Prediction) -> None:
        seconds = taken.exchange.answer(200)
        assert taken.step is not None
        assert taken.episode is not None
        policy = prediction.policy
        actions = policy.actions
        self._episodes.answered(taken.episode, policy, prediction.states)
        answer = StepAnswer(
            taken.step.step_id,
            actions.answered(prediction.rows)[0],
            policy.version,
            round(seconds * 1000, 3),
            prediction.seed is None,
        )
        if prediction.seed is not None:
            answer.seed = prediction.seed
        if taken.step.policy_actions:
            answer.policy_action = actions.own(prediction.rows)[0]
        if taken.step.return_state and prediction.states:
            digest, (state,) = policy.artifact_digest, prediction.states
            answer.state = self._service.tokens.sign(policy.version, digest, state)
        self._send(answer, taken.form)

    def _skip(self, taken: _Taken) -> None:
        self._service.observers.metrics.skipped.inc()
        self._send({"stepId": taken.id, "skipped": True}, taken.form)
        self.count_idle()

    def _refuse(self, taken: _Taken, error: Exception) -> None:
        payload = payload_of(error, taken.exchange.request_id)
        if "Retry-After" in payload.headers:  # where there are no headers
            payload.envelope["details"]["retry_after_s"] = int(payload.headers["Retry-After"])
        taken.exchange.answer(payload.status, payload.code)
        self._send({"stepId": taken.id, **payload.envelope}, taken.form)
        self.count_idle()

    def _send(self, content: object, form: str) -> None:
        if not self._lost:
            self._connection.send(codec.encode[form](content), form == JSON)
