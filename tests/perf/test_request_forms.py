"""Every form of the same request, from the tools and clients that send them, to the real stack."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httptools
import msgspec
import pytest

from perf.bench import request_forms
from perf.load import generator
from perf.load.generator import Saw
from perf.load.request_forms import BODY, FORMS, MSGPACK, Form
from perf.studies import proxies
from perf.studies.request_forms import __main__ as study
from perf.studies.request_forms import clients
from tests.stack import Stack

SECONDS = 0.2
NAMES = [form.name for form in FORMS]


@contextmanager
def needed() -> Iterator[None]:
    """Skip where a program is missing, and say which; fail where CI is set."""
    try:
        yield
    except proxies.MissingError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def rows(gateway_url: str, ends: ExitStack) -> dict[str, tuple[study.Row, study.Row]]:
    """Each form by the generator and by wrk, behind its proxy."""
    pairs = study.form_rows(FORMS, gateway_url, ends)
    return dict(zip(NAMES, pairs, strict=True))


@pytest.fixture(scope="module")
def urls(gateway_url: str, ends: ExitStack) -> dict[str | None, str]:
    with needed():
        started = {
            name: ends.enter_context(run(gateway_url)) for name, run in study.PROXIES.items()
        }
    return {None: gateway_url, **started}


class Answer:
    """The first answer to a load's request, sent as the generator sends it."""

    def __init__(self, load: generator.Load) -> None:
        self.content, self.headers, self.complete = b"", dict[str, str](), False
        parser = httptools.HttpResponseParser(self)
        with socket.create_connection((load.host, load.port), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for segment in (load.request, *load.later_segments):
                connection.sendall(segment)
            while not self.complete:
                data = connection.recv(1 << 16)
                assert data, "the connection was closed"
                parser.feed_data(data)
        self.status = str(parser.get_status_code())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def action(self) -> dict[str, float]:
        decode = msgspec.msgpack.decode if MSGPACK in self.headers["content-type"] else json.loads
        (action,) = decode(self.content)["actions"]
        return action


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_each_form_gets_the_same_action(form: Form, urls: dict[str | None, str]) -> None:
    plain = Answer(FORMS[0].load(urls[None], 1, SECONDS))
    answer = Answer(form.load(urls[form.proxy], 1, SECONDS))
    assert (plain.status, answer.status) == ("200", "200")
    assert answer.action == plain.action


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("connections", study.CONNECTIONS)
def test_the_generator_sends_each_form(
    form: Form, connections: int, rows: dict[str, tuple[study.Row, study.Row]], stack: Stack
) -> None:
    row, _ = rows[form.name]
    with needed():
        if row.drive is None:
            raise proxies.MissingError(row.left_out)
    came = row.measure(connections, SECONDS, stack.process.pid)
    assert not came.errors
    assert came.answered >= connections
    assert came.per_s > 0
    assert came.p50_ms > 0
    assert all(0 < used < 100_000 for used in row.gateway_us)
    assert len(row.gateway_us) == len(row.rates())


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form.of_wrk], ids=lambda form: form.name
)
def test_wrk_sends_what_it_can_spell(form: Form, urls: dict[str | None, str]) -> None:
    with needed():
        came = study.by_wrk(form, urls[form.proxy], 4, 1)
    assert came.answered > 0
    assert not came.errors


@pytest.mark.parametrize("name", list(clients.CLIENTS))
def test_a_client_is_always_answered(name: str, gateway_url: str) -> None:
    with needed(), clients.CLIENTS[name](gateway_url) as drive:
        for connections in study.CONNECTIONS:
            came = drive(connections, SECONDS)
            assert not came.errors
            assert came.answered >= connections
            assert came.per_s > 0
            assert came.p50_ms > 0


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form.held and not form.chunked], ids=lambda form: form.name
)
def test_segments_leave_apart(form: Form) -> None:
    """As the kernel counts what a connection received."""
    requests, received = 0, 0

    def serve(listener: socket.socket) -> None:
        nonlocal requests, received
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                while not data.endswith(b"\r\n\r\n" + BODY):
                    data += connection.recv(1 << 16)
                requests += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            (received,) = struct.unpack_from("=I", told, 152)  # tcpi_data_segs_in

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        came = study.by_generator(form, f"http://127.0.0.1:{listener.getsockname()[1]}", 1, 0.1)
        thread.join(10)
    assert (came.answered, came.errors) == (requests, {})
    assert requests
    # On a busy machine the kernel sends a segment twice now and then.
    assert received // requests == form.segments


def test_the_gate_asks_in_every_form() -> None:
    said: list[str] = []
    found = request_forms.check_forms(said.append, rounds=1, seconds=SECONDS)
    assert len(said) == sum(form.held for form in FORMS)
    assert not [line for line in found if "failed" in line]  # slow ones there may be, in so short


def test_the_gate_names_slow_forms() -> None:
    even = {form.name: [100.0, 95.0, 105.0] for form in FORMS if form.held}
    assert request_forms.slow(even) == {}
    assert request_forms.slow({**even, NAMES[1]: [91.0, 92.0, 90.5]}) == {}
    assert request_forms.slow({**even, NAMES[1]: [50.0, 95.0, 45.0]}) == {NAMES[1]: 0.5}


def test_the_tables_say_what_was_left_out() -> None:
    taken, wrk = study.Row(NAMES[0]), study.Row(NAMES[0], lambda *_: Saw(1.0))
    for row, good, errors in ((taken, 60, {"503": 1}), (wrk, 40, {})):
        for runs in row.runs.values():
            for us, rate in ((500, 100), (700, 200)):
                runs.append(Saw(good / rate, answered=good, errors=errors, counts=[(us, good)]))
        row.gateway_us += [30.0, 40.0]
    refused = study.Row(NAMES[6], lambda *_: Saw(1.0, errors={"415": 9}))
    refused.try_out()

    def missing(*_: object) -> Saw:
        proxies.program("no-such-program")
        raise AssertionError

    absent = study.Row("a client", missing)
    absent.try_out()
    table = study.form_table([(taken, wrk), (refused, study.Row(""))])
    _, _, first, second = table.markdown().splitlines()
    assert first == (
        f"| {NAMES[0]} | 150 (100–200) | 1.00 (1.00–1.00) | 0.60 (0.50–0.70) | 35.0 (30.0–40.0) "
        "| 150 (100–200) | 0.60 (0.50–0.70) | 200: 240, 503: 4; of wrk all 160 were 200 |"
    )
    assert second == "| msgpack | – | – | – | – | – | – | not taken: 415 |"
    (*_, line) = study.client_table([absent]).markdown().splitlines()
    assert line == (
        "| a client | – | – | – | not measured: no-such-program is missing: "
        "apt-get install no-such-program |"
    )
