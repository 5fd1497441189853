"""A small HTTP server that only this machine reaches, for pages that show what a camera sees.

It answers GET and nothing else, one request a connection. What it refuses, and why:

* another ``Host`` than its own address: a page of the web whose name was made to point here (DNS rebinding);
* another ``Origin`` than its own, and what the browser itself calls cross-site: a page of the web that embeds or reads
  this one;
* a head of more than 8 KiB, one that takes longer than 5 s, and more connections than a household of browsers needs.

Each connection has a thread of its own, which only ever waits for its own client.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

from edge_fer.core.errors import DeviceError

ADDRESS = "127.0.0.1"
HEAD_BYTES, HEAD_S = 8192, 5.0
SEND_S = 10.0
"""A client that takes no byte for this long is gone."""
SEND_BUFFER_BYTES = 1 << 18
"""Small, so that a slow client is some pictures behind and not some seconds."""
CONNECTIONS, STREAMS = 32, 24
"""Streams stay open; the rest is left for the page itself and for metrics."""
POLL_S = 0.2
GOODBYE_S = 1.0
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Sent with every answer: nothing is loaded from elsewhere, nothing is embedded elsewhere, nothing is kept."""


@dataclass(frozen=True)
class Reply:
    """An answer. A generator as ``body`` is a stream: it is sent piece by piece and closed when the client leaves."""

    kind: str
    body: bytes | Generator[bytes, None, None]
    status: HTTPStatus = HTTPStatus.OK


Route = Callable[[], Reply]


class _Refused(Exception):  # noqa: N818 (an answer, not an error)
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class LocalServer:
    """Serves routes (a path, without its query, and what answers) on 127.0.0.1.

    The port is taken at once, so that a run which cannot have it ends before the work; answers begin with ``start``.

    Args:
        port: 0 takes any that is free.
        option: the command line's option that asked for it, for messages.

    Raises:
        DeviceError: the port is in use, or not this user's to take.
    """

    def __init__(self, port: int, *, option: str) -> None:
        self._listener = _listen(port, option)
        self.port = int(self._listener.getsockname()[1])
        self._hosts = {f"{name}:{self.port}" for name in (ADDRESS, "localhost")}
        if self.port == 80:
            self._hosts |= {ADDRESS, "localhost"}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._routes: Mapping[str, Route] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._streams = 0
        self._thread = threading.Thread(target=self._accept, name="web-accept", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}/"

    def start(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._thread.start()

    def close(self) -> None:
        """Stop listening, give open streams a moment to end by themselves, then cut them. Takes about a second."""
        self._closing = True
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        end = time.perf_counter() + GOODBYE_S
        for cut in (False, True):
            with self._lock:
                clients = dict(self._clients)
            for client in clients if cut else ():
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            for thread in clients.values():
                thread.join(max(0.0, end - time.perf_counter()) + (POLL_S if cut else 0.0))

    # The accepting thread.

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                # The other side gave up already, or this process has no descriptor left: neither ends the run.
                time.sleep(POLL_S)
                continue
            client.settimeout(SEND_S)
            thread = threading.Thread(target=self._serve, args=(client,), name="web-client", daemon=True)
            with self._lock:
                full = len(self._clients) >= CONNECTIONS
                if not full:
                    self._clients[client] = thread
            if full:
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.sendall(_head(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", 0))
                client.close()
            else:
                thread.start()

    # A client's thread.

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):
                self._answer(client)
                _part(client)
        finally:
            with self._lock:
                del self._clients[client]

    def _answer(self, client: socket.socket) -> None:
        try:
            reply = self._find(_read_head(client))
        except _Refused as refused:
            reply = Reply("text/plain; charset=utf-8", f"{refused.why}\n".encode(), refused.status)
        if isinstance(reply.body, bytes):
            client.sendall(_head(reply.status, reply.kind, len(reply.body)) + reply.body)
            return
        with contextlib.closing(reply.body) as stream, self._stream() as free:
            if not free:
                client.sendall(_head(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", 0))
                return
            client.sendall(_head(reply.status, reply.kind, None))
            for piece in stream:
                client.settimeout(SEND_S)
                client.sendall(piece)

    @contextlib.contextmanager
    def _stream(self) -> Generator[bool, None, None]:
        with self._lock:
            free = self._streams < STREAMS
            self._streams += free
        try:
            yield free
        finally:
            with self._lock:
                self._streams -= free

    def _find(self, head: tuple[str, str, Message]) -> Reply:
        method, target, headers = head
        if headers.get_all("Host", []) not in [[host] for host in self._hosts]:
            raise _Refused(HTTPStatus.FORBIDDEN, f"This server answers to {self.url} only.")
        if any(origin not in self._origins for origin in headers.get_all("Origin", [])) or _is_foreign(headers):
            raise _Refused(HTTPStatus.FORBIDDEN, "Other sites may not read this one.")
        if method != "GET":
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered.")
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"There is nothing here. Known: {', '.join(sorted(self._routes))}")
        return route()


def _listen(port: int, option: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # another program could otherwise listen on the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # a port that was just left can be taken again at once
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((ADDRESS, port))
        listener.listen(CONNECTIONS)
        listener.settimeout(POLL_S)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise DeviceError(
                f"Port {port} of {ADDRESS} is in use by another program.",
                fix=f"Choose another one: {option} {port + 1 if port < 65535 else port - 1}, or {option} 0 for any.",
            ) from None
        raise DeviceError(
            f"Port {port} of {ADDRESS} cannot be taken: {error.strerror}.", fix=f"Choose one above 1023: {option} 8080"
        ) from None
    return listener


def _read_head(client: socket.socket) -> tuple[str, str, Message]:
    """Method, target and headers of a request.

    Raises:
        _Refused: too long, too slow, or not HTTP.
        OSError: the client left.
    """
    end, data = time.perf_counter() + HEAD_S, b""
    while b"\r\n\r\n" not in data:
        client.settimeout(max(1e-3, end - time.perf_counter()))
        try:
            piece = client.recv(HEAD_BYTES + 1 - len(data))
        except TimeoutError:
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "The request took too long.") from None
        if not piece:
            raise OSError("closed")
        data += piece
        if len(data) > HEAD_BYTES:
            raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"More than {HEAD_BYTES} bytes of headers.")
    client.settimeout(SEND_S)
    first, _, rest = data.partition(b"\r\n")
    try:
        method, target, version = first.decode("ascii").split(" ")
        headers = http.client.parse_headers(io.BytesIO(rest))
    except (ValueError, http.client.HTTPException):
        raise _Refused(HTTPStatus.BAD_REQUEST, "This is no HTTP request.") from None
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target.startswith("/"):
        raise _Refused(HTTPStatus.BAD_REQUEST, "This is no HTTP/1.1 request for a path.")
    return method, target, headers


def _is_foreign(headers: Message) -> bool:
    """Whether the browser says that another site asks, for something else than to show it in a tab of its own."""
    if headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none"):
        return False
    return not (headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document")


def _head(status: HTTPStatus, kind: str, length: int | None) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Connection: close", f"Content-Type: {kind}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET")
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _part(client: socket.socket) -> None:
    """End the connection so that what was sent arrives: closing with bytes unread would discard it (RFC 9112, 9.6)."""
    client.shutdown(socket.SHUT_WR)
    client.settimeout(POLL_S)
    for _ in range(8):
        if not client.recv(HEAD_BYTES):
            break
