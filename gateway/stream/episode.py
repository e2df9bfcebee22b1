"""The episode of a stream: which policy answers its steps, and what that policy remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.api.errors import ValidationFailed
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.service import Service
from gateway.security.state_tokens import Memory, elsewhere, gone


class Asked(Protocol):
    """What a frame says of its episode."""

    version: str | None
    state: str | None
    episode_start: bool


@dataclass(eq=False, slots=True)
class Start:
    """Where an episode starts; it goes on with `memory`, if that has any.

    `version` is what its first frame asks for. `memory` is None once a step of it was answered.
    """

    version: str | None
    memory: Memory | None


class Episode:
    """Keeps the memory after the last step that was answered, and the policy that answered it.

    An episode of a policy with a memory stays with its version; so does any episode of a stream
    that has started a second one. A step that was skipped or refused leaves the memory as it is; if
    it was to start an episode, the next one does.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.start = Start(None, Memory(None, None, [None]))
        """Where the episode of the last frame starts."""
        self._policy: PolicyVersion | None = None
        self._state: bytes | None = None
        self._begun = self._named = False
        self._behind = self._closed = False

    @property
    def policy(self) -> PolicyVersion | None:
        """The policy of the last answered step."""
        return self._policy

    def take(self, asked: Asked) -> Start:
        """Note what a frame says; return the start of its episode, which the others want back.

        Raises StateMismatch for a state that can't be gone on with, and ValidationFailed for one in
        a frame that starts an episode.
        """
        if asked.state is not None:
            if asked.episode_start:
                said = "Send it without episodeStart, or start an episode without it"
                raise ValidationFailed([{"field": "state", "message": said, "type": "excluded"}])
            memory = self._service.tokens.read([asked.state], asked.version, "state")
            self.start = Start(asked.version, memory)
        elif asked.episode_start:
            self._named = self._named or self._begun
            self.start = Start(asked.version, Memory(None, None, [None]))
        self._begun = True
        return self.start

    def version(self, start: Start, version: str | None) -> str | None:
        """Return the version that answers a step that names `version`, None for the active one.

        Raises StateMismatch where another one holds the memory.
        """
        policy = self._policy
        if start.memory is not None:
            own, other = start.memory.version, start.version
        elif policy is None or not self._stays(policy):
            return version
        else:
            own, other = (policy.version if policy.signature.stateful else None), policy.version
        if own is not None and version not in (None, own):
            raise elsewhere(own, version)
        return own or version or other

    def missing(self, start: Start, error: Exception) -> Exception:
        """Return what to say where the version of the memory is served no more."""
        version, policy = None, self._policy
        if start.memory is not None:
            version = start.memory.version
        elif policy is not None and policy.signature.stateful:
            version = policy.version
        return error if version is None else gone(version)

    def states(self, start: Start, policy: PolicyVersion) -> Sequence[bytes | None]:
        """Return the memory that `policy` goes on with. Raises StateMismatch."""
        last = self._policy
        if start.memory is not None:
            return policy.states_of(start.memory)
        if last is None or self._state is None:  # the last one had no memory
            return [None]
        return policy.states_of(Memory(last.version, last.artifact_digest, [self._state]))

    def answered(self, start: Start, policy: PolicyVersion, states: Sequence[bytes]) -> None:
        """Keep the memory after a step."""
        start.memory = None
        self._policy = policy
        self._state = states[0] if states else None
        active = self._service.versions.active
        self._count(self._stays(policy) and active is not None and active.version != policy.version)

    def close(self) -> None:
        """Count it no more."""
        self._count(False)
        self._closed = True  # a step may still be answered

    def _stays(self, policy: PolicyVersion) -> bool:
        return policy.signature.stateful or self._named

    def _count(self, behind: bool) -> None:
        if self._closed:
            return
        self._service.observers.metrics.streams_behind.add(behind - self._behind)
        self._behind = behind
