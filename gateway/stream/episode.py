"""The episode of a stream: which policy answers its steps, and what that policy remembers."""

from collections.abc import Sequence

from gateway.api.codec import Asked
from gateway.api.errors import StateMismatch, ValidationFailed
from gateway.api.messages import StepRequest
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.service import Service
from gateway.security.state_tokens import Memory, gone


class Episode:
    """Keeps the memory after the last step that was answered, and the policy that answered it.

    An episode of a policy with a memory stays with its version; so does any episode of a stream
    that has started a second one. A step that was skipped or refused leaves the memory as it is; if
    it was to start an episode, the next one does.

    Attributes:
        policy: of the last step that was answered, or None.
        memory: what the next step goes on with. Without a version an episode starts; without states
            its policy has no memory.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.policy: PolicyVersion | None = None
        self.memory = Memory(None, None, [None])
        self._version: str | None = None
        """What the first frame of the episode names."""
        self._begun = self._named = self._behind = False

    def take(self, asked: Asked | StepRequest) -> None:
        """Note what a frame says.

        Raises StateMismatch for a state that no policy here can go on with, ValidationFailed for
        one beside the start of an episode.
        """
        if asked.state is not None:
            if asked.episode_start:
                problem = {"field": "state", "message": "Expected none where an episode starts"}
                raise ValidationFailed([problem | {"type": "value_error"}])
            self.memory = self._service.tokens.read([asked.state], asked.version, "state")
        elif asked.episode_start:
            self._named = self._named or self._begun
            self.memory = Memory(None, None, [None])
        if asked.state is not None or asked.episode_start or not self._begun:
            self._version = asked.version
        self._begun = True

    def version(self, version: str | None) -> str | None:
        """Return the version that answers a step that names `version`, None for the active one.

        Raises StateMismatch where another one holds the memory.
        """
        held = self.memory
        if held.version is None:
            return version or self._version
        if version in (None, held.version):
            return held.version if held.states or self._named else version
        if held.states:
            raise StateMismatch(
                f"the memory is of {held.version}, and {version} is asked for: start an episode"
            )
        return version

    def missing(self, error: Exception) -> Exception:
        """Return what to say where the version that answers is not served."""
        held = self.memory
        return gone(held) if held.version and held.states else error

    def states(self, policy: PolicyVersion) -> Sequence[bytes | None]:
        """Return the memory that `policy` goes on with. Raises StateMismatch."""
        return policy.states_of(self.memory) if self.memory.states else ()

    def answered(self, memory: Memory, policy: PolicyVersion, states: list[bytes]) -> None:
        """Keep the memory after a step that went on with `memory`."""
        self.policy = policy
        if memory is not self.memory:  # another episode began meanwhile
            return
        self.memory = Memory(policy.version, policy.artifact_digest, [*states])
        active = self._service.versions.active
        other = active is not None and active.version != policy.version
        self._count(other and self._version is None and bool(states or self._named))

    def close(self) -> None:
        """Count it no more."""
        self._count(False)

    def _count(self, behind: bool) -> None:
        if behind != self._behind:
            self._service.observers.metrics.streams_behind.add(behind - self._behind)
            self._behind = behind
