"""From observations to actions: the version, the seed, the cache, the call and its check."""

import math
import secrets
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from gateway.cache import Cache
from gateway.errors import InferenceFailed, ModelNotFound, ServiceUnavailable
from gateway.joining import Gone, Joiner
from gateway.metrics import Metrics
from gateway.policy import PolicyVersion
from gateway.rows import ACTION_BYTES, Rows
from gateway.versions import Versions

Action = tuple[float, float, float]

_ACTION = Struct("<3f")


class Asked(Protocol):
    """A decoded request, whichever decoder made it."""

    @property
    def deterministic(self) -> bool:
        """The mean action, or a sampled one."""

    @property
    def seed(self) -> int | None:
        """What sampled actions depend on."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Actions (throttle, brake, steer), who computed them, and their seed if sampled."""

    actions: list[Action]
    version: str
    seed: int | None


class Predictor:
    """Answers requests through Triton, joined with each other."""

    def __init__(
        self, joiner: Joiner, versions: Versions, metrics: Metrics, cache_bytes: int
    ) -> None:
        """Take the way to Triton, what it serves, where actions are counted, memory for them."""
        self._joiner = joiner
        self._versions = versions
        self._metrics = metrics
        self._cache: Cache | None = None
        self.remember(cache_bytes)

    def remember(self, cache_bytes: int) -> None:
        """Use so many bytes for actions that were given before; 0: none."""
        if not cache_bytes:
            self._cache = None
        elif self._cache is None:
            self._cache = Cache(cache_bytes, self._metrics)
        else:
            self._cache.resize(cache_bytes)

    async def predict(
        self,
        policy: PolicyVersion,
        rows: Rows,
        seed: int | None,
        deadline: float,
        gone: Gone,
        since: float | None = None,
    ) -> Prediction:
        """Answer `rows`, deterministic where `seed` is None, before `deadline` (perf_counter).

        `gone` and `since` are as `Joiner.infer` takes them. Raises what it raises, and
        InferenceFailed for an action that is not finite.
        """
        try:
            if self._cache is None or seed is not None:
                data = await self._infer(policy, rows, deadline, gone, since)
            else:
                data = await self._by_cache(self._cache, policy, rows, deadline, gone, since)
        except (ModelNotFound, ServiceUnavailable):
            self._versions.forget(policy)
            raise
        actions: list[Action] = list(_ACTION.iter_unpack(data))
        for action in actions:
            if not math.isfinite(action[0] + action[1] + action[2]):
                raise InferenceFailed(f"{policy.model} gave an action that is not finite")
        self._metrics.acted(rows.count, data)
        return Prediction(actions, policy.version, seed)

    def congested(
        self, policy: PolicyVersion, rows: int, now: float, budget_s: float, ahead: int
    ) -> bool:
        """Whether a request with so many seconds, behind `ahead` rows, would be refused."""
        if self._cache is not None:  # which may have all that it asks for
            return False
        return self._joiner.congested(policy.model, rows, now, budget_s, ahead)

    async def _infer(
        self, policy: PolicyVersion, rows: Rows, deadline: float, gone: Gone, since: float | None
    ) -> bytes:
        return await self._joiner.infer(
            policy.model, policy.max_batch_size, rows, deadline, gone, since
        )

    async def _by_cache(
        self,
        cache: Cache,
        policy: PolicyVersion,
        rows: Rows,
        deadline: float,
        gone: Gone,
        since: float | None,
    ) -> bytes:
        """Take from the cache what it has, and call for the rest."""
        keys = cache.keys(policy.artifact_digest, rows)
        found = cache.look_up(keys)
        missing = [index for index, action in enumerate(found) if action is None]
        if missing:
            asked = rows if len(missing) == rows.count else rows.pick(missing)
            data = await self._infer(policy, asked, deadline, gone, since)
            for place, index in enumerate(missing):
                action = data[place * ACTION_BYTES : (place + 1) * ACTION_BYTES]
                found[index] = action
                if all(map(math.isfinite, _ACTION.unpack(action))):
                    cache.store(keys[index], action)
        return b"".join(filter(None, found))


def seed_of(asked: Asked) -> int | None:
    """Give the seed to sample with, drawn where none is given; None where deterministic."""
    if asked.deterministic:
        return None
    return secrets.randbits(63) if asked.seed is None else asked.seed
