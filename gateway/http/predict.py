"""`POST /predict`: from a head and a body to a prediction, without a task of its own."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.api import codec
from gateway.api.errors import DeadlineExceeded, ModelNotFound, PayloadTooLarge, ValidationFailed
from gateway.api.messages import PredictAnswer, PredictRequest
from gateway.api.observations import Packed
from gateway.api.paths import PREDICT
from gateway.api.problems import JSON, NOT_READ
from gateway.api.request_head import RequestHead, late_body, too_large
from gateway.inference.batcher import LATE, Inference
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.predictor import Prediction
from gateway.inference.service import Service
from gateway.observability.exchange import Exchange
from gateway.security.rate_limit import PIECE_BYTES
from gateway.security.state_tokens import Memory, gone
from gateway.triton.batch import Rows

Outcome = Prediction | Exception


class Predict:
    """One request: its head is checked, its body is collected, then it starts.

    `error` says why it is refused; then its body is not needed any more.
    """

    __slots__ = (
        "_caller", "_done", "_inference", "_max_bytes", "_memory", "_own_actions", "_parts",
        "_service", "_size", "_task", "_tokens", "complete", "deadline", "error", "exchange",
        "form", "head", "keep_alive",
    )  # fmt: skip

    def __init__(
        self,
        service: Service,
        head: RequestHead,
        client: tuple[str, int] | None,
        arrived: float,
        keep_alive: bool,
    ) -> None:
        """Check the head of a request that came from `client` at `arrived` (perf_counter).

        `keep_alive` says whether another request may follow on its connection.
        """
        self._service = service
        self.head = head
        self.keep_alive = keep_alive
        self.exchange = Exchange(service.observers, PREDICT, "POST", arrived, head.request_id)
        if service.observers.traces is not None:
            self.exchange.start_trace(head.trace_context)
        self._parts: list[bytes] = []
        self._size = 0
        self._inference: Inference | None = None
        self._own_actions = False
        self._memory: Memory | None = None
        self._tokens: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self.complete = False
        self.form = JSON
        self.error: Exception | None = None
        timeout_s = service.live.now.request_timeout_ms / 1000
        self.deadline = arrived + timeout_s
        try:
            self._caller = service.access_control.enter(PREDICT, head.found, client)
            self.deadline = arrived + min(head.deadline_s(), timeout_s)
            self._max_bytes = max_bytes = service.max_body_bytes
            self.form = head.body_format(max_bytes)
        except Exception as error:
            self.error = error.with_traceback(None)  # which refers to this
            if isinstance(error, PayloadTooLarge):
                service.versions.survey = True  # a version that was loaded later may take more

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.error is None:
            self._size += len(data)
            if self._size > self._max_bytes:
                self._parts.clear()
                self._service.versions.survey = True
                self.error = too_large(self._max_bytes)
            else:
                self._parts.append(data)

    def late(self) -> DeadlineExceeded:
        """Refuse the request: its body did not arrive within the deadline."""
        self._parts.clear()
        self.error = error = late_body()
        return error

    def start(self, done: Callable[["Predict", Outcome], None]) -> None:
        """Decode the body and ask the policy; `done` is called once, perhaps at once."""
        self._done = done
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._size > PIECE_BYTES:
            self._service.access_control.charge_body(self._caller, self._size)
            if self._size > codec.LARGE_BYTES:
                self._task = asyncio.ensure_future(self._ask_later(self._read_large, body))
                return
        versions = self._service.versions
        failed = None
        try:
            active = versions.active
            if active is not None:
                try:
                    request = active.codec.read_request[self.form](body)
                except NOT_READ as error:
                    failed = error.with_traceback(None)
                else:
                    policy = versions.known(self._version_of(request.version, request.states))
                    if policy is not None and policy.codec is active.codec:
                        self._ask(policy, request)
                        return
            asked = codec.asked_of(body, self.form)
            codec.check_version(asked.version)
            version = self._version_of(asked.version, asked.states)
            policy = versions.known(version)
            if policy is not None:
                failed = failed if active is not None and policy.codec is active.codec else None
                self._ask(policy, policy.codec.read_request_apart(body, self.form, failed))
                return
            if version is None:  # none is active yet
                codec.read_envelope(body, self.form)
        except Exception as error:
            done(self, error)
            return
        self._task = asyncio.ensure_future(self._ask_later(self._resolve, version, body))

    def _version_of(self, version: str | None, states: list[str | None] | None) -> str | None:
        """Return the version that a request names, itself or by its states. Raises StateMismatch.

        Keeps the memory that is in these.
        """
        if states is None:
            return version
        if self._memory is None:
            self._memory = self._service.tokens.read(states, version, "states")
        return self._memory.version or version

    def abandon(self) -> None:
        """Stop: the caller has gone. What was not sent to Triton yet is never sent."""
        if self._inference is not None:
            self._inference.abandon()
            self._inference = None
        if self._task is not None:
            self._task.cancel()
        self.exchange.abandon()

    def answer(self, prediction: Prediction) -> tuple[float, bytes]:
        """Count the answer; return the seconds that it took and its body."""
        seconds = self.exchange.answer(200)
        answer = PredictAnswer(
            prediction.policy.actions.answered(prediction.rows),
            prediction.policy.version,
            round(seconds * 1000, 3),
            prediction.seed is None,
        )
        if prediction.seed is not None:
            answer.seed = prediction.seed
        if self._own_actions:
            answer.policy_actions = prediction.policy.actions.own(prediction.rows)
        if prediction.states:
            answer.states = self._tokens
        return seconds, codec.encode[self.form](answer)

    async def _resolve(
        self, version: str | None, body: bytes
    ) -> tuple[PolicyVersion, PredictRequest]:
        """Ask Triton for the policy, then decode."""
        policy = await self._resolved(version)
        return policy, policy.codec.read_request_apart(body, self.form)

    async def _read_large(self, body: bytes) -> tuple[PolicyVersion, PredictRequest, Packed]:
        """Decode and pack so that no other request waits for long."""
        versions = self._service.versions
        try:
            envelope = codec.read_envelope(body, self.form)
        except ValidationFailed:
            asked = codec.asked_of(body, self.form)
            codec.check_version(asked.version)
            await versions.resolve(asked.version)  # which comes first
            raise
        await asyncio.sleep(0)
        version = await asyncio.to_thread(self._version_of, envelope.version, envelope.states)
        policy = await self._resolved(version)
        return policy, *await policy.codec.read_large(envelope, self.form)

    async def _resolved(self, version: str | None) -> PolicyVersion:
        try:
            return await self._service.versions.resolve(version)
        except ModelNotFound:
            if self._memory is None or self._memory.version is None:
                raise
            raise gone(self._memory.version) from None

    async def _ask_later(
        self,
        read: Callable[..., Coroutine[Any, Any, tuple[Any, ...]]],
        *arguments: Any,
    ) -> None:
        """Go on when the request is decoded."""
        try:
            async with asyncio.timeout(self.deadline - time.perf_counter()):
                decoded = await read(*arguments)
            self._ask(*decoded)
        except TimeoutError:
            self._done(self, DeadlineExceeded(LATE))
        except Exception as error:
            self._done(self, error)

    def _ask(
        self, policy: PolicyVersion, request: PredictRequest, packed: Packed | None = None
    ) -> None:
        self.exchange.version = policy.version
        observations = request.observations
        self._service.access_control.charge(self._caller, len(observations))
        if request.policy_actions:
            policy.check_own_actions()
            self._own_actions = True
        states: Sequence[bytes | None] = ()
        if self._memory is not None:
            if len(self._memory.states) != len(observations):
                said = f"Expected `array` of length {len(observations)}, as observations"
                raise ValidationFailed(
                    [{"field": "states", "message": said, "type": "wrong_length"}]
                )
            states = policy.states_of(self._memory)
        seed = policy.seed_of(request.deterministic, request.seed)
        packed = packed or policy.codec.pack(observations)
        inference = self._service.predictor.predict(
            policy,
            Rows.of(policy.tensors, len(observations), packed, seed, states),
            seed,
            self.deadline,
            self._settled,
            trace=self.exchange.trace,
        )
        if inference is not None and not inference.settled:
            self._inference = inference

    def _settled(self, outcome: Outcome) -> None:
        self._inference = None  # it refers to this
        if isinstance(outcome, Prediction) and (states := outcome.states):
            if len(states) * len(states[0]) > codec.LARGE_BYTES:
                self._task = asyncio.ensure_future(self._sign_later(outcome))
                return
            self._sign(outcome)
        self._done(self, outcome)

    def _sign(self, prediction: Prediction) -> None:
        tokens, policy = self._service.tokens, prediction.policy
        digest = policy.artifact_digest
        self._tokens = [tokens.sign(policy.version, digest, state) for state in prediction.states]

    async def _sign_later(self, prediction: Prediction) -> None:
        await asyncio.to_thread(self._sign, prediction)  # large ones take 40 ms
        self._done(self, prediction)
