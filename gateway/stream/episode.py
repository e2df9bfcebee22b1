"""The episode of a stream: which policy answers its steps, and what that policy remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.api.errors import StateMismatch
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.service import Service
from gateway.security.state_tokens import Memory, gone


class Asked(Protocol):
    """What a frame says of its episode."""

    version: str | None
    state: str | None
    episode_start: bool


@dataclass(eq=False, frozen=True, slots=True)
class Start:
    """An episode that no answered step belongs to yet; it goes on with `memory`, if that has any.

    `version` is what its first frame asks for.
    """

    version: str | None
    memory: Memory


class Episode:
    """Keeps the memory after the last step that was answered, and the policy that answered it.

    An episode of a policy with a memory stays with its version; so does any episode of a stream
    that has started a second one. A step that was skipped or refused leaves the memory as it is; if
    it was to start an episode, the next one does.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._start: Start | None = Start(None, Memory(None, None, [None]))
        self._policy: PolicyVersion | None = None
        self._state: bytes | None = None
        self._begun = self._named = False
        self._behind = False

    @property
    def policy(self) -> PolicyVersion | None:
        """The policy of the last answered step."""
        return self._policy

    def take(self, asked: Asked) -> None:
        """Note what a frame says. Raises StateMismatch for a state that can't be gone on with."""
        if asked.state is not None:
            memory = self._service.tokens.read([asked.state], asked.version, "state")
            self._start = Start(asked.version, memory)
        elif asked.episode_start:
            self._named = self._named or self._begun
            self._start = Start(asked.version, Memory(None, None, [None]))
        self._begun = True

    def version(self, version: str | None) -> str | None:
        """Return the version that answers a step that names `version`, None for the active one.

        Raises StateMismatch where another one holds the memory.
        """
        start, policy = self._start, self._policy
        if start is not None:
            return start.memory.version or version or start.version
        if policy is None or not self._stays(policy):
            return version
        if version not in (None, policy.version) and policy.signature.stateful:
            raise StateMismatch(
                f"the memory is of {policy.version}, and {version} is asked for: start an episode"
            )
        return policy.version

    def missing(self, error: Exception) -> Exception:
        """Return what to say where the version of the memory is served no more."""
        start, policy = self._start, self._policy
        if start is None and policy is not None and policy.signature.stateful:
            return gone(Memory(policy.version, None, []))
        return error if start is None or start.memory.version is None else gone(start.memory)

    def states(self, policy: PolicyVersion) -> tuple[Start | None, Sequence[bytes | None]]:
        """Return the memory that `policy` goes on with, and what `answered` wants back.

        Raises StateMismatch.
        """
        start, last = self._start, self._policy
        if start is not None:
            return start, policy.states_of(start.memory)
        if last is None or not policy.signature.stateful:
            return None, ()
        return None, policy.states_of(Memory(last.version, last.artifact_digest, [self._state]))

    def answered(self, start: Start | None, policy: PolicyVersion, states: Sequence[bytes]) -> None:
        """Keep the memory after a step."""
        if start is self._start:  # else another one began meanwhile
            self._start = None
        self._policy = policy
        self._state = states[0] if states else None
        active = self._service.versions.active
        self._count(self._stays(policy) and active is not None and active.version != policy.version)

    def close(self) -> None:
        """Count it no more."""
        self._count(False)

    def _stays(self, policy: PolicyVersion) -> bool:
        return policy.signature.stateful or self._named

    def _count(self, behind: bool) -> None:
        self._service.observers.metrics.streams_behind.add(behind - self._behind)
        self._behind = behind
