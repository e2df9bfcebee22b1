"""A client that sends exact bytes in exact segments, and reads HTTP/1.1 answers as they came."""

from __future__ import annotations

import json
import select
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

from tests.gateway.processes import OBSERVATION

PATIENCE_S = 10.0
SEGMENT_S = 0.03
"""Pause between two segments, so that the gateway reads each by itself."""
GOOD = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MSGPACK = "application/msgpack"


class EndedError(Exception):
    """The gateway ended the connection before a whole answer came; the text is what did come."""


@dataclass(frozen=True)
class Answer:
    """One answer; header names are in lower case, in the order in which they came."""

    version: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()
    """Statuses below 200 that came before it."""

    def all(self, name: str) -> list[str]:
        """Values of every header of this name."""
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str | None:
        """Value of the header of this name, which may come once at most."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether it says that it is the connection's last."""
        return "close" in (self.get("connection") or "").lower()

    def content(self) -> Any:
        """Read the body by its type."""
        if self.get("content-type") == MSGPACK:
            return msgspec.msgpack.decode(self.body)
        assert self.get("content-type") == "application/json", self
        return json.loads(self.body)

    def actions(self) -> Any:
        """Return the actions of an answer to `/predict`, which must be a good one."""
        assert self.status == 200, self
        return self.content()["actions"]


class Connection:
    """One connection to a server."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        """Connect to the address in `url`; by TLS where there is a `context`."""
        address = urlsplit(url)
        host = address.hostname
        self.socket = socket.create_connection((host, address.port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self._received = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *segments: bytes) -> Connection:
        """Send each segment by itself."""
        for number, segment in enumerate(segments):
            if number:
                time.sleep(SEGMENT_S)
            self.socket.sendall(segment)
        return self

    def answer(self, *, to_head: bool = False, seconds: float = PATIENCE_S) -> Answer:
        """Read the next answer. Raises EndedError, and TimeoutError where none comes in time.

        `to_head` says that it answers HEAD, so that no body follows.
        """
        self._deadline = time.monotonic() + seconds
        interim: tuple[int, ...] = ()
        while True:
            head = self._until(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            version, status, *_ = first.split(" ", 2)
            assert version.startswith("HTTP/1."), first
            if int(status) >= 200 or int(status) == 101:
                break
            interim += (int(status),)
        pairs = [line.partition(":")[::2] for line in lines]
        headers = tuple((name.lower(), value.strip()) for name, value in pairs)
        answer = Answer(version, int(status), headers, b"", interim)
        if to_head or int(status) in (101, 204, 304):
            return answer
        return Answer(version, int(status), headers, self._body(answer), interim)

    def ended(self, seconds: float = PATIENCE_S) -> bool:
        """Whether the server ends the connection in this time, without another byte before."""
        if self._received:
            return False
        self.socket.settimeout(seconds)
        try:
            self._received = self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            return True
        return not self._received

    def quiet(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for so long, not even an end."""
        return not self._received and not select.select([self.socket], [], [], seconds)[0]

    def _body(self, answer: Answer) -> bytes:
        if answer.get("transfer-encoding") is None:
            length = answer.get("content-length")
            assert length is not None, f"nobody can tell where this ends: {answer}"
            return self._exactly(int(length))
        assert answer.get("transfer-encoding") == "chunked"
        assert answer.get("content-length") is None
        body = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._until(b"\r\n") == b"\r\n"
        return body

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._read()
        found, self._received = self._received.split(mark, 1)
        return found + mark

    def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            self._read()
        found, self._received = self._received[:count], self._received[count:]
        return found

    def _read(self) -> None:
        self.socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
        try:
            part = self.socket.recv(1 << 20)
        except ConnectionError as error:
            raise EndedError(f"{error!r} after {self._received[:200]!r}") from None
        if not part:
            raise EndedError(f"after {self._received[:200]!r}")
        self._received += part


def request(
    body: bytes | None = GOOD,
    *headers: str,
    method: str = "POST",
    target: str = "/predict",
    version: str = "HTTP/1.1",
) -> bytes:
    """Write a request; with a body it has its length, and without one (None) it says nothing."""
    return head(*headers, *_length(body), method=method, target=target, version=version) + (
        body or b""
    )


def head(
    *headers: str, method: str = "POST", target: str = "/predict", version: str = "HTTP/1.1"
) -> bytes:
    """Write a head alone."""
    return "\r\n".join([f"{method} {target} {version}", "Host: x", *headers, "", ""]).encode(
        "latin-1"
    )


def chunks(body: bytes, size: int, extension: bytes = b"", *trailers: bytes) -> bytes:
    """Write a body in chunks of this size, each with an extension, with trailers at its end."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    written = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join(written) + b"\r\n".join([b"0" + extension, *trailers, b"", b""])


def chunked(body: bytes = GOOD, *headers: str, size: int = 50, **more: str) -> bytes:
    """Write a request whose body comes in chunks."""
    return head(*headers, "Transfer-Encoding: chunked", **more) + chunks(body, size)


def ask(url: str, *segments: bytes, to_head: bool = False) -> Answer:
    """Send segments on a connection of their own and give the first answer."""
    with Connection(url) as connection:
        return connection.send(*segments).answer(to_head=to_head)


def goes_on(connection: Connection, actions: Any) -> bool:
    """Whether the connection's next answer is the right one, and nothing else comes with it."""
    echo = "X-Request-ID: goes-on"
    answer = connection.send(request(GOOD, echo)).answer()
    assert answer.get("x-request-id") == "goes-on", f"it is another request's: {answer}"
    return bool(answer.actions() == actions) and connection.quiet(0.05)


def check_error(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check that `answer` is the error `code` in the envelope of all errors; give its details."""
    assert answer.status == status, answer
    content = answer.content()
    assert set(content) == {"error", "message", "details", "timestamp"}
    assert content["error"] == code
    assert content["message"]
    assert content["details"]["request_id"] == answer.get("x-request-id")
    assert abs(content["timestamp"] - time.time()) < 60
    details: dict[str, Any] = content["details"]
    return details


def check_last(connection: Connection, status: int, code: str) -> Answer:
    """Check that the next answer is this error, and the connection's last."""
    answer = connection.answer()
    check_error(answer, status, code)
    assert answer.closes, answer
    assert connection.ended()
    return answer


def process_at(url: str) -> psutil.Process:
    """Return the process, a child of this one, that listens at `url`."""
    port = urlsplit(url).port
    (found,) = [
        one
        for one in psutil.Process().children(recursive=True)
        if any(c.status == "LISTEN" and c.laddr.port == port for c in one.net_connections("tcp"))
    ]
    return found


def _length(body: bytes | None) -> list[str]:
    return [] if body is None else [f"Content-Length: {len(body)}"]
