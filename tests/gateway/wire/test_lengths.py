"""A body whose end is in doubt is no request: 400, and the connection ends."""

from __future__ import annotations

import pytest

from tests.gateway.wire.wire import (
    GOOD,
    PROBE,
    Connection,
    check_last,
    chunks,
    head,
    request,
)

N = len(GOOD)
PLAIN = GOOD
PARTS = chunks(GOOD, 40)

DOUBTFUL: dict[str, tuple[tuple[str, ...], bytes]] = {
    "two equal lengths": ((f"Content-Length: {N}", f"Content-Length: {N}"), PLAIN),
    "two lengths": ((f"Content-Length: {N}", "Content-Length: 5"), PLAIN),
    "two lengths, the first short": (("Content-Length: 5", f"Content-Length: {N}"), PLAIN),
    "two lengths in one line": ((f"Content-Length: {N}, {N}",), PLAIN),
    "length and chunks": ((f"Content-Length: {N}", "Transfer-Encoding: chunked"), PARTS),
    "chunks and length": (("Transfer-Encoding: chunked", f"Content-Length: {len(PARTS)}"), PARTS),
    "length 0 and chunks": (("Content-Length: 0", "Transfer-Encoding: chunked"), PARTS),
    "gzip": (("Transfer-Encoding: gzip",), PLAIN),
    "gzip with a length": (("Transfer-Encoding: gzip", f"Content-Length: {N}"), PLAIN),
    "identity with a length": (("Transfer-Encoding: identity", f"Content-Length: {N}"), PLAIN),
    "chunked, identity": (("Transfer-Encoding: chunked, identity",), PARTS),
    "chunked and identity in two lines": (
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        PARTS,
    ),
    "xchunked": (("Transfer-Encoding: xchunked",), PARTS),
    "a blank before the colon": (("Transfer-Encoding : chunked",), PARTS),
    "a blank before the colon, with a length": (
        ("Transfer-Encoding : chunked", f"Content-Length: {len(PARTS)}"),
        PARTS,
    ),
    "a blank before the length's colon": ((f"Content-Length : {N}",), PLAIN),
    "negative": (("Content-Length: -1",), PLAIN),
    "signed": ((f"Content-Length: +{N}",), PLAIN),
    "empty": (("Content-Length:",), PLAIN),
    "hexadecimal": (("Content-Length: 0x10",), PLAIN),
    "a fraction": ((f"Content-Length: {N}.0",), PLAIN),
    "two words": ((f"Content-Length: {N} {N}",), PLAIN),
    "25 digits": (("Content-Length: " + "9" * 25,), PLAIN),
    "25 digits, most of them 0": ((f"Content-Length: {N:025}",), PLAIN),
    "4,300 digits": (("Content-Length: " + "1" * 4300,), PLAIN),
    "20 digits, beyond 64 bits": (("Content-Length: 18446744073709551616",), PLAIN),
}
ROUTES = (("POST", "/predict"), ("GET", "/livez"), ("POST", "/nothing"))


@pytest.mark.parametrize(("method", "target"), ROUTES, ids=[target for _, target in ROUTES])
@pytest.mark.parametrize(("lines", "body"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_is_refused(
    gateway_url: str, lines: tuple[str, ...], body: bytes, method: str, target: str
) -> None:
    with Connection(gateway_url) as connection:
        connection.send(head(*lines, method=method, target=target) + body)
        check_last(connection, 400, "HTTP_ERROR")


@pytest.mark.parametrize(("lines", "body"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_nothing_behind_it_is_answered(
    gateway_url: str, lines: tuple[str, ...], body: bytes
) -> None:
    """Behind a good request, in segments, with a good one behind."""
    with Connection(gateway_url) as connection:
        top = head("Accept: */*", *lines)
        connection.send(request() + top[:-2])
        assert connection.answer().status == 200
        connection.send(top[-2:] + body + PROBE * 3)
        check_last(connection, 400, "HTTP_ERROR")


@pytest.mark.parametrize("size", [b"-1", b"+5", b"zz", b"", b"0x5", b"f" * 17, b" 5"])
def test_a_chunk_whose_size_is_no_number(gateway_url: str, size: bytes) -> None:
    with Connection(gateway_url) as connection:
        top = head("Transfer-Encoding: chunked")
        connection.send(top + b"5\r\n     \r\n" + size + b"\r\n" + GOOD + b"\r\n0\r\n\r\n" + PROBE)
        check_last(connection, 400, "HTTP_ERROR")
