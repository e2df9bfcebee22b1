"""Every form of the same request, from the tools and clients that send them, to the real stack."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import httptools
import msgspec
import pytest

from perf.bench import request_forms
from perf.bench.request_forms import BODY, FORMS, MSGPACK, Form
from perf.load import generator
from perf.load.generator import Saw
from perf.studies import proxies
from perf.studies import request_forms as study
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
def urls(gateway_url: str) -> Iterator[dict[str | None, str]]:
    with ExitStack() as stack:
        with needed():
            started = {
                name: stack.enter_context(proxies.proxy(name, gateway_url))
                for name in proxies.PROXIES
            }
        yield {None: gateway_url, **started}


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


def check(came: Saw, connections: int) -> None:
    assert not came.errors
    assert came.answered >= connections
    assert came.per_s > 0
    assert came.p50_ms > 0


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_the_generator_sends_each_form(form: Form, stack: Stack) -> None:
    with ExitStack() as ends:
        row = study.begin(form, stack.gateway_url, ends)
        with needed():
            if row.left_out:
                raise proxies.MissingError(row.left_out)
        for connections in study.COUNTS:
            check(row.measure(connections, SECONDS, stack.process.pid), connections)
    assert len(row.gateway_us) == len(row.rates()) == 1
    assert all(0 < used < 100_000 for used in row.gateway_us)


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
        came = form.run(f"http://127.0.0.1:{listener.getsockname()[1]}", 1, 0.1)
        thread.join(10)
    assert (came.answered, came.errors) == (requests, {})
    assert requests
    # On a busy machine the kernel sends a segment twice now and then.
    assert received // requests == form.segments


@pytest.mark.reliability
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


def test_the_table_says_what_was_left_out(
    gateway_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = study.Row(FORMS[0])
    for runs in taken.runs.values():
        for us, rate in ((500, 100), (700, 200)):
            runs.append(Saw(60 / rate, answered=60, errors={"503": 1}, counts=[(us, 60)]))
    taken.gateway_us += [30.0, 40.0]

    with ExitStack() as ends:
        refused = study.begin(replace(FORMS[6], media_type="text/plain"), gateway_url, ends)
        monkeypatch.setattr(proxies, "PROXIES", {"no-such-program": proxies.PROXIES["nginx"]})
        absent = study.begin(replace(FORMS[7], proxy="no-such-program"), gateway_url, ends)
    _, _, first, second, third = study.table([taken, refused, absent]).markdown().splitlines()
    assert first == (
        f"| {NAMES[0]} | 150 (100–200) | 0.60 (0.50–0.70) | 35.0 (30.0–40.0) "
        "| 1.00 (1.00–1.00) | 200: 240, 503: 4 |"
    )
    assert second == "| msgpack | – | – | – | – | not taken: 415 |"
    assert third == (
        "| plain, behind nginx | – | – | – | – | not measured: no-such-program is missing: "
        "apt-get install no-such-program |"
    )
