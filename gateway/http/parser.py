"""The request parser of one connection: it bounds heads, and ignores most upgrades."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.exceptions import HTTPException

from gateway.api.paths import PREDICT, STREAM
from gateway.api.request_head import RequestHead

MAX_HEAD_BYTES = 1 << 16
MAX_HEAD_LINES = 200
MAX_LENGTH_DIGITS = 18
"""Digits of a `Content-Length`."""
MAX_AHEAD = 100
"""Requests that a caller may send without waiting for answers."""

_PREDICT, _STREAM = PREDICT.encode(), STREAM.encode()


class RequestParser:
    """Parses requests with httptools.

    It calls `on_request` at the end of each head, `on_body` with each piece of the body, and
    `on_complete` at the request's end. `feed` raises what they raise.
    """

    def __init__(
        self,
        on_request: Callable[[], None],
        on_body: Callable[[bytes], None],
        on_complete: Callable[[], None],
    ) -> None:
        self._on_request = on_request
        self._on_body = on_body
        self._on_complete = on_complete
        self.head = RequestHead(())
        """The last head that was read."""
        self.method = b""
        self.url = b""
        self.keep_alive = False
        """Whether another request may follow."""
        self.in_head = False
        """Whether a head has begun and not ended."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unread = 0
        self._large = False
        self._upgrade = False
        self._begun = 0
        self._new()

    def _new(self) -> None:
        parser: Any = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # it is dropped
        self._parser = parser

    def close(self) -> None:
        """Drop httptools' parser, which refers to this one."""
        self._parser = None

    def feed(self, data: bytes) -> bytes | None:
        """Parse on; return the bytes behind a head that opens a stream, or None without one.

        Raises HTTPException if this is no HTTP or the head is too large, and what the callbacks
        raise.
        """
        self._begun = 0
        while True:
            self._unread += len(data)
            self._large = self._unread > MAX_HEAD_BYTES
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self._opens_stream():
                    return rest
                data = self._without_upgrade() + rest
                continue
            except httptools.HttpParserCallbackError as error:
                cause = error.__context__ or error
                if isinstance(cause, (httptools.HttpParserError, UnicodeError, TypeError)):
                    raise bad_request() from None  # the target is no URL
                raise cause from None
            except httptools.HttpParserError:
                raise bad_request() from None
            if self._unread > MAX_HEAD_BYTES:  # without the end of a head or a piece of a body
                raise head_too_large() if self.in_head else bad_request()
            return None

    def head_so_far(self) -> RequestHead:
        """Return the last head, as far as it was read."""
        return RequestHead(self._headers) if self.in_head else self.head

    def path(self) -> bytes:
        """Return the path of the request's target, without percent-encoding."""
        if self.url == _PREDICT:
            return self.url
        path: bytes = httptools.parse_url(self.url).path or b""
        return unquote(path.decode("ascii")).encode() if b"%" in path else path

    @property
    def http_version(self) -> str:
        """The HTTP version of the request, for example 1.1."""
        version: str = self._parser.get_http_version()
        return version

    def expects_continue(self) -> bool:
        """Return whether the caller waits for `100 Continue` before it sends the body."""
        expect = self.head.found.get(b"expect", b"").lower()
        return expect == b"100-continue" and self.http_version == "1.1"

    def scope(self) -> dict[str, Any]:
        """Return the fields of an ASGI scope that describe the request."""
        url = httptools.parse_url(self.url)
        return {
            "http_version": self.http_version,
            "headers": self.head.pairs,
            "method": self.method.decode("ascii"),
            "path": self.path().decode(),
            "raw_path": url.path or b"",
            "query_string": url.query or b"",
        }

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Begin a request; too many at once would delay other connections."""
        self._begun += 1
        if self._begun > MAX_AHEAD:
            raise bad_request()
        self.url = b""
        self._headers = []
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        headers = self._headers
        headers.append((name.lower(), value))
        if len(headers) > MAX_HEAD_LINES:
            raise head_too_large()

    def on_headers_complete(self) -> None:
        """Check the head, and report the request."""
        self.head = head = RequestHead(self._headers)
        self._headers = []
        self.in_head = False
        if self._large and head.size + len(self.url) > MAX_HEAD_BYTES:
            raise head_too_large()
        self._unread = 0
        parser, found = self._parser, head.found
        self.method = method = parser.get_method()
        if (b"upgrade" in found or method == b"CONNECT") and parser.should_upgrade():
            self._upgrade = True  # `feed` goes on
            return
        if len(found.get(b"content-length", b"")) > MAX_LENGTH_DIGITS:
            raise bad_request()
        self.keep_alive = parser.should_keep_alive() and (
            b"connection" not in found or parser.get_http_version() == "1.1"
        )
        self._on_request()

    def on_body(self, body: bytes) -> None:
        """Report a piece of the body."""
        self._unread = 0
        self._on_body(body)

    def on_message_complete(self) -> None:
        """Report the request's end, unless it is parsed again without its upgrade."""
        self._unread = 0
        if self._headers:  # trailers; they may end the connection
            self.keep_alive = self._parser.should_keep_alive()
        if not self._upgrade:
            self._on_complete()

    # Upgrades, which httptools stops at.

    def _opens_stream(self) -> bool:
        asked = self.head.found.get(b"upgrade", b"").lower()
        return self.method == b"GET" and asked == b"websocket" and self.path() == _STREAM

    def _without_upgrade(self) -> bytes:
        """Return the head without its upgrade."""
        if self.method == b"CONNECT":
            raise bad_request()
        lines = [b"%s %s HTTP/%s\r\n" % (self.method, self.url, self.http_version.encode())]
        lines += [b"%s: %s\r\n" % pair for pair in self.head.pairs if pair[0] != b"upgrade"]
        self._unread = 0
        self._upgrade = False
        self._begun -= 1
        self._new()
        return b"".join((*lines, b"\r\n"))


def bad_request() -> HTTPException:
    """Return the error for bytes that are no HTTP."""
    return HTTPException(400, "the request is not valid HTTP")


def head_too_large() -> HTTPException:
    """Return the error for a head over the limit."""
    return HTTPException(
        431, f"the head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_LINES} lines"
    )
