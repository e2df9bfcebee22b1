"""What a car in motion does while no answer comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from carlarl_client._asking import Memory
from carlarl_client._core import Deadline
from carlarl_client.client import AsyncPolicyClient, AsyncSession, PolicyClient, Session
from carlarl_client.errors import PolicyError, StateMismatch, Unsupported
from carlarl_client.types import Action, AnyObservation, Prediction


@dataclass(frozen=True)
class Fallback:
    """The rule: hold the last action for some steps, then coast or brake.

    The wheel and the gear stay where they are.

    Attributes:
        hold_steps: steps for which the last action is repeated, 0 or more. Before the first answer
            there is none to hold.
        brake: pedal after that, 0 (coast) to 1.
        forget_steps: steps without an answer in a row, 0 or more, after which what the policy
            remembers is too old: the next answer starts an episode. None: it is never too old.
    """

    hold_steps: int = 4
    brake: float = 0.5
    forget_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        steps = min(self.hold_steps, self.forget_steps or 0)
        if steps < 0 or not 0.0 <= self.brake <= 1.0:
            raise ValueError(f"{self}: hold_steps and forget_steps are 0 or more, brake 0 to 1")

    def action(self, last: Action | None, missed: int) -> Action:
        """Return the action of the `missed`th step in a row without an answer, counted from 1."""
        if last is None:
            return Action(0.0, self.brake, 0.0)
        if missed <= self.hold_steps:
            return last
        return Action(0.0, self.brake, last.steer, last.reverse)


@dataclass(frozen=True)
class Step:
    """One step of a drive.

    Attributes:
        action: to apply.
        error: why it is the fallback's; None where the policy answered.
        latency_ms: that the answer, or the wait for it, took; 0 where the one before still holds.
        version: of the policy that answered; None where it did not.
        memory_steps: steps since what the policy remembered when this step began; 1 where the step
            before was answered. None where it remembered nothing.
        memory_s: seconds since then, likewise.
    """

    action: Action
    error: PolicyError | None
    latency_ms: float
    version: str | None
    memory_steps: int | None = None
    memory_s: float | None = None


Client = TypeVar("Client", PolicyClient, AsyncPolicyClient)


class _Driving(Generic[Client]):
    """What both drivers know of their drive."""

    session: Memory[Client]

    def __init__(
        self,
        client: Client,
        *,
        deadline: float = 0.05,
        fallback: Fallback | None = None,
        deterministic: bool = True,
        version: str | None = None,
        repeat: int = 1,
    ) -> None:
        """Take who answers and the rule for when it does not.

        Args:
            client: to ask.
            deadline: seconds that a step may wait for its answer, more than 0.
            fallback: the rule; `Fallback()` where absent.
            deterministic: ask for the policy's mean action; else for a sampled one.
            version: of the policy; the active one where absent.
            repeat: steps for which an answer holds: `repeat` of the service's `/metadata`.
        """
        Deadline(deadline)
        if repeat < 1:
            raise ValueError(f"repeat is {repeat}: give 1 or more")
        self.client: Client = client
        self.session = client.session()
        self._asking: dict[str, Any] = {
            "timeout": deadline,
            "deterministic": deterministic,
            "version": version,
        }
        self._fallback = fallback or Fallback()
        self._repeat = repeat
        self._last: Action | None = None
        self._held: Step | None = None
        self._left = 0
        self._answered_at = 0, time.time()
        self._age: tuple[int, float] | tuple[()] = ()
        self.steps = 0
        self.fallback_steps = 0
        self.outages = 0
        self.recovery_steps: list[int] = []
        self.missed = 0

    def reset(self) -> None:
        """Let the next step start an episode, as that of a new driver, with no action to hold."""
        self.session.reset()
        self._last = self._held = None

    def _hold(self) -> Step | None:
        """Begin a step; give it where the answer before still holds."""
        self.steps += 1
        self._age = ()
        if self.session.state is not None:
            steps, seconds = self._answered_at
            self._age = self.steps - steps, max(time.time() - seconds, 0.0)
        if self._held is None or self._left == 0:
            return None
        self._left -= 1
        return Step(self._held.action, None, 0.0, self._held.version, *self._age)

    def _answered(self, answer: Prediction) -> Step:
        action = answer.action
        if not isinstance(action, Action):
            raise Unsupported(
                f"{answer.version} drives no car: it answers in an action space of its own, "
                "without throttle, brake and steer",
                request_id=answer.request_id,
                status=200,
            )
        if self.missed:
            self.recovery_steps.append(self.missed)
            self.missed = 0
        self._last = action
        self._answered_at = self.steps, time.time()
        self._left = self._repeat - 1
        self._held = Step(action, None, answer.latency_ms, answer.version, *self._age)
        return self._held

    def _failed(self, error: PolicyError, started: float) -> Step:
        """Return the fallback's step; before the first answer raise what the caller did wrong."""
        if self._last is None and not error.outage:
            raise error
        self._held = None
        latency_ms = (time.perf_counter() - started) * 1000
        self.outages += self.missed == 0
        self.missed += 1
        self.fallback_steps += 1
        forget = self._fallback.forget_steps
        if isinstance(error, StateMismatch) or (forget is not None and self.missed > forget):
            self.session.reset()
        action = self._fallback.action(self._last, self.missed)
        return Step(action, error, latency_ms, None, *self._age)


class SafeDriver(_Driving[PolicyClient]):
    """Asks for an action at every step, and has one at every step.

    The policy must answer throttle, brake and steer. An outage (no connection, no valid answer
    within the step's deadline, 408, 429 or 5xx) gives the fallback's action; the service is asked
    again at the next step, so the policy drives again with the first step that it answers. What the
    caller did wrong (another 4xx, a closed client, a policy that drives no car) is raised before
    the first answer; after it the car is in motion, and nothing is raised.

    What a policy remembers stays as of the last answer while none comes, and the policy goes on
    with it when it drives again, unless the fallback says that it is too old by then. Where the
    service refuses it, as its version is gone, the next step starts an episode.

    Attributes:
        client: that is asked. A driver that was unpickled has one of its own, which wants a close.
        session: of the client; its `state` is what the policy remembers.
        steps: asked for so far.
        fallback_steps: of these without an answer.
        outages: how often answers stopped coming.
        recovery_steps: how many steps each ended outage lasted.
        missed: steps without an answer in a row, up to now.
    """

    session: Session

    def step(self, observation: AnyObservation) -> Step:
        """Return the action for what is seen now."""
        if (held := self._hold()) is not None:
            return held
        started = time.perf_counter()
        try:
            return self._answered(self.session.predict(observation, **self._asking))
        except PolicyError as error:
            return self._failed(error, started)


class AsyncSafeDriver(_Driving[AsyncPolicyClient]):
    """The twin of `SafeDriver` for asyncio: the same rule and the same counts."""

    session: AsyncSession

    async def step(self, observation: AnyObservation) -> Step:
        """Return the action for what is seen now."""
        if (held := self._hold()) is not None:
            return held
        started = time.perf_counter()
        try:
            return self._answered(await self.session.predict(observation, **self._asking))
        except PolicyError as error:
            return self._failed(error, started)
