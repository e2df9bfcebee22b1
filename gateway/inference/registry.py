"""The policy versions that Triton serves, and which of them is active."""

import asyncio
import logging
import math
import re
import time
from contextlib import suppress
from typing import Any

from gateway.api.errors import (
    DeadlineExceeded,
    Distrusted,
    GatewayError,
    InferenceFailed,
    ModelNotFound,
    ResourceExhausted,
    ServiceUnavailable,
    TritonAway,
)
from gateway.inference.policy_version import PolicyVersion
from gateway.observability.metrics import Metrics
from gateway.triton.client import FUSED, Triton

ALIAS = "carla_policy"
POLL_S = 1.0
START_POLL_S = 0.05
"""How long between looks while nothing is ready."""
DISTRUST_S = 15.0
"""How long the fused model gets no requests after it failed."""
CONTROL_TIMEOUT_S = 1.0
LEAST_BODY_BYTES, MOST_BODY_BYTES = 1 << 20, 1 << 30

log = logging.getLogger(__name__)


class Registry:
    """Resolves versions to policies, and follows the active one as it is promoted.

    `active` is the version that answers a request without a version: `pinned` if that is given,
    else the version of the alias ensemble. `ready` is true after its golden inference, as long as
    it gives the same golden action at every look.
    """

    def __init__(self, triton: Triton, pinned: str | None, metrics: Metrics) -> None:
        """Follow the alias, or stay with the version `pinned`."""
        self._triton = triton
        self._source = _ensemble(pinned) if pinned else ALIAS
        self._metrics = metrics
        self._known: dict[str, PolicyVersion] = {}
        self._distrusted: dict[str, float] = {}
        self._unchecked: set[str] = set()
        self._look = asyncio.Event()
        triton.on_distrust = self._distrust
        self.body_bytes = LEAST_BODY_BYTES
        """Bytes of a full batch of the largest observations of the versions seen so far."""
        self.frame_bytes = LEAST_BODY_BYTES
        """Bytes of a step with the largest of these observations."""
        self.survey = True
        """Whether to read once of all served versions what their largest observations take."""
        self.trouble: str | None = None
        """What is wrong, in words for a caller; None if nothing is."""
        self.active: PolicyVersion | None = None
        self.ready = False

    async def resolve(self, version: str | None) -> PolicyVersion:
        """Return the policy of `version`, or the active one for None.

        Raises ModelNotFound if Triton serves no such version, ServiceUnavailable if none is
        active yet.
        """
        if version is None:
            if self.active is None:
                raise ServiceUnavailable("no policy version is ready yet")
            return self.active
        known = self._known.get(version)
        if known is None:
            known = self._known[version] = await self._load(version)
        return known

    def known(self, version: str | None) -> PolicyVersion | None:
        """Return what `resolve` returns if it needs no call to Triton, else None."""
        return self.active if version is None else self._known.get(version)

    def forget(self, policy: PolicyVersion) -> None:
        """Ask Triton about `policy` again next time, because it did not answer a call."""
        self._known.pop(policy.version, None)

    async def served(self) -> tuple[list[PolicyVersion], list[str]]:
        """List the versions that Triton serves, and those that it holds; oldest first."""
        found, served = await self._listed()
        policies = []
        for version in served:
            with suppress(InferenceFailed):  # what describes no policy must not hide the others
                policies.append(await self.resolve(version))
        known = {policy.version for policy in policies}
        return policies, [version for version in found if version not in known]

    async def _listed(self) -> tuple[list[str], list[str]]:
        """Return the versions that Triton knows, and those of them that it serves."""
        pattern = re.compile(rf"{ALIAS}-(v\d+\.\d+\.\d+)")
        models = await self._triton.index(CONTROL_TIMEOUT_S)
        found = sorted((m[1] for m in map(pattern.fullmatch, models) if m), key=_order)
        return found, [version for version in found if models[_ensemble(version)] == "READY"]

    async def follow(self) -> None:
        """Update `active` and `ready` about once a second, for ever.

        It looks more often while nothing is ready, to see a start or a return early, and at once
        when a model is put into quarantine, so that the ensemble answers instead.
        """
        while True:
            try:
                await self.refresh()
            except Exception:
                log.exception("following the active version failed")
                self._set_ready(False)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if self.ready else START_POLL_S):
                    await self._look.wait()
            self._look.clear()

    async def refresh(self) -> None:
        """Look once whether the active version answers, and switch where another is active."""
        try:
            if self.ready and self.active is not None:
                await self._check_again(self.active)
            await self._switch()
            if self.survey:
                self.survey = False
                with suppress(GatewayError):  # Triton may tell nobody what it serves
                    for version in (await self._listed())[1]:
                        await self._load(version)
            await self._forget_replaced()
        except GatewayError as error:
            if isinstance(error, TritonAway):
                self._metrics.warm.set(0)
                self._triton.quarantine.restarted()
            reason = self._reason(error)
            if self.trouble != reason:
                self.trouble = reason
                if self.active is None and isinstance(error, TritonAway):
                    log.info("waiting for Triton: %s yet", reason)  # it may only just have started
                else:
                    log.warning("%s: %s", "still ready" if self.ready else "not ready", reason)

    async def _check_again(self, active: PolicyVersion) -> None:
        """Ask `active` for one golden action: a model whose process died is ready for Triton."""
        try:
            with self._metrics.golden():
                await active.check_golden(self._triton, 1, CONTROL_TIMEOUT_S)
        except ResourceExhausted:  # it is at work
            return
        except GatewayError as error:
            self._distrusted[active.model] = time.monotonic()
            self._set_ready(False)
            if not isinstance(error, DeadlineExceeded):
                self._metrics.warm.set(0)
            self.trouble = self._reason(error)
            log.warning("%s does not answer: %s", active.model, self.trouble)

    async def _switch(self) -> None:
        config = await self._triton.config(self._source, CONTROL_TIMEOUT_S)
        version = config.get("parameters", {}).get("version", {}).get("string_value")
        if version is None:
            raise InferenceFailed(f"the configuration of {self._source} names no version")
        current = self.active
        if self.ready and current is not None and version == current.version:  # noqa: SIM102
            if await self._callable(version) == current.model:
                self.trouble = None
                return
        policy = await self._load(version)
        try:
            with self._metrics.golden():
                await policy.check_golden(self._triton)
        except GatewayError:
            self._distrusted[policy.model] = time.monotonic()
            raise
        self._known[version] = policy
        self.active = policy
        self.trouble = None
        self._metrics.activated(policy.version, policy.artifact_digest, policy.device)
        self._metrics.checked.set(self._triton.echoes(policy.model))
        self._metrics.warm.set(1)
        self._set_ready(True)
        log.info("%s answers on %s (%s)", policy.version, policy.device, policy.artifact_digest)

    async def _forget_replaced(self) -> None:
        """Forget versions that were unloaded or replaced; `_switch` sees to the active one."""
        for policy in [one for one in self._known.values() if one is not self.active]:
            try:
                config = await self._triton.config(_ensemble(policy.version), CONTROL_TIMEOUT_S)
                digest = config["parameters"]["artifact_digest"]["string_value"]
            except (GatewayError, KeyError):
                digest = None
            if digest != policy.artifact_digest:
                self.forget(policy)

    async def _load(self, version: str) -> PolicyVersion:
        model = _ensemble(version)
        try:
            config = await self._triton.config(model, CONTROL_TIMEOUT_S)
        except (ModelNotFound, ServiceUnavailable) as error:
            state = None if isinstance(error, ModelNotFound) else "unknown"
            with suppress(GatewayError):
                state = (await self._triton.index(CONTROL_TIMEOUT_S)).get(model)
            if state in ("", "UNAVAILABLE"):
                message = f"{version} is held, and not loaded; `carlarl load {version}` loads it"
                raise ModelNotFound(message, version=version) from None
            if state is None:
                raise ModelNotFound(f"there is no version {version}", version=version) from None
            raise
        try:
            last = config["ensemble_scheduling"]["step"][-1]["model_name"]
        except (KeyError, IndexError, TypeError) as error:
            raise InferenceFailed(f"{model} is no ensemble") from error
        step = await self._triton.config(last, CONTROL_TIMEOUT_S)
        groups = step.get("instance_group") or [{}]
        device = "cuda" if groups[0].get("kind") == "KIND_GPU" else "cpu"
        called = await self._callable(version)
        fused: dict[str, Any] = {}
        try:  # whether it echoes, and takes images
            fused = await self._triton.config(f"{FUSED}{version}", CONTROL_TIMEOUT_S)
        except GatewayError:
            if called != model:
                raise
        policy = PolicyVersion.parse(config, called, device, fused)
        self.body_bytes = min(max(self.body_bytes, policy.body_bytes), MOST_BODY_BYTES)
        self.frame_bytes = min(max(self.frame_bytes, policy.frame_bytes), MOST_BODY_BYTES)
        if called in self._triton.quarantine and not await self._works_again(policy):
            return await self._load(version)  # by the other model
        if not self._triton.echoes(called) and called not in self._unchecked:
            self._unchecked.add(called)
            log.warning(
                "%s gives no nonce back, so that the answer of another call would not be noticed; "
                "`carlarl export --version %s` renews a model of the python flavour",
                *(called, version),
            )
        return policy

    async def _works_again(self, policy: PolicyVersion) -> bool:
        """Return whether a model in quarantine gives its golden actions; if so, release it."""
        quarantine = self._triton.quarantine
        quarantine.add(policy.model)  # so that nobody else tries at the same time
        try:
            for rows in (1, 2):  # an answer to the one has not the size of the other's
                await policy.check_golden(self._triton, rows, CONTROL_TIMEOUT_S, probe=True)
        except GatewayError:
            return False
        quarantine.release(policy.model)
        log.info("%s works again", policy.model)
        return True

    def _distrust(self, model: str, error: Distrusted) -> None:
        """Count and log that `model` was put into quarantine, and look for another one at once."""
        self._metrics.distrusted.labels(error.reason).inc()
        log.error("%s; it gets no requests until it works again", error.message)
        self._look.set()

    async def _callable(self, version: str) -> str:
        """Return the name of the model to call for `version`: the fused one, else the ensemble.

        Raises ServiceUnavailable if both are in quarantine or not ready, DeadlineExceeded if Triton
        does not answer, for example while it loads a model.
        """
        fused = f"{FUSED}{version}"
        since = time.monotonic() - self._distrusted.get(fused, -math.inf)
        models = [_ensemble(version)] if since < DISTRUST_S else [fused, _ensemble(version)]
        for model in models:
            if self._triton.quarantine.closed(model):
                continue
            if await self._triton.ready(model, CONTROL_TIMEOUT_S):
                return model
        raise ServiceUnavailable(f"{_ensemble(version)} is not ready")

    def _reason(self, error: GatewayError) -> str:
        if isinstance(error, TritonAway):
            return f"nobody answers at TRITON_URL={self._triton.url}"
        return error.message

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self._metrics.ready.set(ready)


def _ensemble(version: str) -> str:
    return f"{ALIAS}-{version}"


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version[1:].split(".")))
