"""What the client and its asyncio twin share: settings, requests, and what the service serves."""

from __future__ import annotations

import ssl
from typing import Any, Callable, Generator, Generic, TypeVar

import httpcore

from carlarl_client._answers import Answer, check_whose, prediction, speaks_own
from carlarl_client._core import Call, Deadline, LargeArray, Requests, Try, predict_call
from carlarl_client._network import AsyncPools, Pools
from carlarl_client._spaces import Described, Space
from carlarl_client.errors import BadAnswer, ClientClosed
from carlarl_client.types import Observations, Prediction

METADATA, VERSIONS = Call("GET", "/metadata"), Call("GET", "/versions")
HEALTH, WARMUP = Call("GET", "/healthz"), Call("POST", "/warmup")
Connections = TypeVar("Connections", Pools, AsyncPools)
Client = TypeVar("Client")
Steps = Generator[Call, Answer, Prediction]
"""The calls of a prediction: takes the answer to each, and gives the prediction in the end."""


class Asking(Generic[Connections]):
    """What both clients know of their service."""

    _pools_of: Callable[[bool | str | ssl.SSLContext, str | None], Connections]

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        verify: bool | str | ssl.SSLContext = True,
        proxy: str | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            url: of the service, such as `http://127.0.0.1:8080`, without a password.
            api_key: sent as `X-API-Key`.
            timeout: seconds that a call may take, all of its tries together; the service is told.
            retries: how often a call is sent again where that is safe.
            verify: as httpx has it: whether, or by what, an https service is verified. An
                `SSLContext` does not pickle.
            proxy: URL of a proxy; those of the environment are not asked.
        """
        Deadline(timeout)
        if retries < 0:
            raise ValueError(f"retries is {retries}: give 0 or more")
        self._requests = Requests(url, api_key)
        self._pools: Connections = type(self)._pools_of(verify, proxy)
        self._closed = False
        self.timeout = timeout
        self.retries = retries
        self._described: dict[str, Described | None] = {}
        self._active: str | None = None

    @property
    def url(self) -> str:
        """The service's URL."""
        return self._requests.url

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else timeout)

    def _write(self, call: Call, deadline: Deadline) -> tuple[Try, httpcore.Request]:
        if self._closed:
            raise ClientClosed("the client is closed")
        return self._requests.write(call, deadline)

    def _predict(self, observations: Observations, deadline: Deadline, **options: Any) -> Steps:
        """Ask `/predict`, and `/metadata` where a space must be known that is not known yet."""
        version = options["version"]
        try:
            call = predict_call(observations, options, self._space(version))
        except LargeArray:
            yield from self._learn(version)
            call = predict_call(observations, options, self._space(version) or {})
        answer = yield call
        served = str(answer.content.get("version"))
        if speaks_own(answer.content) and served not in self._described:
            yield from self._learn(served)
        described = self._described.get(served)
        return prediction(answer, call.asked, deadline.spent_ms(), described)

    def _space(self, version: str | None) -> Space | None:
        """Return the space of observations; empty where it can't be known, None where it may be."""
        asked, described = version or self._active, self._described
        if asked not in described:
            return None
        known = described[asked]
        return {} if known is None else known.observation

    def _learn(self, version: str | None) -> Generator[Call, Answer, None]:
        """Keep what `/metadata` says. It says nothing of a `version` that is not active: None."""
        told = Described.by((yield METADATA).content)
        self._active = told.version
        self._described.update({version or told.version: None, told.version: told})

    def _forget(self) -> None:
        """Forget what `/metadata` said, after an answer or a request did not fit it."""
        self._described, self._active = {}, None


class Memory(Generic[Client]):
    """What a session and its asyncio twin share; see `Session`."""

    def __init__(self, client: Client, state: str | None = None) -> None:
        """Take who is asked, and the memory to go on with."""
        self.client = client
        self.state = state

    def reset(self) -> None:
        """Let the next call start an episode."""
        self.state = None

    @property
    def _states(self) -> list[str] | None:
        return None if self.state is None else [self.state]

    def _remember(self, answer: Prediction) -> Prediction:
        self.state = answer.states[0] if answer.states else None
        return answer


def check(response: httpcore.Response, tried: Try) -> None:
    """Raise ConnectionFailed, before the body is read, where an answer is another request's."""
    stream = response.extensions["network_stream"]
    check_whose(response.headers, getattr(stream, "held", b""), tried)


def add(body: bytearray, part: bytes, tried: Try) -> None:
    body += part
    if len(body) > tried.longest:
        raise BadAnswer(
            f"{tried.url} answered with more than {tried.longest} bytes", request_id=tried.token
        )
