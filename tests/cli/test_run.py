"""``edge-fer run`` as a user runs it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest

from edge_fer.backends.registry import open_engine
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle

FAST = ("--backend", "onnxruntime", "--precision", "int8", "--no-show")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_fer", "run", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=280, env={**os.environ, **environment}
    )


def count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def test_a_narrow_terminal_cuts_no_figure_off() -> None:
    done = run("--demo", *FAST, "--max-frames", "5", COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    (detect,) = (line.split() for line in done.stdout.splitlines() if line.startswith("detect "))
    assert len([float(figure) for figure in detect[1:]]) == 4


def test_the_demo_is_labelled_frame_by_frame(tmp_path: Path) -> None:
    lines, table, video = tmp_path / "out.jsonl", tmp_path / "out.csv", tmp_path / "out.mp4"
    done = run(
        "--demo", *FAST, "--max-frames", "40", "--jsonl", str(lines), "--csv", str(table), "--save", str(video)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(40))
    for record in records:
        assert set(record) == {"frame", "time_ms", "age_ms", "faces"}
        (face,) = record["faces"]
        assert set(face) >= {"track", "box_xyxy", "label", "scores"}
        assert face["track"] == 1
        assert face["label"] == "happy"
        assert sum(face["scores"].values()) == pytest.approx(1, abs=0.01)
        left, top, right, bottom = face["box_xyxy"]
        assert 0 < left < right < 960
        assert 0 < top < bottom < 540
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 40
    assert count_frames(video) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.csv", "out.mp4"}
    for word in ("fps", "frame age", "p99", "happy"):
        assert word in done.stdout


def test_the_summary_as_json_accounts_for_every_frame() -> None:
    done = run("--demo", *FAST, "--max-frames", "20", "--json")
    record = json.loads(done.stdout)
    assert (record["frames"], record["dropped"]) == (20, 0)
    assert (record["backend"], record["precision"]) == ("onnxruntime", "int8")
    assert record["tracks"][0]["label"] == "happy"
    assert set(record["stages_ms"]) == {"wait", "detect", "follow", "crop", "infer", "track"}
    assert record["detections"] < 20
    assert record["failed"] == 0
    for stage in record["stages_ms"].values():
        assert stage["p50"] <= stage["p90"] <= stage["p99"] <= stage["max"]


def test_lines_go_to_standard_output_and_all_else_beside_it(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--demo", *FAST, "--max-frames", "10", "--jsonl", "-"), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(10))
    assert "frame age" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_ends_the_run() -> None:
    with subprocess.Popen(
        command("--demo", *FAST, "--csv", "-"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        assert done.stdout.readline().startswith(b"frame,")
        done.stdout.close()
        told = done.stderr.read().decode()
    assert done.returncode == 4
    assert "Nobody reads standard output any more" in told
    assert "Traceback" not in told


def test_a_missing_camera_is_told_before_an_engine_is_built(tmp_path: Path) -> None:
    done = run("--camera", "97", "--no-show", EDGE_FER_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 3
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_face_crops_needs_no_detector(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((48, 48), 90 + index, np.uint8))
    done = run("--source", str(tmp_path), "--detector", "none", *FAST, "--json")
    assert json.loads(done.stdout)["faces"] == 3


def test_pictures_become_a_video_that_can_be_looked_at(tmp_path: Path) -> None:
    """One a second, as the window shows them and as their times say; at a camera's rate nobody would see one."""
    video = cv2.VideoCapture(str(DEMO))
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), video.read()[1])
    video.release()
    ended = run("--source", str(tmp_path), *FAST, "--save", str(tmp_path / "out.mp4"))
    assert ended.returncode == 0, ended.stderr
    written = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert (written.get(cv2.CAP_PROP_FPS), written.get(cv2.CAP_PROP_FRAME_COUNT)) == (1, 3)
    written.release()


def test_a_built_engine_is_taken_as_it_is(shipped: Bundle, tmp_path: Path) -> None:
    open_engine(shipped, backend="onnxruntime", precision="int8", cache=tmp_path).close()
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    done = run("--demo", "--no-show", "--engine", str(folder), "--max-frames", "3", "--json")
    assert json.loads(done.stdout)["precision"] == "int8"
    other = run("--demo", "--no-show", "--engine", str(folder), "--precision", "fp32")
    assert other.returncode == 3
    assert "int8" in other.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP")])
