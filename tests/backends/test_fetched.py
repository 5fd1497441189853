"""Fetching a file of another project: from a real server on this machine, with everything that can go wrong."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_fer.backends import fetched
from edge_fer.backends.fetched import FILES, Remote
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, DeviceError, UsageError

CONTENT = bytes(range(256)) * 400


class Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/broken" else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_FER_FETCHED", str(tmp_path))
    return tmp_path


def remote(address: str, *, content: bytes = CONTENT, most: int = 1 << 20) -> Remote:
    return Remote(address, hashlib.sha256(content).hexdigest(), most, "MIT", "https://example.org")


def test_a_file_is_kept_under_its_name_and_fetched_once(
    address: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "thing", remote(f"{address}/thing.onnx"))
    with pytest.raises(BadInputError, match="has not been fetched") as caught:
        fetched.fetched("thing")
    assert "edge-fer fetch thing" in str(caught.value)
    seen: list[int] = []
    path = fetched.fetch("thing", progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert fetched.fetched("thing") == path == store / "thing.onnx"
    monkeypatch.setitem(FILES, "thing", remote("http://127.0.0.1:1/thing.onnx"))
    assert fetched.fetch("thing") == path
    path.write_bytes(b"edited")
    with pytest.raises(BadInputError, match="is not the file that was fetched"):
        fetched.fetched("thing")


@pytest.mark.parametrize(
    ("path", "content", "most", "error", "said"),
    [
        ("/thing.onnx", b"something else", 1 << 20, BadInputError, "is not the file that this version knows"),
        ("/thing.onnx", CONTENT, 1000, BadInputError, "gives more than the 1000 bytes"),
        ("/gone", CONTENT, 1 << 20, DeviceError, "could not be read"),
        ("/broken", CONTENT, 1 << 20, (DeviceError, BadInputError), "could not be read|is not the file"),
    ],
)
def test_what_is_not_the_file_is_refused_and_nothing_is_left(
    address: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    content: bytes,
    most: int,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setitem(FILES, "thing", remote(address + path, content=content, most=most))
    with pytest.raises(error, match=said):
        fetched.fetch("thing")
    assert list(store.iterdir()) == []


def test_no_network_is_one_sentence_with_the_way_around(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setitem(FILES, "thing", remote(f"http://127.0.0.1:{held.getsockname()[1]}/x.onnx"))
        with pytest.raises(DeviceError, match="could not be read") as caught:
            fetched.fetch("thing")
    assert "--detector thing=FILE" in str(caught.value)


def test_an_answer_that_is_not_http_is_one_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as caller:
                caller.recv(1 << 16)
                caller.sendall(b"220 mail.example.org ready\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setitem(FILES, "thing", remote(f"http://127.0.0.1:{server.getsockname()[1]}/x.onnx"))
        with pytest.raises(DeviceError, match="could not be read"):
            fetched.fetch("thing")
    assert list(store.iterdir()) == []


def test_a_place_that_takes_no_files_is_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGE_FER_FETCHED", str(tmp_path / "file" / "below"))
    monkeypatch.setitem(FILES, "thing", remote(f"{address}/thing.onnx"))
    with pytest.raises(BadInputError, match=r"Not a directory|File exists"):
        fetched.fetch("thing")


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_command_says_licence_source_and_how_to_use_it(
    name: str, address: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, name, remote(f"{address}/{Path(FILES[name].address).name}"))
    done = CliRunner().invoke(app, ["fetch", name])
    assert done.exit_code == 0, done.output
    assert "MIT" in done.output
    assert f"edge-fer run --detector {name}" in done.output
    with pytest.raises(UsageError, match="nothing to fetch by the name 'nonsense'"):
        fetched.fetch("nonsense")


def test_published_addresses_are_pinned_and_encrypted() -> None:
    for name, file in FILES.items():
        assert file.address.startswith("https://"), name
        assert len(file.sha256) == 64, name
        assert "/main/" not in file.address.split("/models/")[0], "a branch moves"
