"""Control streams: one vehicle's steps over one connection, of which the latest wins."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Scope

from gateway import frames
from gateway.access import AccessLog
from gateway.deadline import allowed_s
from gateway.doors import Doors, too_fast
from gateway.errors import Unauthorized, tell
from gateway.frames import Step
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.policy import PolicyVersion
from gateway.predict import Prediction, Predictor, seed_of
from gateway.rows import Rows
from gateway.settings import Settings
from gateway.versions import Versions

PATH = "/stream"
KEY_PREFIX = "carlarl.key."
"""What an offered subprotocol begins with that is an API key: browsers can set no header."""
IDLE_FRAMES_PER_S = 1000
"""Frames without an action that one vehicle may send a second: steps that are overtaken or refused,
fragments and control frames."""

POLICY_VIOLATION = 1008


class Connection(Protocol):
    """What a stream needs of its connection."""

    def send(self, data: bytes, text: bool) -> None:
        """Send one frame."""

    def end(self, code: int, reason: str) -> None:
        """Cut the vehicle off."""

    def rested(self) -> None:
        """Note that nothing is under way."""


@dataclass(frozen=True, slots=True)
class Vehicle:
    """Who was let in: as whose its steps count, its connection's id, and how long a step may take.

    `keyed` says that `caller` is the digest of an API key.
    """

    caller: str
    keyed: bool
    request_id: str
    deadline_s: float


@dataclass(eq=False, slots=True)
class _Taken:
    """A step that came in, as the how-manieth, when and how it is to be answered."""

    step: Step
    text: bool
    number: int
    arrived: float


class Streams:
    """What all streams of a process work with, and their doors."""

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        versions: Versions,
        predictor: Predictor,
        metrics: Metrics,
        access: AccessLog,
    ) -> None:
        """Take what `POST /predict` works with."""
        self.access = access
        self.doors = doors
        self.versions = versions
        self.predictor = predictor
        self.metrics = metrics
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take other limits and origins."""
        self.max_frame = settings.max_body_bytes
        self.timeout_s = settings.request_timeout_ms / 1000
        self._origins = settings.cors_origins

    def admit(self, scope: Scope, request_id: str) -> Vehicle:
        """Let a vehicle in, before the upgrade.

        Raises Unauthorized and RateExceeded as any route does, HTTPException (403) for a page of
        an origin that is not allowed, ValidationFailed for a deadline that is none.
        """
        headers = Headers(scope=scope)
        scope = {**scope, "path": PATH}
        for offered in headers.get("sec-websocket-protocol", "").split(","):
            name = offered.strip()
            if name.startswith(KEY_PREFIX) and "x-api-key" not in headers:
                key = name.removeprefix(KEY_PREFIX).encode("latin-1")
                scope["headers"] = [*scope["headers"], (b"x-api-key", key)]
        self.doors.enter(scope)
        self._check_origin(headers, scope["scheme"])
        return Vehicle(
            scope["caller"],
            self.doors.keys is not None,
            request_id,
            allowed_s(HTTPConnection(scope), math.inf),
        )

    def _check_origin(self, headers: Headers, scheme: str) -> None:
        """Refuse pages of other origins: unlike requests, browsers let them open any stream."""
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        # Where this is plain HTTP, TLS may end at a proxy before it.
        schemes = ("https",) if scheme == "https" else ("http", "https")
        host = headers.get("host", "").lower()
        if origin.lower() not in [f"{one}://{host}" for one in schemes]:
            raise HTTPException(403, "pages of this origin may not open a stream")


