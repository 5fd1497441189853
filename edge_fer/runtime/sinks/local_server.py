"""A small HTTP server that only this machine reaches, for pages that show what a camera sees.

It answers GET, and POST where a page was given routes for it, one request a connection. What it refuses, and why:

* another ``Host`` than its own address: a page of the web whose name was made to point here (DNS rebinding);
* another ``Origin`` than its own, and what the browser itself calls cross-site: a page of the web that embeds or reads
  this one;
* a POST without the token that only whoever started the server was told: another user of this machine could ask too;
* a POST of another type than JSON or plain bytes, which a form of a foreign page could send, and one that is too large;
* a head of more than 8 KiB, one that takes longer than 5 s, and more connections than a household of browsers needs.

Each connection has a thread of its own, which only ever waits for its own client.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from http import HTTPStatus

from edge_fer.core.errors import DeviceError

ADDRESS = "127.0.0.1"
HEAD_BYTES, HEAD_S = 8192, 5.0
MOST_HEADERS = 100
BODY_S = 20.0
TOKEN_HEADER = "X-Edge-Fer-Token"
BODIES = frozenset({"application/json", "application/octet-stream"})
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


@dataclass(frozen=True)
class Post:
    """What answers a POST: it gets the whole body, of at most so many bytes."""

    answer: Callable[[bytes], Reply]
    most_bytes: int


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
        self._posts: Mapping[str, Post] = {}
        self._token = ""
        self._closing = False
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._streams = 0
        self._thread = threading.Thread(target=self._accept, name="web-accept", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}/"

    def start(self, routes: Mapping[str, Route], posts: Mapping[str, Post] | None = None, *, token: str = "") -> None:
        """Begin to answer.

        Args:
            posts: what answers a POST, by path; then ``token``, which every POST must carry, may not be empty.
        """
        if posts and not token:
            raise ValueError("routes for POST need a token")
        self._routes, self._posts, self._token = routes, posts or {}, token
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
            head, begun = _read_head(client)
            reply = self._find(client, head, begun)
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

    def _find(self, client: socket.socket, head: tuple[str, str, Message], begun: bytes) -> Reply:
        """The answer; ``begun`` is what came of the body together with the head."""
        method, target, headers = head
        if headers.get_all("Host", []) not in [[host] for host in self._hosts]:
            raise _Refused(HTTPStatus.FORBIDDEN, f"This server answers to {self.url} only.")
        if any(origin not in self._origins for origin in headers.get_all("Origin", [])) or _is_foreign(headers):
            raise _Refused(HTTPStatus.FORBIDDEN, "Other sites may not read this one.")
        path = target.partition("?")[0]
        if method == "POST" and path in self._posts:
            return self._posts[path].answer(self._body(client, headers, begun, self._posts[path].most_bytes))
        if method != "GET":
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered.")
        route = self._routes.get(path)
        if route is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"There is nothing here. Known: {', '.join(sorted(self._routes))}")
        return route()

    def _body(self, client: socket.socket, headers: Message, begun: bytes, most_bytes: int) -> bytes:
        """The body of a POST that may ask.

        Raises:
            _Refused: no token, another type, no length, too long, or too slow.
        """
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self._token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "The token is missing: open the address that edge-fer printed.")
        if headers.get_content_type() not in BODIES or "Content-Type" not in headers:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Known types: {', '.join(sorted(BODIES))}.")
        lengths = headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in headers or len(lengths) != 1 or not lengths[0].isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "A POST needs one Content-Length.")
        # Python refuses to read numbers of thousands of digits; nine are more than any page may send.
        if len(lengths[0]) > 9 or int(lengths[0]) > most_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {most_bytes} bytes are taken.")
        length, body = int(lengths[0]), bytearray(begun)
        end = time.perf_counter() + BODY_S
        while len(body) < length:
            client.settimeout(max(1e-3, end - time.perf_counter()))
            try:
                piece = client.recv(min(1 << 16, length - len(body)))
            except TimeoutError:
                raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "The request took too long.") from None
            if not piece:
                raise OSError("closed")
            body += piece
        client.settimeout(SEND_S)
        return bytes(body[:length])


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


def _read_head(client: socket.socket) -> tuple[tuple[str, str, Message], bytes]:
    """Method, target and headers of a request, and what came with them of its body.

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
        if len(data) > HEAD_BYTES and b"\r\n\r\n" not in data:
            raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"More than {HEAD_BYTES} bytes of headers.")
    client.settimeout(SEND_S)
    whole, _, begun = data.partition(b"\r\n\r\n")
    first, _, rest = whole.partition(b"\r\n")
    try:
        method, target, version = first.decode("ascii").split(" ")
    except ValueError:
        raise _Refused(HTTPStatus.BAD_REQUEST, "This is no HTTP request.") from None
    # Headers alone: a parser of whole messages calls a multipart type defective for the parts that are not in the head.
    headers = HeaderParser().parsestr(rest.decode("iso-8859-1"))
    if (
        len(headers) > MOST_HEADERS
        or headers.defects
        or headers.get_payload()
        or whole.count(b"\n") != whole.count(b"\r\n")
    ):
        # What the parser gives up on hides every header after it, Origin among them.
        raise _Refused(HTTPStatus.BAD_REQUEST, "The headers are malformed, or too many.")
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target.startswith("/"):
        raise _Refused(HTTPStatus.BAD_REQUEST, "This is no HTTP/1.1 request for a path.")
    return (method, target, headers), begun


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
