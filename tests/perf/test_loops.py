"""Load on a server that stalls once: only the open loop sees all of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from perf.load import closed_loop, generator, open_loop
from perf.load.measurement import Measurement
from perf.load.target import Target, TargetError, gateway

ANSWER = b"HTTP/1.1 %s\r\nContent-Length: 2\r\n%s\r\n{}"
STALL_S = 0.6


@contextmanager
def server(answer: Callable[[int], bytes]) -> Iterator[Target]:
    """Serve one request at a time on many connections; `answer` gets the number of each."""
    lock, count = threading.Lock(), 0

    def serve(connection: socket.socket) -> None:
        nonlocal count
        with connection, contextlib.suppress(OSError):  # the load is over
            while (head := connection.recv(1 << 16)).startswith(b"POST /predict"):
                assert head.endswith(b"}")
                with lock:
                    count += 1
                    said = answer(count)
                connection.sendall(said)
                if b"close" in said:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield Target(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)


def _stall(number: int) -> bytes:
    if number == 50:
        time.sleep(STALL_S)
    return ANSWER % (b"200 OK", b"")


def _over(measurement: Measurement, ms: float) -> int:
    return sum(count for us, count in measurement.histogram if us >= ms * 1000)


def test_a_stall_is_in_every_request_that_was_due() -> None:
    with server(_stall) as target:
        measurement = open_loop.run(target, rate=200, seconds=1.5, connections=4)
    assert measurement.loop == "open"
    assert measurement.requests == 300
    assert not measurement.errors
    # 0.6 s at 200/s: the first was held up for all of it, the others for what was left.
    assert measurement.latency_ms.max >= 0.95 * STALL_S * 1000
    assert _over(measurement, 200) >= 70
    assert measurement.queued >= 100


def test_a_closed_loop_sees_it_once_for_each_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without wrk
    with server(_stall) as target:
        measurement = closed_loop.run(target, connections=2, seconds=1.5)
    assert (measurement.loop, measurement.tool) == ("closed", "perf.load.generator")
    assert measurement.requests > 50
    assert 1 <= _over(measurement, 0.9 * STALL_S * 1000) < 20


def test_what_can_not_be_kept_up_is_said() -> None:
    def slow(_: int) -> bytes:
        time.sleep(0.01)
        return ANSWER % (b"200 OK", b"")

    with server(slow) as target:
        measurement = open_loop.run(target, rate=1000, seconds=1, connections=2)
    assert measurement.sent_per_s is not None
    assert measurement.sent_per_s < 150
    said = open_loop.trouble(measurement)
    assert said is not None
    assert said.startswith("asked for 1000 requests/s, and only ")
    assert said.endswith("all connections awaited answers")
    assert measurement.errors["unanswered"] > 500


def test_errors_are_counted_by_status_and_are_in_no_latency() -> None:
    def every_third(number: int) -> bytes:
        return ANSWER % ((b"200 OK", b"") if number % 3 else (b"503 Away", b""))

    with server(every_third) as target:
        measurement = open_loop.run(target, rate=300, seconds=0.5, connections=4)
    assert measurement.errors == {"503": 50}
    assert measurement.requests == sum(count for _, count in measurement.histogram) == 100


def test_connections_that_the_server_closes_are_made_again() -> None:
    def closing(number: int) -> bytes:
        return ANSWER % (b"200 OK", b"" if number % 5 else b"Connection: close\r\n")

    with server(closing) as target:
        measurement = open_loop.run(target, rate=200, seconds=0.5, connections=2)
    assert measurement.requests == 100
    assert not measurement.errors


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    target = Target(url)
    with pytest.raises(generator.LoadError, match="refused"):
        open_loop.run(target, 10, 1)
    with pytest.raises(TargetError, match="no answer"):
        gateway(url)


def test_all_failed_is_no_measurement() -> None:
    with (
        server(lambda _: ANSWER % (b"500 No", b"")) as target,
        pytest.raises(generator.LoadError, match="no request was answered: .*500"),
    ):
        open_loop.run(target, 50, 0.2)


def test_generator_ends_with_what_it_was_told_not_to_reach() -> None:
    with pytest.raises(generator.LoadError, match="127.0.0.1:1"):
        generator.run(generator.Load("127.0.0.1", 1, b"", 1, 1.0))
