"""The client and its asyncio twin."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Sequence

import httpcore

from carlarl_client._answers import Answer, read
from carlarl_client._asking import HEALTH, METADATA, VERSIONS, WARMUP, Asking, Memory, add, check
from carlarl_client._core import Call, Deadline, Retries, Try
from carlarl_client._network import AsyncPools, Pools
from carlarl_client.errors import BadAnswer, PolicyError, ValidationFailed
from carlarl_client.types import AnyObservation, Observations, Prediction


class PolicyClient(Asking[Pools]):
    """Asks a service for actions, on connections that are kept.

    May be used by several threads at a time, and pickled; a process that was forked or that
    unpickles it has connections of its own. All methods raise `PolicyError`; what each kind means
    is in `carlarl_client.errors`.
    """

    _pools_of = Pools

    def predict(
        self,
        observations: Observations,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        policy_actions: bool = False,
        states: Sequence[str | None] | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for one action for each observation.

        Args:
            observations: one, or 1 to 1000 of them, in the API's JSON form, or `Observation`s. One
                that is itself a list or an array, or several, come in a list. Numpy's arrays and
                numbers are taken as they are, bytes in the place of base64. Arrays of more than 64
                elements travel as bytes: for them, `/metadata` is asked once.
            deterministic: ask for the policy's mean action; else for a sampled one.
            seed: repeats sampled actions, 0 to 2^63-1; the service draws one where absent.
            version: of the policy, such as `v0.2.0`; that of `states`, or else the active one,
                where absent.
            policy_actions: also ask for the actions in the policy's own space, before they become
                controls.
            states: for each observation what the last answer of its episode had in `states`, or
                None where an episode starts; all start one where absent. See `session`.
            timeout: seconds, in the place of the client's.
        """
        deadline = self._deadline(timeout)
        options = {"deterministic": deterministic, "seed": seed, "version": version}
        own = policy_actions or None
        steps = self._predict(observations, deadline, **options, states=states, policyActions=own)
        call = next(steps)
        try:
            while True:
                call = steps.send(self._call(call, deadline))
        except StopIteration as end:
            predicted: Prediction = end.value
            return predicted
        except (BadAnswer, ValidationFailed):
            self._forget()
            raise

    def session(self, state: str | None = None) -> Session:
        """Begin an episode of one car, or go on with one whose `Session.state` this is."""
        return Session(self, state)

    def metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Describe the active version."""
        return self._call(METADATA, self._deadline(timeout)).content

    def versions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """List what is served: `active`, and `versions`, oldest first."""
        return self._call(VERSIONS, self._deadline(timeout)).content

    def health(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Say whether the service can act: `status` is `ok` or `degraded`."""
        return self._call(HEALTH, self._deadline(timeout)).content

    def warmup(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Run the active version a few times, so that the next prediction is fast."""
        return self._call(WARMUP, self._deadline(timeout)).content

    def close(self) -> None:
        """Close the connections; a later call raises `ClientClosed`."""
        self._closed = True
        self._pools.get().close()

    def __enter__(self) -> PolicyClient:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _call(self, call: Call, deadline: Deadline) -> Answer:
        retries = Retries(call, deadline, self.retries)
        while True:
            try:
                return self._try(*self._write(call, deadline))
            except PolicyError as error:
                pause = retries.pause(error)
            time.sleep(pause)

    def _try(self, tried: Try, request: httpcore.Request) -> Answer:
        body = bytearray()
        try:
            response = self._pools.get().handle_request(request)
            try:
                check(response, tried)
                for part in response.iter_stream():
                    add(body, part, tried)
            finally:
                response.close()
        except PolicyError:
            raise
        except Exception as error:  # whatever a network does, a car gets one kind of error
            raise tried.failed(error) from error
        return read(response.status, response.headers, body, tried)


class Session(Memory[PolicyClient]):
    """One episode of a policy that may remember: each call goes on where the last answer left it.

    A policy without a memory is asked as by `PolicyClient`. A call that fails leaves the memory as
    it was. The version that answers an episode's first call answers all of it, if it remembers.
    Make a session for each car; it takes one call at a time.

    Attributes:
        client: that is asked.
        state: a token of what the policy remembers, None where an episode starts or it has no
            memory. `session(state=…)` of another client, also of another gateway, goes on with it.
    """

    def predict(
        self,
        observation: AnyObservation,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        policy_actions: bool = False,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for the action of the episode's next step; see `PolicyClient.predict`."""
        return self._remember(
            self.client.predict(
                [observation],
                deterministic=deterministic,
                seed=seed,
                version=version,
                policy_actions=policy_actions,
                states=self._states,
                timeout=timeout,
            )
        )

    def __enter__(self) -> Session:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it as it is: another client may go on with `state`."""


class AsyncPolicyClient(Asking[AsyncPools]):
    """The twin of `PolicyClient` for asyncio: the same arguments, results and errors."""

    _pools_of = AsyncPools

    async def predict(
        self,
        observations: Observations,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        policy_actions: bool = False,
        states: Sequence[str | None] | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for one action for each observation; see `PolicyClient.predict`."""
        deadline = self._deadline(timeout)
        options = {"deterministic": deterministic, "seed": seed, "version": version}
        own = policy_actions or None
        steps = self._predict(observations, deadline, **options, states=states, policyActions=own)
        call = next(steps)
        try:
            while True:
                call = steps.send(await self._call(call, deadline))
        except StopIteration as end:
            predicted: Prediction = end.value
            return predicted
        except (BadAnswer, ValidationFailed):
            self._forget()
            raise

    def session(self, state: str | None = None) -> AsyncSession:
        """Begin an episode of one car, or go on with one whose `Session.state` this is."""
        return AsyncSession(self, state)

    async def metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Describe the active version."""
        return (await self._call(METADATA, self._deadline(timeout))).content

    async def versions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """List what is served: `active`, and `versions`, oldest first."""
        return (await self._call(VERSIONS, self._deadline(timeout))).content

    async def health(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Say whether the service can act: `status` is `ok` or `degraded`."""
        return (await self._call(HEALTH, self._deadline(timeout))).content

    async def warmup(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Run the active version a few times, so that the next prediction is fast."""
        return (await self._call(WARMUP, self._deadline(timeout))).content

    async def aclose(self) -> None:
        """Close this loop's connections; a later call raises `ClientClosed`."""
        self._closed = True
        await self._pools.get().aclose()

    async def __aenter__(self) -> AsyncPolicyClient:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def _call(self, call: Call, deadline: Deadline) -> Answer:
        retries = Retries(call, deadline, self.retries)
        while True:
            tried, request = self._write(call, deadline)
            try:
                return await asyncio.wait_for(self._try(tried, request), deadline.left())
            except asyncio.TimeoutError:
                raise tried.exceeded() from None
            except PolicyError as error:
                pause = retries.pause(error)
            await asyncio.sleep(pause)

    async def _try(self, tried: Try, request: httpcore.Request) -> Answer:
        body = bytearray()
        try:
            response = await self._pools.get().handle_async_request(request)
            try:
                check(response, tried)
                async for part in response.aiter_stream():
                    add(body, part, tried)
            finally:
                await response.aclose()
        except PolicyError:
            raise
        except Exception as error:  # whatever a network does, a car gets one kind of error
            raise tried.failed(error) from error
        return read(response.status, response.headers, body, tried)


class AsyncSession(Memory[AsyncPolicyClient]):
    """The twin of `Session` for asyncio."""

    async def predict(
        self,
        observation: AnyObservation,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        policy_actions: bool = False,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for the action of the episode's next step; see `PolicyClient.predict`."""
        return self._remember(
            await self.client.predict(
                [observation],
                deterministic=deterministic,
                seed=seed,
                version=version,
                policy_actions=policy_actions,
                states=self._states,
                timeout=timeout,
            )
        )

    async def __aenter__(self) -> AsyncSession:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave it as it is: another client may go on with `state`."""
