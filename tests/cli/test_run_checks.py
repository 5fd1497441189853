"""``edge-fer run`` refuses, before anything is opened, what would be ignored or would destroy what is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.errors import BundleError, EdgeFerError, UsageError

FAST = ("--backend", "onnxruntime", "--precision", "int8", "--no-show", "--max-frames", "3")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["run", *FAST, *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--demo", "--camera-size", "640x480"), "--camera-size is for a camera"),
        (("--demo", "--camera-size", "640x480", "--camera-fps", "60"), "--camera-size and --camera-fps are for"),
        (("--demo", "--reconnect", "3"), "--reconnect is for a camera or a stream"),
        (("--demo", "--allow-smaller-batch"), "--allow-smaller-batch is for a GPU"),
        (("--demo", "--detector", "none", "--min-face", "40"), "--min-face is for a detector that searches"),
        (("--demo", "--min-face", "600"), "No face of --min-face 600 fits a frame of 960x540"),
        (("--demo", "--threads", "100000"), "100000 threads are more than this machine's"),
        (("--demo", "--precision", "int4"), "Unknown precision 'int4'"),
        (("--demo", "--engine", "edge-fer-compct"), "Did you mean edge-fer-compact"),
    ],
)
def test_what_would_do_nothing_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(app, ["run", "--no-show", *arguments], catch_exceptions=False)
    assert says in str(caught.value)


def test_settings_of_a_config_need_no_camera(tmp_path: Path) -> None:
    """A plan names a detector's interval for whatever source; only what is typed is held against the source."""
    (tmp_path / "run.yaml").write_text("detect_every: '3'\nmin_face: 60\n")
    assert "3 frames" in run("--demo", "--config", str(tmp_path / "run.yaml"))


@pytest.mark.parametrize("output", ["--save", "--jsonl", "--summary"])
def test_a_video_is_never_replaced_by_what_is_made_of_it(tmp_path: Path, output: str) -> None:
    clip, link = tmp_path / "clip.mp4", tmp_path / "link.mp4"
    clip.write_bytes(DEMO.read_bytes())
    link.symlink_to(clip)
    for source in (str(clip), f"synthetic:{clip}"):
        for name in (clip, link, tmp_path / "x" / ".." / "clip.mp4"):
            with pytest.raises(UsageError, match="what --source reads"):
                run("--source", source, output, str(name))
    assert clip.read_bytes() == DEMO.read_bytes()


def test_a_picture_of_the_folder_or_pattern_is_never_replaced(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((64, 64, 3), np.uint8))
    for source in (str(tmp_path), str(tmp_path / "*.png")):
        with pytest.raises(UsageError, match="would replace"):
            run("--source", source, "--summary", str(tmp_path / "b.png"))
    with pytest.raises(UsageError, match="same file"):
        run("--demo", "--summary", str(tmp_path / "s.json"), "--jsonl", str(tmp_path / "x" / ".." / "s.json"))


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        run("--demo", "--engine", str(tmp_path / "net.onnx"))


def process(*arguments: str, stdout: object = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_fer", "run", *FAST, *arguments]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=280, env={**os.environ, **environment}
    )  # type: ignore[call-overload]


def test_a_terminal_without_some_letters_is_no_reason_to_end() -> None:
    done = process("--demo", "--precision", "auto", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert "edge-fer-compact" in done.stdout


def test_a_name_that_is_too_long_is_bad_input() -> None:
    for arguments in (("--source", "a" * 300), ("--demo", "--jsonl", "a" * 300)):
        done = process(*arguments)
        assert (done.returncode, "too long" in done.stderr) == (3, True), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_standard_output_is_not_our_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = process("--demo", "--json", stdout=full)
    assert done.returncode == 4
    assert "No space left where standard output goes." in done.stderr