class Stream:
    """One vehicle's steps: at most one under way, and one that waits, which is the latest."""

    def __init__(
        self,
        streams: Streams,
        vehicle: Vehicle,
        connection: Connection,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """Answer over `connection`; what is under way is kept in `tasks`."""
        self._streams = streams
        self._vehicle = vehicle
        self._connection = connection
        self._tasks = tasks
        self._idle = Limits(IDLE_FRAMES_PER_S, IDLE_FRAMES_PER_S)
        self._received = 0
        self._latest: _Taken | None = None
        self._lost = False
        self.busy = False
        """Whether a step is under way."""
        streams.metrics.streams.inc()

    def receive(self, data: bytes, text: bool) -> None:
        """Take one frame, which gets exactly one answer."""
        arrived = time.perf_counter()
        self._received += 1
        number = self._received
        try:
            self._enter()
            step = frames.read(data, text)
        except Exception as error:
            self._refuse(frames.step_of(data, text), text, number, arrived, error)
            if isinstance(error, Unauthorized):
                self._connection.end(POLICY_VIOLATION, error.message)
            return
        taken = _Taken(step, text, number, arrived)
        if self.busy:
            if self._latest is not None:
                self._skip(self._latest)
            self._latest = taken
            return
        self.busy = True
        task = asyncio.get_running_loop().create_task(self._work(taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_idle(self) -> None:
        """Count a frame that gets no action; cut off who sends hardly anything else."""
        if self._idle.take(""):
            self._connection.end(POLICY_VIOLATION, "too many frames that get no action")

    def close(self) -> None:
        """Note that the vehicle has gone: what was not sent to Triton never is."""
        self._lost = True
        self._latest = None
        self._streams.metrics.streams.dec()

    def _enter(self) -> None:
        """Ask at the doors, whose keys may be others by now."""
        doors, vehicle = self._streams.doors, self._vehicle
        if doors.keys is not None and not (vehicle.keyed and vehicle.caller in doors.keys.digests):
            raise Unauthorized("the API key of this stream is not known any more")
        if doors.limits is not None:
            wait_s = doors.limits.take(vehicle.caller)
            if wait_s:
                raise too_fast(wait_s)

    async def _work(self, taken: _Taken) -> None:
        """Answer one step after the other, for as long as there is a latest one."""
        place: tuple[PolicyVersion, float] | None = None
        following: _Taken | None = taken
        while following is not None:
            taken = following
            try:
                policy = await self._streams.versions.resolve(taken.step.version)
                frames.check_sensors(taken.step, policy.sensors)
                if self._overtaken():
                    raise ClientDisconnect
                since = place[1] if place is not None and place[0] is policy else None
                place = (policy, since or time.perf_counter())
                prediction = await self._predict(taken, policy, since)
            except ClientDisconnect:
                if not self._lost:
                    self._skip(taken)
            except Exception as error:
                place = None
                self._refuse(taken.step.stepId, taken.text, taken.number, taken.arrived, error)
            else:
                place = None
                self._answer(taken, prediction)
            following, self._latest = self._latest, None
        self.busy = False
        self._connection.rested()

    async def _predict(
        self, taken: _Taken, policy: PolicyVersion, since: float | None
    ) -> Prediction:
        """Ask as `POST /predict` does. Raises ClientDisconnect where it was overtaken."""
        seed = seed_of(taken.step)
        return await self._streams.predictor.predict(
            policy,
            Rows.of([taken.step.observation], seed),
            seed,
            taken.arrived + min(self._vehicle.deadline_s, self._streams.timeout_s),
            self._overtaken,
            since,
        )

    def _overtaken(self) -> bool:
        return self._lost or self._latest is not None

    def _answer(self, taken: _Taken, prediction: Prediction) -> None:
        seconds = time.perf_counter() - taken.arrived
        self._streams.metrics.answered(PATH, "WS", 200, seconds, None)
        if self._streams.access.all:
            named = (self._id(taken.number), prediction.version)
            self._streams.access.answered(PATH, "WS", 200, seconds, *named)
        self._send(frames.answer(taken.step, prediction, seconds, taken.text), taken.text)

    def _skip(self, taken: _Taken) -> None:
        self._streams.metrics.skipped()
        self._send(frames.skipped(taken.step, taken.text), taken.text)
        self.count_idle()

    def _refuse(
        self, step: int | None, text: bool, number: int, arrived: float, error: Exception
    ) -> None:
        request_id = self._id(number)
        told = tell(error, request_id)
        if "Retry-After" in told.headers:  # where there are no headers
            told.envelope["details"]["retry_after_s"] = int(told.headers["Retry-After"])
        seconds = time.perf_counter() - arrived
        outcome = (PATH, "WS", told.status, seconds)
        self._streams.metrics.answered(*outcome, told.code)
        self._streams.access.answered(*outcome, request_id, error=told.code)
        self._send(frames.failed(step, told.envelope, text), text)
        self.count_idle()

    def _id(self, number: int) -> str:
        return f"{self._vehicle.request_id}-{number}"

    def _send(self, data: bytes, text: bool) -> None:
        if not self._lost:
            self._connection.send(data, text)
