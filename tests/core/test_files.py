"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_fer.core import files
from edge_fer.core.errors import BadInputError, BundleError, DeviceError
from edge_fer.core.files import atomic_file, atomic_folder, check_writable, inside, locked


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_file(target) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_full_disk_is_one_sentence_and_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No space left") as caught, atomic_file(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_reported_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No space left"), atomic_file(tmp_path / "a.bin") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 10_000)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how a disk is formatted")
def test_the_largest_file_is_known_where_a_disk_is_fat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of mounts as proc(5) describes it, with the test's own disk in it under two types."""
    device = tmp_path.stat().st_dev
    line = "36 35 {major}:{minor} / /media/card rw,noatime shared:7 - {kind} /dev/sdb1 rw\n"
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(files, "MOUNTS", table)
    for kind, most in (("ext4", None), ("vfat", (4 << 30) - 1)):
        table.write_text(
            line.format(major=0, minor=99, kind="vfat")
            + line.format(major=os.major(device), minor=os.minor(device), kind=kind)
        )
        assert files.most_bytes(tmp_path) == most


def test_a_folder_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("new")
        assert (target / "old.txt").exists()
    assert [p.name for p in target.iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("new")
        raise RuntimeError
    assert (target / "old.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old.txt").write_text("old")
    replace = Path.replace

    def refuse(self: Path, goal: Path) -> Path:
        if (self / "new.txt").exists():
            raise PermissionError(13, "held by another program")
        return replace(self, goal)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DeviceError, match="No permission"), atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("new")
    assert (target / "old.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_interruption_between_the_two_steps_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old.txt").write_text("old")
    replace, calls = Path.replace, []

    def interrupted(self: Path, goal: Path) -> Path:
        calls.append(goal)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, goal)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("new")
    assert (target / "old.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_many_that_put_a_folder_into_one_place_all_succeed_and_one_is_whole(tmp_path: Path) -> None:
    """As two runs that build the same engine on a new machine."""
    target = tmp_path / "engine"

    def put(number: int) -> None:
        with atomic_folder(target) as temporary:
            (temporary / "a.txt").write_text(str(number))
            (temporary / "b.txt").write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(40)))
    assert (target / "a.txt").read_text() == (target / "b.txt").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what an open file is called")
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        told.append(Path(f"/dev/fd/{handle}").resolve().name.partition(".")[2] or "folder")
        fsync(handle)

    def renamed(self: Path, goal: Path) -> Path:
        told.append("rename")
        return replace(self, goal)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with atomic_file(tmp_path / "manifest.json") as temporary:
        temporary.write_text("{}")
    assert len(told) == 3
    assert told[0].endswith(".json")
    assert told[1:] == ["rename", "folder"]
    told.clear()
    with atomic_folder(tmp_path / "bundle") as folder:
        (folder / "weights.onnx").write_bytes(b"x")
    assert told.index("onnx") < told.index("rename") < len(told) - 1
    assert told[-1] == "folder"


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from edge_fer.core.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    place = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with locked(place, wait=False) as ours:
            assert not ours
        process.kill()
    with locked(place, wait=False) as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_permissions_are_those_of_the_umask_which_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.delattr(os, "umask")  # it is the whole process's: other threads make files meanwhile
            with atomic_file(tmp_path / "report.json") as temporary:
                temporary.write_text("new")
            with atomic_folder(tmp_path / "bundle"):
                pass
    finally:
        os.umask(before)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "."])
def test_names_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="outside itself"):
        inside(tmp_path, name)


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="outside itself"):
        inside(folder, "link")


def test_a_place_that_takes_no_files_is_told_before_and_by_the_writers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "result.json"
    with pytest.raises(BadInputError, match=r"Not a directory|exists"):
        check_writable(None, path)
    with pytest.raises(BadInputError, match=r"Not a directory|exists"), atomic_file(path):
        pass
    with pytest.raises(BadInputError, match=r"Not a directory|exists"), atomic_folder(path):
        pass
    with pytest.raises(BadInputError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "result.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody may make files")
def test_where_nothing_may_be_written_nobody_is_kept_out() -> None:
    with locked(Path("/sys/kernel/finished-dataset"), wait=False) as ours:
        assert ours, "a finished data set on a read-only disk is only read"
