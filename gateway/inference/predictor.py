"""From observations to actions: the version, the seed, the cache, the call and its check."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.api.actions import Actions, Row
from gateway.api.errors import ImagesRefused, InferenceFailed, ModelNotFound, ServiceUnavailable
from gateway.api.observations import place
from gateway.config.live import LiveSettings
from gateway.inference.batcher import Batcher, Inference, Outcome
from gateway.inference.cache import Cache
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.registry import Registry
from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows

if TYPE_CHECKING:
    from gateway.observability.tracing import Trace


@dataclass(slots=True)
class Prediction:
    """What Triton gave for each row, which policy computed it, and its seed if sampled.

    `states` is the next state of each row of a policy with a memory.
    """

    rows: list[Row]
    policy: PolicyVersion
    seed: int | None
    states: list[bytes]


class Predictor:
    """Answers requests through Triton, several of them in one call."""

    def __init__(
        self, batcher: Batcher, versions: Registry, metrics: Metrics, live: LiveSettings
    ) -> None:
        self._batcher = batcher
        self._versions = versions
        self._metrics = metrics
        self._live = live
        self._cache = Cache(metrics)

    def predict(
        self,
        policy: PolicyVersion,
        rows: Rows,
        seed: int | None,
        deadline: float,
        done: Callable[[Prediction | Exception], None],
        *,
        step: bool = False,
        gone: Callable[[], bool] | None = None,
        since: float | None = None,
        trace: "Trace | None" = None,
    ) -> Inference | None:
        """Answer `rows`, deterministic where `seed` is None, before `deadline` (perf_counter).

        `step` says that they are the one row of a step.

        Calls `done` once, perhaps before this returns, with the prediction, with what
        `Batcher.submit` settles with, with ValidationFailed for images that can't be decoded, or
        with InferenceFailed for an action that is not finite, or with what `no_images` gives.
        Returns what is on its way to Triton, for whoever stops waiting; None where the cache has
        every action. `gone`, `since` and `trace` are as `Inference` takes them.
        """
        if rows.encoded and (refused := policy.no_images()) is not None:
            done(refused)
            return None
        cache_bytes = self._live.now.cache_bytes
        if self._cache.bytes > cache_bytes:  # which was more until now
            self._cache.shrink(cache_bytes)
        plain = seed is None and not policy.tensors.state
        cache = self._cache if cache_bytes and plain else None
        found: list[bytes | None] = []
        missing: list[int] = []
        keys: list[bytes] = []
        if cache is not None:
            keys = cache.keys(policy.artifact_digest, rows)
            found = cache.look_up(keys)
            missing = [index for index, action in enumerate(found) if action is None]
            if not missing:
                self._finish(policy, seed, b"".join(filter(None, found)), done)
                return None

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, ImagesRefused):
                asked_for = missing or range(rows.count)
                outcome = outcome.told([place(index, step) for index in asked_for])
            if isinstance(outcome, bytes) and cache is not None:
                outcome = _filled(policy.actions, cache, cache_bytes, keys, found, missing, outcome)
            self._finish(policy, seed, outcome, done)

        asked = rows if len(missing) in (0, rows.count) else rows.pick(missing)
        inference = Inference(asked, deadline, settled, gone=gone, since=since, trace=trace)
        self._batcher.submit(policy.model, policy.max_batch_size, inference)
        return inference

    def _finish(
        self,
        policy: PolicyVersion,
        seed: int | None,
        outcome: Outcome,
        done: Callable[[Prediction | Exception], None],
    ) -> None:
        """Check the actions, count them and hand them over."""
        if isinstance(outcome, Exception):
            if isinstance(outcome, (ModelNotFound, ServiceUnavailable, InferenceFailed)):
                self._versions.forget(policy)
            done(outcome)
            return
        outcome, states = policy.tensors.parted(outcome)
        given = policy.actions.rows(outcome)
        if not policy.actions.finite(given):
            done(InferenceFailed(f"{policy.model} gave an action that is not finite"))
            return
        self._metrics.acted(len(given), outcome, policy.actions)
        done(Prediction(given, policy, seed, states))


def _filled(
    actions: Actions,
    cache: Cache,
    max_bytes: int,
    keys: list[bytes],
    found: list[bytes | None],
    missing: list[int],
    data: bytes,
) -> bytes:
    """Add the new actions to those that were found in the cache, and cache them."""
    size = len(data) // len(missing)
    for number, index in enumerate(missing):
        found[index] = action = data[number * size : (number + 1) * size]
        if actions.finite(actions.rows(action)):
            cache.store(keys[index], action, max_bytes)
    return b"".join(filter(None, found))
