"""The only module that knows Triton's protocol: HTTP with the binary tensor extension."""

import asyncio
import itertools
import json
import logging
import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

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
from gateway.triton.batch import DETERMINISTIC, Rows
from gateway.triton.connection_pool import Answer, Pool
from gateway.triton.quarantine import Quarantine
from gateway.triton.tensors import Offsets, Tensors, offsets_of

log = logging.getLogger(__name__)

FUSED = "carla_policy_fused-"
"""The beginning of the names of fused models, which do both steps in one process."""

SECRET_HEADER = "carlarl-secret"
"""Header with the secret that the closed APIs of an embedded Triton require."""

MAX_HEADS = 4096

_Tensor = tuple[str, str, bytes]

NONCE = "nonce"
ECHO = "nonce_echo"
"""The output in which a model returns the input `nonce`."""


class Triton:
    """One Triton server, over connections that are kept for the life of the process.

    If the configuration of a model, as it was last read, has the output `nonce_echo`, each call
    sends a new number, the nonce. An answer with another number belongs to another call. It is
    never handed out: Distrusted is raised, and the model is put into `quarantine`. The same happens
    if Triton says that the model's process is not healthy.

    Every method raises ServiceUnavailable where Triton is away or the model is not ready,
    ModelNotFound where there is no such model, DeadlineExceeded where no answer came in
    time, ResourceExhausted where its queue is full, InferenceFailed for any other failure.
    """

    def __init__(self, url: str, secret: str | None = None) -> None:
        """Take `http://host:port` and the secret of its closed APIs. The first call connects."""
        self.url = url
        self._control = "" if secret is None else f"{SECRET_HEADER}: {secret}\r\n"
        address = urlsplit(url)
        self._host = f"Host: {address.netloc}\r\n"
        self._pool = Pool(address.hostname or "", address.port or 80)
        self._heads: dict[tuple[str, Tensors, int, bool, bool], bytes] = {}
        self._offsets: dict[tuple[Tensors, int, bytes, int], Offsets] = {}
        self._echoing: set[str] = set()
        # Each process counts in a range of its own. Without a nonce a model returns 0.
        self._nonces = itertools.count(1 + secrets.randbits(62))
        self.quarantine = Quarantine()
        self.on_distrust: Callable[[str, Distrusted], None] = lambda model, error: None
        """Called with each model that is put into quarantine, and the reason."""

    def call(
        self,
        model: str,
        rows: Rows,
        timeout_s: float,
        done: Callable[[bytes | GatewayError], None],
        headers: bytes = b"",
        *,
        probe: bool = False,
    ) -> None:
        """Run `model` once; call `done` with what `infer` returns, or with what it raises.

        `headers` are further lines of the request's head, each with its line end. Only a `probe`
        is sent to a model in quarantine.
        """
        if model in self.quarantine and not probe:
            refused = ServiceUnavailable(f"{model} gets no requests until it works again")
            asyncio.get_running_loop().call_soon(done, refused)
            return
        tensors = tensors_of(model, rows)
        nonce = b""
        if model in self._echoing:
            nonce = next(self._nonces).to_bytes(8, "little") * rows.count
            tensors.append((NONCE, "INT64", nonce))
        head = self._head(model, rows, tensors)
        if headers:
            head = head.replace(b"\r\n", b"\r\n" + headers, 1)
        data = b"".join([head, *(data for _, _, data in tensors)])

        def answered(outcome: Answer | Exception) -> None:
            try:
                action = self._rows_of(model, rows, nonce, outcome)
            except GatewayError as error:
                if isinstance(error, Distrusted):
                    self.quarantine.add(model)
                    self.on_distrust(model, error)
                done(error.with_traceback(None))
            else:
                done(action)

        self._pool.call(data, timeout_s, answered)

    async def infer(
        self, model: str, rows: Rows, timeout_s: float, *, probe: bool = False
    ) -> bytes:
        """Run `model` once and return its outputs, those of each row behind each other."""
        action: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: bytes | GatewayError) -> None:
            if action.done():  # nobody waits for it any more
                return
            if isinstance(outcome, bytes):
                action.set_result(outcome)
            else:
                action.set_exception(outcome)

        self.call(model, rows, timeout_s, done, probe=probe)
        return await action

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """Read the configuration of `model` as Triton has it loaded."""
        config: dict[str, Any] = await self._ask("GET", f"/v2/models/{model}/config", timeout_s)
        if any(output["name"] == ECHO for output in config.get("output", ())):
            self._echoing.add(model)
        else:
            self._echoing.discard(model)
        return config

    def echoes(self, model: str) -> bool:
        """Return whether `model` returns the nonce, by its configuration as it was last read."""
        return model in self._echoing

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Return whether `model` can be called; False also if Triton is away.

        Raises DeadlineExceeded if Triton does not answer, for example while it loads a model.
        """
        try:
            answer = await self._request("GET", f"/v2/models/{model}/ready", timeout_s)
        except DeadlineExceeded:
            raise
        except GatewayError:
            return False
        return answer.status == 200

    async def index(self, timeout_s: float) -> dict[str, str]:
        """List the models of the repository: name and state, empty where it was never loaded."""
        entries = await self._ask("POST", "/v2/repository/index", timeout_s, self._control)
        return {entry["name"]: entry.get("state", "") for entry in entries}

    @property
    def reconnects(self) -> int:
        """Connections that were opened in the place of lost ones, so far."""
        return self._pool.reconnects

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    async def _ask(self, method: str, path: str, timeout_s: float, headers: str = "") -> Any:
        answer = await self._request(method, path, timeout_s, headers)
        with _errors_mapped(path):
            if answer.status != 200:
                raise _answered(path, answer)
            return json.loads(answer.body)

    async def _request(self, method: str, path: str, timeout_s: float, headers: str = "") -> Answer:
        head = f"{method} {path} HTTP/1.1\r\n{self._host}{headers}Content-Length: 0\r\n\r\n"
        with _errors_mapped(path):
            return await self._pool.request(head.encode(), timeout_s)

    def _head(self, model: str, rows: Rows, tensors: Sequence[_Tensor]) -> bytes:
        """Return a request without its tensors; it is the same for all requests of one shape."""
        if rows.encoded:
            return self._make_head(model, rows, tensors)
        key = (model, rows.tensors, rows.count, not rows.keys, tensors[-1][0] == NONCE)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = self._make_head(model, rows, tensors)
        return head

    def _make_head(self, model: str, rows: Rows, tensors: Sequence[_Tensor]) -> bytes:
        fused = model.startswith(FUSED)
        inputs = [
            {
                "name": name,
                "shape": rows.tensors.shape(name, data, kind, rows.count, fused=fused),
                "datatype": kind,
                "parameters": {"binary_data_size": len(data)},
            }
            for name, kind, data in tensors
        ]
        names = [one.name for one in rows.tensors.outputs]
        names += [ECHO] if tensors[-1][0] == NONCE else []
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
        description = json.dumps({"inputs": inputs, "outputs": outputs}, separators=(",", ":"))
        length = len(description) + sum(len(data) for _, _, data in tensors)
        return (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\n{self._host}"
            "Content-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {len(description)}\r\n"
            f"Content-Length: {length}\r\n\r\n{description}"
        ).encode()

    def _rows_of(self, model: str, rows: Rows, nonce: bytes, outcome: Answer | Exception) -> bytes:
        """Return what Triton answered for `rows`, row by row. Raises GatewayError.

        `nonce` is what all rows were sent with, empty for a model that does not echo.
        """
        with _errors_mapped(model):
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.status != 200:
                refused = rows.encoded and rows.tensors.refused(outcome.body, rows.count)
                raise refused or _answered(model, outcome)
            body = outcome.body
            head = body[: int(outcome.headers[b"inference-header-content-length"])]
            key = (rows.tensors, rows.count, head, len(body))
            known = self._offsets.get(key)  # the heads of answers of one shape are equal
            offsets = known or offsets_of(head)
            start, end = offsets.get(ECHO, (0, 0))
            if body[start:end] != nonce:
                what = f"{model} gave the answer of another call; it was thrown away"
                raise Distrusted(what, "stale")
            if known is None:
                rows.tensors.check(head, len(body), rows.count)
                if len(self._offsets) >= MAX_HEADS:
                    self._offsets.clear()
                self._offsets[key] = offsets
            return rows.tensors.rows(offsets, body, rows.count)


def tensors_of(model: str, rows: Rows) -> list[_Tensor]:
    """Return the inputs that `model` takes: name, data type and bytes of each.

    The fused model takes rows as they are; an ensemble takes a tensor for each leaf.
    """
    tensors, apart = rows.tensors, rows.tensors.apart(rows.others) if rows.others else []
    if model.startswith(FUSED):
        packed = [*tensors.packed(rows.observations), *apart]
        return [*packed, ("noise_key", "INT64", rows.keys)] if rows.keys else packed
    keys = array("q", rows.keys)
    seeds = keys[::2] or array("q", [DETERMINISTIC]) * rows.count
    numbers = keys[1::2] or array("q", range(rows.count))
    return [
        *tensors.unpacked(rows.observations, rows.count),
        *apart,
        ("deterministic", "BOOL", bytes(seed == DETERMINISTIC for seed in seeds)),
        ("seed", "INT64", array("q", [max(0, seed) for seed in seeds]).tobytes()),
        ("row", "INT64", numbers.tobytes()),
    ]


@contextmanager
def _errors_mapped(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded("no answer from Triton within the deadline") from error
    except OSError as error:
        raise TritonAway("Triton is away") from error
    except (ValueError, KeyError, TypeError) as error:
        log.error("Triton's answer about %s cannot be read", what, exc_info=error)
        raise InferenceFailed("Triton's answer cannot be read") from error


def _answered(what: str, answer: Answer) -> GatewayError:
    """Name the error that Triton answered with; its text may hold a trace, so it is only logged."""
    message = answer.body.decode(errors="replace")
    if "is not healthy" in message:
        return Distrusted(f"the process of {what} is not healthy", "unhealthy")
    if "Exceeds maximum queue size" in message:
        return ResourceExhausted("Triton's queue is full")
    if "unknown model" in message and "is not found" in message:
        return ModelNotFound(f"Triton does not know {what}")
    if answer.status == 503 or "unknown model" in message or "is not ready" in message:
        return ServiceUnavailable(f"{what} is not ready")
    if answer.status == 403:
        return InferenceFailed("Triton is closed to this gateway: TRITON_SECRET is not its secret")
    log.error("Triton answered %d for %s: %s", answer.status, what, message)
    return InferenceFailed(f"Triton answered with an error (status {answer.status})")
