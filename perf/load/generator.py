"""A small load generator, in a process of its own: `python -m perf.load.generator`.

It reads a `Load` as JSON from standard input and writes what it `Saw` to standard output. In an
open loop requests are due at a fixed rate whatever the answers do, and a latency counts from when
its request was due; where all connections wait for answers, requests queue and their time runs. In
a closed loop each connection sends its next request when it has its answer.

It waits for epoll's own file with select(2), since that is exact to microseconds; event loops round
to milliseconds.
"""

import collections
import contextlib
import gc
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httptools
import msgspec

ROOT = Path(__file__).parents[2]

GRACE_S = 2.0
"""How long answers may still take after the end."""


class LoadError(Exception):
    """What was to be measured can't be: the base of perf's errors.

    The text says why, and what to do.
    """


class Load(msgspec.Struct, frozen=True):
    """What to send, where to and how."""

    host: str
    port: int
    request: bytes
    """Head and body, as they go over the wire, or their first segment."""
    connections: int
    seconds: float
    rate: float | None = None
    """Requests due a second; None for a closed loop."""
    patient: bool = True
    """Whether a request that is due waits for a free connection; else it is not sent at all."""
    later_segments: tuple[bytes, ...] = ()
    """What follows of each request, each part in a TCP segment of its own."""

    @classmethod
    def predict(
        cls,
        url: str,
        headers: Iterable[tuple[str, str]],
        content: bytes,
        connections: int,
        seconds: float,
        rate: float | None = None,
        segments: int = 1,
        chunked: bool = False,
    ) -> Self:
        """Describe a load of `POST /predict`.

        A request has one segment, or one of its head and the others of its content. Raises
        LoadError for a URL that is not http.
        """
        address = urlsplit(url)
        if address.scheme != "http" or address.hostname is None:
            raise LoadError(f"{url}: perf.load.generator speaks http only")
        length = ("Content-Length", str(len(content)))
        if chunked:
            length = ("Transfer-Encoding", "chunked")
            content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        fields = (("Host", address.netloc), *headers, length)
        lines = [f"POST {address.path}/predict HTTP/1.1", *map(": ".join, fields), "", ""]
        parts = ["\r\n".join(lines).encode() + content]
        if segments > 1:
            size = -(-len(content) // (segments - 1))
            head = parts[0].removesuffix(content)
            parts = [head, *(content[i : i + size] for i in range(0, len(content), size))]
        host, port = address.hostname, address.port or 80
        later = tuple(parts[1:])
        return cls(host, port, parts[0], connections, seconds, rate, later_segments=later)


class Saw(msgspec.Struct):
    """What came of it."""

    seconds: float = 0.0
    """From the first request to the last answer, or to the end where that is later."""
    due: int = 0
    sent: int = 0
    """Requests that were sent within the time."""
    waited: int = 0
    """Requests that found all connections waiting for answers."""
    answered: int = 0
    in_time: int = 0
    """How many of these came within the time."""
    errors: dict[str, int] = {}
    counts: list[tuple[int, int]] = []
    """Microseconds, and how many answers took them."""

    @property
    def per_s(self) -> float:
        """Requests answered in a second."""
        return self.answered / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median latency in milliseconds; 0 where nothing was answered."""
        left = sum(count for _, count in self.counts) / 2
        for microseconds, count in self.counts:
            if (left := left - count) <= 0:
                return microseconds / 1000
        return 0.0


def run(load: Load) -> Saw:
    """Make the load in a process of its own. Raises LoadError."""
    done = subprocess.run(
        [sys.executable, "-m", "perf.load.generator"],
        input=msgspec.json.encode(load),
        capture_output=True,
        cwd=ROOT,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise LoadError(said[-1] if said else f"ended with status {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Saw)


class _Connection:
    """One kept connection, with at most one request under way."""

    def __init__(self, load: Load, epoll: select.epoll, by_file: "dict[int, _Connection]") -> None:
        self._load, self._epoll, self._by_file = load, epoll, by_file
        self.due = 0.0
        self.connect()

    def connect(self) -> None:
        address = self._load.host, self._load.port
        self.socket = socket.create_connection(address, timeout=GRACE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._complete, self._keep_alive = False, True
        self._by_file[self.socket.fileno()] = self
        self._epoll.register(self.socket, select.EPOLLIN)

    def send(self, due: float) -> None:
        self.due = due
        self.socket.sendall(self._load.request)
        for segment in self._load.later_segments:
            self.socket.sendall(segment)

    def receive(self) -> int:
        """Take what came; gives the status of a complete answer, 0 while it is not."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        self._parser.feed_data(data)
        if not self._complete:
            return 0
        self._complete = False
        status: int = self._parser.get_status_code()
        if not self._keep_alive:
            self.reconnect()
        return status

    def reconnect(self) -> None:
        self.socket.close()
        self.connect()

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()


def generate(load: Load) -> Saw:
    """Make the load in this process. Raises OSError where nobody listens."""
    saw, counts, clock = Saw(), collections.Counter[int](), time.perf_counter
    errors = collections.Counter[str]()
    epoll, by_file = select.epoll(), dict[int, _Connection]()
    idle = collections.deque(_Connection(load, epoll, by_file) for _ in range(load.connections))
    busy: set[_Connection] = set()
    queue: collections.deque[float] = collections.deque()
    began = clock()
    end = began + load.seconds
    while True:
        now = clock()
        if load.rate is not None:
            while (due := began + saw.due / load.rate) <= now and due < end:
                found_none = len(queue) >= len(idle)
                saw.waited += found_none
                if load.patient:
                    queue.append(due)
                elif not found_none:
                    queue.append(now)
                saw.due += 1
        elif now < end:
            queue.extend([now] * len(idle))
            saw.due += len(idle)
        while queue and idle:
            connection = idle.popleft()
            saw.sent += now < end
            busy.add(connection)
            with contextlib.suppress(OSError):  # the server closed it; reading says so too
                connection.send(queue.popleft())
        if now >= end and (not busy or now >= end + GRACE_S):
            break
        if load.rate is not None and now < end and idle:
            wake = max(0.0, began + saw.due / load.rate - now)
        else:
            wake = max(0.0, end - now) if now < end else GRACE_S
        ready = epoll.poll(0) if select.select([epoll], [], [], wake)[0] else []
        for connection in [by_file[file] for file, _ in ready]:
            try:
                status = connection.receive()
                if not status:
                    continue
                if status == 200:
                    now = clock()
                    saw.in_time += now < end
                    counts[max(1, round((now - connection.due) * 1e6))] += 1
                else:
                    errors[str(status)] += 1
            except (OSError, httptools.HttpParserError):
                errors["connection"] += connection in busy
                connection.reconnect()
            if connection in busy:
                busy.remove(connection)
                idle.append(connection)
    if left := len(busy) + len(queue):
        errors["unanswered"] = left
    saw.seconds = max(clock(), end) - began
    saw.answered, saw.errors, saw.counts = counts.total(), dict(errors), sorted(counts.items())
    return saw


def main() -> None:
    """Read a Load, make it, write what it saw."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    gc.disable()
    try:
        saw = generate(load)
    except OSError as error:
        sys.exit(f"http://{load.host}:{load.port}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.buffer.write(msgspec.json.encode(saw))


if __name__ == "__main__":
    main()