def test_an_interrupted_run_leaves_whole_files(tmp_path: Path, number: signal.Signals) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    demo = "synthetic:" + str(Path(sys.modules["edge_fer"].__file__ or "").parent / "runtime/assets/demo.mp4")
    arguments = ("--source", demo, *FAST, "--jsonl", str(lines), "--save", str(video))
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        # The files grow under temporary names; the first lines tell that the loop runs.
        growing = list(tmp_path.glob(".out*.jsonl"))
        if growing and growing[0].stat().st_size > 2000:
            break
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(records) > 3
    assert count_frames(video) > 0
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.mp4"}
    assert "frame age" in output


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP")])
def test_a_request_to_end_before_the_first_frame_is_one_sentence(number: signal.Signals) -> None:
    """A server that takes the call and says nothing: FFmpeg waits for it, and hears no signal."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/film.mp4"
        process = subprocess.Popen(
            command("--source", address, *FAST), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(240)
        with silent.accept()[0]:
            process.send_signal(number)
            output, errors = process.communicate(timeout=240)
    assert (process.returncode, output, errors) == (130, "", "edge-fer: interrupted.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--no-show",), 2, "--demo"),
        (("--demo", "--camera", "0"), 2, "Only one of"),
        (("--camera", "97", "--no-show"), 3, "camera 97 cannot be opened"),
        (("--camera", "97", "--camera-size", "huge", "--no-show"), 2, "WIDTHxHEIGHT"),
        (("--demo", "--no-show", "--detect-every", "0"), 2, "auto or a number"),
        (("--demo", "--no-show", "--detector", "retina"), 2, "Unknown detector"),
        (("--demo", "--no-show", "--detector", "yunet=missing.onnx"), 3, "missing.onnx"),
        (("--demo", *FAST, "--save", "out.avi"), 2, "MP4"),
        (("--demo", *FAST, "--jsonl", "no/such/folder/out.jsonl"), 3, "mkdir -p no/such/folder"),
        (("--source", __file__, "--no-show"), 3, "not a video"),
        (("--demo", *FAST, "--jsonl", "same.txt", "--csv", "same.txt"), 2, "same file"),
        (("--demo", *FAST, "--jsonl", "."), 3, "is a folder"),
        (("--demo", *FAST, "--summary", "no/such/folder/s.json"), 3, "s.json"),
        (("--demo", *FAST, "--summary", "-"), 2, "--json"),
        (("--demo", *FAST, "--timeline", "scores.pdf"), 2, "PNG"),
        (("--demo", *FAST, "--summary", "same.png", "--timeline", "same.png"), 2, "same file"),
        (("--demo", *FAST, "--jsonl", "-", "--json"), 2, "standard output"),
        (("--source", "-", *FAST), 2, "--raw"),
        (("--demo", "--raw", "64x48:gray", *FAST), 2, "--source -"),
        (("--source", "-", "--raw", "64x48:bgr99", *FAST), 2, "bgr99"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_an_output_that_cannot_be_opened_leaves_nothing_of_the_others(tmp_path: Path) -> None:
    done = run("--demo", *FAST, "--jsonl", str(tmp_path / "a.jsonl"), "--csv", str(tmp_path / "no" / "a.csv"))
    assert done.returncode == 3, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a display is asked of the environment on Linux only")
def test_a_window_without_a_display_names_the_way_out() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(command("--demo", "--show"), capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 4
    assert "--no-show" in done.stderr


@pytest.fixture
def virtual_screen() -> Iterator[str]:
    """A real X server without a monitor; skipped where there is none."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as answer:
        number = answer.readline().strip()
    if not number:
        server.kill()
        server.wait()
        pytest.fail("Xvfb did not start")
    yield f":{number}"
    server.terminate()
    server.wait(timeout=20)


