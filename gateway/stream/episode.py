"""The episodes of a stream: which policy answers their steps, and what it remembers."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.api.codec import Asked
from gateway.api.errors import ValidationFailed
from gateway.api.messages import StepRequest
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.service import Service
from gateway.security.state_tokens import Memory, elsewhere, gone


@dataclass(eq=False, slots=True)
class Episode:
    """One episode. That of a policy with a memory stays with its version.

    Attributes:
        asked: the version that the frame names which starts it; None for a stream's first episode.
        stays: whether it stays with its version without a memory, too.
        memory: after the last step that was answered; without a version there was none.
    """

    asked: str | None
    stays: bool
    memory: Memory

    def version(self, version: str | None) -> str | None:
        """Return the version that answers a step that names `version`, None for the active one.

        Raises StateMismatch where another one holds the memory.
        """
        own = self.memory.version
        if own is None:
            return version or self.asked
        if self.memory.states and version not in (None, own):
            raise elsewhere(own, version)
        return version or (own if self.memory.states or self.stays else None)

    def missing(self, error: Exception) -> Exception:
        """Return what to say where the version that answers is not served."""
        own = self.memory.version
        return gone(own) if own and self.memory.states else error

    def states(self, policy: PolicyVersion) -> Sequence[bytes | None]:
        """Return the memory that `policy` goes on with. Raises StateMismatch."""
        return policy.states_of(self.memory) if self.memory.states else ()


class Episodes:
    """The episodes of one stream. A step belongs to that in which it was sent.

    A step that was skipped or refused leaves the memory as it is; if it was to start an episode,
    the next one does.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._current = Episode(None, False, Memory(None, None, [None]))
        self.policy: PolicyVersion | None = None
        """Of the last step that was answered."""
        self._begun = self._behind = self._closed = False

    def take(self, asked: Asked | StepRequest) -> Episode:
        """Return the episode of a frame.

        Raises StateMismatch for a state that no policy here can go on with, ValidationFailed for
        one beside the start of an episode.
        """
        stays, begun, self._begun = self._current.stays, self._begun, True
        if asked.state is not None:
            if asked.episode_start:
                said = "Send it without episodeStart, or start an episode without it"
                raise ValidationFailed([{"field": "state", "message": said, "type": "excluded"}])
            memory = self._service.tokens.read([asked.state], asked.version, "state")
            self._current = Episode(asked.version, stays, memory)
        elif asked.episode_start:
            self._current = Episode(asked.version, stays or begun, Memory(None, None, [None]))
        return self._current

    def answered(self, episode: Episode, policy: PolicyVersion, states: list[bytes]) -> None:
        """Keep the memory after a step."""
        self.policy = policy
        episode.memory = Memory(policy.version, policy.artifact_digest, [*states])
        active = self._service.versions.active
        other = active is not None and active.version != policy.version
        self._count(other and (policy.signature.stateful or episode.stays))

    def close(self) -> None:
        """Count the stream no more."""
        self._count(False)
        self._closed = True

    def _count(self, behind: bool) -> None:
        if behind != self._behind and not self._closed:
            self._service.observers.metrics.streams_behind.add(behind - self._behind)
            self._behind = behind