def test_the_window_shows_the_labelled_clip(virtual_screen: str, tmp_path: Path) -> None:
    """The window's thread runs SDL for real; what it skipped, it counted."""
    done = run(
        "--demo", "--show", "--backend", "onnxruntime", "--precision", "int8", "--max-frames", "45", "--json",
        DISPLAY=virtual_screen, SDL_VIDEODRIVER="x11",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    (window,) = record["sinks"]
    assert window["name"] == "window"
    assert window["written"] > 0
    assert window["written"] + window["dropped"] == 45


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount a tiny disk")
@pytest.mark.parametrize(("option", "size"), [("--jsonl", "16k"), ("--csv", "16k"), ("--save", "16600k")])
def test_a_full_disk_is_one_sentence_and_what_was_written_is_whole(tmp_path: Path, option: str, size: str) -> None:
    """An hour's recording is not thrown away because its last second had no room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        path = disk / "out.mp4"
        done = run("--demo", *FAST, option, str(path))
        assert done.returncode == 4, done.stderr
        assert f"No space left while writing {path}: it ends" in done.stderr
        assert [found.name for found in disk.iterdir()] == ["out.mp4"]
        if option == "--save":
            written = count_frames(path)
        elif option == "--csv":
            assert path.read_text().endswith("\n")
            rows = list(csv.DictReader(path.read_text().splitlines()))
            assert all(None not in row.values() for row in rows)
            written = len(rows)
        else:
            written = len([json.loads(line) for line in path.read_text().splitlines()])
        assert 5 < written < 300
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit there")
@pytest.mark.parametrize(("option", "name"), [("--jsonl", "out.jsonl"), ("--csv", "out.csv"), ("--save", "out.mp4")])
def test_a_file_that_may_not_grow_any_larger_is_whole(tmp_path: Path, option: str, name: str) -> None:
    """By the shell's limit here; on a memory card it is the 4 GiB of FAT."""
    limit, path = {"--jsonl": 40_000, "--csv": 15_000, "--save": 1_500_000}[option], tmp_path / name
    assert run("--demo", *FAST, "--max-frames", "1").returncode == 0, "engines, which are larger, are built before"
    lowered = f'ulimit -S -f {limit // 1000} && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", lowered, "limited", *command("--demo", *FAST, option, str(path))],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 4, done.stderr
    assert f"{path} is as large as a file may be there: it ends" in done.stderr
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size <= limit // 1000 * 1024
    if option == "--save":
        assert count_frames(path) > 50
    else:
        lines = path.read_text().splitlines(keepends=True)
        assert len(lines) > 50
        assert lines[-1].endswith("\n")


def test_the_summary_file_and_the_time_line_hold_the_whole_video(tmp_path: Path) -> None:
    summary, picture = tmp_path / "summary.json", tmp_path / "scores.png"
    done = run("--demo", *FAST, "--max-frames", "30", "--summary", str(summary), "--timeline", str(picture))
    assert done.returncode == 0, done.stderr
    record = json.loads(summary.read_text())
    assert (record["complete"], record["error"], record["frames"]) == (True, None, 30)
    assert record["overall"]["label"] == record["tracks"][0]["label"] == "happy"
    assert sum(record["overall"]["mean_scores"].values()) == pytest.approx(1, abs=1e-4)
    assert record["overall"]["faces"] == 30
    image = cv2.imread(str(picture))
    assert image is not None
    assert "overall: happy" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "scores.png"}


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return bytes(answer.read())


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_a_run_at_once_while_browsers_look(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    arguments = ("--source", "-", "--raw", "160x120:bgr24@30", *FAST, "--detector", "none", "--web", "0")
    process = subprocess.Popen(
        command(*arguments, "--metrics", "0", "--summary", str(summary)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    line = b""
    while b"page: " not in line:
        line = process.stdout.readline()
        assert line, process.communicate()
    page = line.split()[1].decode()
    feeding = threading.Event()
    feeding.set()

    def feed(pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError):
            while feeding.is_set():
                pipe.write(bytes(160 * 120 * 3))
                pipe.flush()
                time.sleep(0.02)

    feeder = threading.Thread(target=feed, args=(process.stdin,), daemon=True)
    feeder.start()
    reading = urllib.request.urlopen(f"{page}scores", timeout=120)
    stuck = socket.create_connection(("127.0.0.1", int(page.rstrip("/").rpartition(":")[2])), timeout=120)
    stuck.sendall(f"GET /video HTTP/1.1\r\nHost: {page.removeprefix('http://').rstrip('/')}\r\n\r\n".encode())
    assert b"emotion recognition system" in get(page)
    while b"event: frame" not in reading.readline():
        pass
    assert b"edge_fer_frames_labelled_total" in get(f"{page}metrics")
    process.send_signal(signal.SIGINT)
    rest = reading.read()
    assert b"event: end" in rest
    feeding.clear()
    feeder.join(120)
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdin = None  # nothing more to send; what is left is to wait
    _, errors = process.communicate(timeout=240)
    stuck.close()
    reading.close()
    assert process.returncode == 0, errors
    assert json.loads(summary.read_text())["complete"] is True


def test_a_port_in_use_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for option in ("--web", "--metrics"):
            done = run("--camera", "97", "--no-show", option, str(port))
            assert done.returncode == 4
            assert f"Port {port}" in done.stderr
            assert "Traceback" not in done.stderr


def test_frames_of_another_program_are_labelled(tmp_path: Path) -> None:
    """What `ffmpeg -f rawvideo` would write: the demo's frames, byte by byte."""
    capture = cv2.VideoCapture(str(DEMO))
    pictures = b"".join(capture.read()[1].tobytes() for _ in range(6))
    capture.release()
    lines = tmp_path / "out.jsonl"
    arguments = command("--source", "-", "--raw", "960x540:bgr24@30", *FAST, "--jsonl", str(lines))
    done = subprocess.run(arguments, input=pictures, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["faces"][0]["label"] for line in lines.read_text().splitlines()] == ["happy"] * 6
    short = subprocess.run(arguments, input=pictures[:-7], capture_output=True, timeout=280)
    assert short.returncode == 3
    assert b"ended inside frame 5" in short.stderr
    assert len(lines.read_text().splitlines()) == 5


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount a tiny disk")
@pytest.mark.parametrize("option", ["--summary", "--timeline"])
def test_a_full_disk_leaves_no_report_behind(tmp_path: Path, option: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (disk / "filler").write_bytes(bytes(4096 if option == "--summary" else 0))
        done = run("--demo", *FAST, "--max-frames", "60", option, str(disk / "out.png"))
        assert done.returncode == 4, done.stderr
        assert "No space left" in done.stderr
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
