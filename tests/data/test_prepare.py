"""``edge-fer data prepare``: whole or absent, the same every time, and nobody on two sides."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from dataset_makers import make_kdef, make_rafdb, make_yolo, pattern, put
from skimage import data as photographs
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, DeviceError, EdgeFerError, UsageError
from edge_fer.core.files import locked
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.audit import audit
from edge_fer.data.audit import collect as collect_splits
from edge_fer.data.cut_journal import JOURNAL
from edge_fer.data.datasets import open_dataset
from edge_fer.data.prepare import collect, prepare
from edge_fer.data.prepare_recipe import SHIPPED, load_recipe
from edge_fer.data.prepared import read_manifest, read_summary
from edge_fer.data.twins import TwinSpec

NAMES = "names: [Anger, Contempt, Disgust, Fear, Happy, Neutral, Sad, Surprise]"
SMALL = {"crop": {"size": 48, "margin": 0.0, "align": "none"}}


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", "prepare", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def write_recipe(path: Path, sources: list[dict[str, object]], **more: object) -> Path:
    path.write_text(yaml.safe_dump({"sources": sources, **SMALL, **more}))
    return path


def files_of(folder: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of everything in a folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """140 faces in class folders, 20 of each class."""
    for index, name in enumerate(EMOTIONS):
        for n in range(20):
            put(tmp_path / "faces" / name / f"{n:02d}.png", pattern(100 * index + n))
    return tmp_path / "faces"


def test_a_second_process_at_the_same_work_is_told_and_breaks_nothing(tmp_path: Path, tree: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "faces", "path": str(tree), "faces": "whole"}])
    command = ("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    with locked(tmp_path / "out"), pytest.raises(DeviceError, match="Another edge-fer data prepare is at work"):
        run(*command, "--fresh")
    run(*command)
    assert not list(tmp_path.glob(".out*")), "the lock leaves nothing behind"


def test_three_datasets_become_one_with_every_share_kept(tmp_path: Path) -> None:
    raf_rows = [(f"train_{n:05d}.jpg", n % 7 + 1) for n in range(70)]
    make_rafdb(tmp_path / "raf", raf_rows)
    yolo = [("train", f"y{n}.png", f"{n % 8} 0.5 0.5 1 1") for n in range(80)]
    make_yolo(tmp_path / "yolo", yolo, NAMES)
    people = [f"{session}F{person:02d}" for person in range(1, 11) for session in "AB"]
    make_kdef(
        tmp_path / "kdef", [f"{who}{code}S" for who in people for code in ("AF", "AN", "DI", "HA", "NE", "SA", "SU")]
    )
    recipe = write_recipe(
        tmp_path / "r.yaml",
        [
            {"name": "raf", "path": str(tmp_path / "raf")},
            {"name": "affectnet", "path": "yolo", "format": "affectnet-yolo"},
            {"name": "kdef", "path": "kdef", "faces": "whole"},
        ],
    )
    shown = run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    rows = read_manifest(tmp_path / "out")
    assert len(rows) == 70 + 70 + 140, "contempt is left out"
    share: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        share[row.source, row.label].append(row.part)
    for (source, _), parts in share.items():
        wanted = {"raf": 8, "affectnet": 8, "kdef": 16}[source]
        assert parts.count("train") == wanted
        assert abs(parts.count("val") - parts.count("test")) <= 2
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.subject:
            sides[row.subject].add(row.part)
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values()), "a person is on one side only"
    summary = read_summary(tmp_path / "out")
    assert {(m.source, m.theirs): (m.ours, m.pictures) for m in summary.mapping}["affectnet", "Contempt"] == (None, 10)
    for word in ("Contempt", "left out", "surprise", "10 groups"):
        assert word in shown
    for row in rows:
        assert hashlib.sha256((tmp_path / "out" / row.file).read_bytes()).hexdigest() == row.sha256
        assert row.file.startswith(f"{row.part}/{row.label}/{row.source}-")
    for part in ("train", "val", "test"):
        samples = open_dataset(tmp_path / "out", part)
        assert samples.counts() == summary.counts[part]
        assert samples.read(0).shape[:2] == (48, 48)
    everything = "".join(f.read_text() for f in (tmp_path / "out").glob("*.[cj]s*"))
    assert str(tmp_path) not in everything, "nothing tells where on this machine it was made"


def test_copies_of_a_picture_are_put_on_one_side(tmp_path: Path, tree: Path) -> None:
    for n in range(20):
        put(tree / "happy" / f"copy{n:02d}.jpg", (pattern(300 + n) * 0.8).astype(np.uint8))
    together = write_recipe(tmp_path / "a.yaml", [{"name": "f", "path": "faces"}])
    apart = write_recipe(tmp_path / "b.yaml", [{"name": "f", "path": "faces"}], twins=None)

    def divided(recipe: Path, out: Path) -> int:
        run("--config", str(recipe), "--out", str(out), "--workers", "1")
        part = {row.source_id: row.part for row in read_manifest(out)}
        return sum(part[f"happy/{n:02d}.png"] != part[f"happy/copy{n:02d}.jpg"] for n in range(20))

    assert divided(together, tmp_path / "a") == 0
    assert read_summary(tmp_path / "a").together == (20, 40, 2)
    assert divided(apart, tmp_path / "b") > 0, "chance alone divides some"
    for out, leaks in (("a", False), ("b", True)):
        report, _, _ = audit(collect_splits([tmp_path / out]), TwinSpec(), out)
        assert any(report.leaked.values()) == leaks, "the audit finds the same twins as the division"


def test_people_who_look_alike_in_a_studio_stay_two_people(tmp_path: Path) -> None:
    """Everybody in the same place and light must not become one group; a copied file still may not leak."""
    for person in range(1, 21):
        near = np.clip(pattern(1, 200, 200, True) + np.random.default_rng(person).normal(0, 4, (200, 200, 1)), 0, 255)
        put(tmp_path / "kdef" / f"AF{person:02d}HAS.png", near.astype(np.uint8))
        put(tmp_path / "kdef" / f"BF{person:02d}SAS.png", pattern(100 + person, 200, 200, True))
    put(tmp_path / "kdef" / "AM01HAS.png", pattern(101, 200, 200, True))
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "kdef", "path": "kdef", "faces": "whole"}])
    run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert read_summary(tmp_path / "out").together == (20, 41, 3)
    part = {row.subject: row.part for row in read_manifest(tmp_path / "out")}
    assert part["M01"] == part["F01"]
    assert set(part.values()) == {"train", "val", "test"}


def test_what_shows_nothing_is_left_out_and_shown(tmp_path: Path, tree: Path) -> None:
    put(tree / "sad" / "black.png", pattern(1) // 20)
    put(tree / "sad" / "white.png", 255 - pattern(2) // 20)
    put(tree / "sad" / "flat.png", 100 + pattern(3) // 20)
    put(tree / "sad" / "tiny.png", pattern(4, 20, 20))
    (tree / "sad" / "broken.jpg").write_bytes(b"no picture")
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    shown = run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    kinds = dict.fromkeys(("too dark", "too bright", "low variance", "too small", "unreadable"), 1)
    assert read_summary(tmp_path / "out").refused == {"f": kinds}
    assert "5 left out" in shown
    table = (tmp_path / "out" / "anomalies.csv").read_text().splitlines()
    assert len(table) == 6
    assert any(line.startswith("too small,") and "20 px" in line for line in table)
    sheet = cv2.imread(str(tmp_path / "out" / "anomalies.png"))
    assert sheet is not None
    assert sheet.shape[1] > 5 * 96
    assert len(read_manifest(tmp_path / "out")) == 140
    # The limits are the recipe's: with others, the dark and the flat one pass.
    loose = write_recipe(
        tmp_path / "l.yaml", [{"name": "f", "path": "faces"}], quality={"std": 1, "dark": 1, "bright": 255}
    )
    run("--config", str(loose), "--out", str(tmp_path / "loose"), "--workers", "1")
    assert set(read_summary(tmp_path / "loose").refused["f"]) == {"too small", "unreadable"}


class StopError(Exception):
    pass


def test_an_interrupted_run_continues_and_gives_the_same(tmp_path: Path, tree: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    recipe, beside = load_recipe(str(path))
    collected = collect(recipe, beside)
    whole = tmp_path / "whole"
    prepare(recipe, collected, whole, workers=1)
    out = tmp_path / "out"

    def stop_at(limit: int):
        def tell(what: str, done: int, _total: int) -> None:
            if what.startswith("Cutting") and done >= limit:
                raise StopError

        return tell

    with pytest.raises(StopError):
        prepare(recipe, collected, out, workers=1, progress=stop_at(40))
    assert not out.exists()
    journal = tmp_path / "out.partial" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 48, "a header, and three portions of sixteen"
    # What an interruption in the middle of a line leaves, and a face that went missing.
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:25])
    (tmp_path / "out.partial" / json.loads(lines[5])["file"]).unlink()
    seen: list[int] = []
    prepare(
        recipe,
        collected,
        out,
        workers=1,
        progress=lambda what, done, _: seen.append(done) if what[:3] == "Cut" else None,
    )
    assert seen[0] == 46, "the torn line and the missing face are done again, the rest is not"
    assert files_of(out) == files_of(whole)
    assert not (tmp_path / "out.partial").exists()


def test_several_processes_give_what_one_gives(tmp_path: Path, tree: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    for workers in ("1", "2"):
        run("--config", str(recipe), "--out", str(tmp_path / f"out{workers}"), "--workers", workers)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")


def test_a_script_without_a_main_guard_is_not_run_again_by_every_process(tmp_path: Path, tree: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    script = tmp_path / "script.py"
    script.write_text(
        "from edge_fer.cli.main import main\n"
        "import sys\n"
        "print('begun', flush=True)\n"
        f"sys.argv[1:] = ['data', 'prepare', '--config', {str(recipe)!r}, '--out', {str(tmp_path / 'out')!r}, "
        "'--workers', '2']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.count("begun") == 1
    assert len(read_manifest(tmp_path / "out")) == 140


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_killed_run_leaves_nothing_half_made(tmp_path: Path, how: str) -> None:
    for n in range(400):
        folder = tmp_path / "faces" / EMOTIONS[n % 7]
        if n < 7:
            put(folder / "0.jpg", pattern(n, 600, 600, True))
        else:
            (folder / f"{n}.jpg").write_bytes((folder / "0.jpg").read_bytes())
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}], twins=None)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    command = [sys.executable, "-m", "edge_fer", "data", "prepare", "--config", str(recipe), "--out", str(out)]
    child = subprocess.Popen(
        [*command, "--workers", "2"], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while child.poll() is None and not (
            (partial / JOURNAL).is_file() and len((partial / JOURNAL).read_bytes().splitlines()) > 17
        ):
            time.sleep(0.01)
        assert child.poll() is None, "it was to be interrupted in the middle"
        os.killpg(child.pid, getattr(signal, how))
        told, complaints = child.communicate(timeout=200)
    finally:
        child.kill()
    assert not out.exists()
    if how == "SIGINT":
        assert child.returncode == 130
        assert "the same command goes on" in told
        assert "Traceback" not in complaints
    before = len((partial / JOURNAL).read_bytes().splitlines()) - 1
    assert 0 < before < 400
    run("--config", str(recipe), "--out", str(out), "--workers", "1")
    rows = read_manifest(out)
    assert len(rows) == 400
    for row in rows:
        assert hashlib.sha256((out / row.file).read_bytes()).hexdigest() == row.sha256
    assert not list(out.rglob(".*")), "no temporary file is left"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the children in /proc")
def test_ctrl_c_while_the_processes_start_is_one_sentence(tmp_path: Path) -> None:
    for n in range(64):
        put(tmp_path / "faces" / EMOTIONS[n % 7] / f"{n}.png", pattern(n))
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}], twins=None)
    command = [sys.executable, "-m", "edge_fer", "data", "prepare", "--config", str(recipe)]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--workers", "2"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    try:
        while child.poll() is None and not any(_imports(pid) for pid in children.read_text().split()):
            time.sleep(0.001)
        os.killpg(child.pid, signal.SIGINT)
        told, complaints = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "the same command goes on" in told
    assert complaints.strip() == "edge-fer: interrupted."
    assert not (tmp_path / "out").exists()


def _imports(pid: str) -> bool:
    """Whether a process has begun with the imports of one that cuts faces, and OpenCV is among what it has loaded."""
    try:
        return (
            b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and "cv2" in Path(f"/proc/{pid}/maps").read_text()
        )
    except OSError:
        return False


def test_a_finished_dataset_is_not_made_twice_and_never_replaced_unasked(tmp_path: Path, tree: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    arguments = ("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    run(*arguments)
    before = (tmp_path / "out" / "manifest.csv").stat().st_mtime_ns
    run(*arguments)
    assert (tmp_path / "out" / "manifest.csv").stat().st_mtime_ns == before
    write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}], seed=5)
    with pytest.raises(UsageError, match=r"another recipe.*--fresh"):
        run(*arguments)
    run(*arguments, "--fresh")
    assert read_summary(tmp_path / "out").recipe.seed == 5
    mine = tmp_path / "mine"
    put(mine / "holiday.png", pattern(1))
    for more in ((), ("--fresh",)):
        with pytest.raises(UsageError, match="not a prepared dataset"):
            run("--config", str(recipe), "--out", str(mine), *more)
    assert (mine / "holiday.png").exists()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_picture_that_changed_within_its_size_makes_another_dataset(
    tmp_path: Path, tree: Path, at_once: bool
) -> None:
    """Its bytes count, not its length or its date."""
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    arguments = ("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    run(*arguments)
    picture = next((tree / "happy").iterdir())
    raw, then = bytearray(picture.read_bytes()), picture.stat()
    raw[-20] ^= 1
    picture.write_bytes(raw)
    if at_once:
        os.utime(picture, ns=(then.st_atime_ns, then.st_mtime_ns))
    with pytest.raises(UsageError, match="from pictures that have changed since"):
        run(*arguments)


@pytest.mark.parametrize(
    "changed", [{"box": (0.0, 0.0, 0.5, 0.5)}, {"subject": "her"}, {"picture": np.ones((48, 48), np.uint8)}]
)
def test_what_is_known_of_a_picture_is_part_of_the_key(tmp_path: Path, tree: Path, changed: dict[str, object]) -> None:
    recipe, beside = load_recipe(str(write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])))
    collected = collect(recipe, beside)
    prepare(recipe, collected, tmp_path / "out", workers=1)
    first, *rest = collected.jobs
    other = replace(collected, jobs=(replace(first, record=replace(first.record, **changed)), *rest))
    with pytest.raises(UsageError, match="from pictures that have changed since"):
        prepare(recipe, other, tmp_path / "out", workers=1)


def test_the_current_folder_is_never_replaced(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "..", str(tmp_path / "here")):
        with pytest.raises(UsageError, match="the folder that you are in"):
            run("--config", str(recipe), "--out", out, "--workers", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "here", "r.yaml"]


@pytest.mark.parametrize("more", [(), ("--fresh",)], ids=["as usual", "fresh"])
def test_a_folder_where_unfinished_work_would_lie_is_not_removed(
    tmp_path: Path, tree: Path, more: tuple[str, ...]
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", [{"name": "a", "path": str(tree)}])
    notes = tmp_path / "out.partial" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.partial holds other things"):
        run("--config", str(recipe), "--out", str(tmp_path / "out"), *more)
    assert notes.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_unfinished_work_of_another_recipe_is_not_mixed_in(tmp_path: Path, tree: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", [{"name": "f", "path": "faces"}])
    recipe, beside = load_recipe(str(path))

    def stop(what: str, done: int, _total: int) -> None:
        if what.startswith("Cutting") and done >= 16:
            raise StopError

    with pytest.raises(StopError):
        prepare(recipe, collect(recipe, beside), tmp_path / "out", workers=1, progress=stop)
    put(tree / "happy" / "00.png", pattern(5000))
    put(tree / "happy" / "another.png", pattern(5001))
    arguments = ("--config", str(path), "--out", str(tmp_path / "out"), "--workers", "1")
    with pytest.raises(BadInputError, match=r"have changed since.*--fresh"):
        run(*arguments)
    run(*arguments, "--fresh")
    assert len(read_manifest(tmp_path / "out")) == 141


def test_official_splits_are_kept_when_asked_for(tmp_path: Path) -> None:
    make_rafdb(tmp_path / "raf", [(f"{split}_{n:05d}.jpg", 4) for split in ("train", "test") for n in range(5)])
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "raf", "path": "raf"}], split={"by": "official"})
    run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert all(row.part == row.source_split for row in read_manifest(tmp_path / "out"))
    put(tmp_path / "plain" / "happy" / "a.png", pattern(1))
    bare = write_recipe(tmp_path / "p.yaml", [{"name": "p", "path": "plain"}], split={"by": "official"})
    with pytest.raises(UsageError, match="no part by itself"):
        run("--config", str(bare), "--out", str(tmp_path / "p"), "--workers", "1")


def test_only_the_named_splits_of_a_source_are_taken(tmp_path: Path) -> None:
    make_rafdb(tmp_path / "raf", [("train_00001.jpg", 4), ("test_0001.jpg", 4)])
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "raf", "path": "raf", "splits": ["test"]}])
    run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert [row.source_id for row in read_manifest(tmp_path / "out")] == ["test_0001.jpg"]
    recipe = write_recipe(tmp_path / "s.yaml", [{"name": "raf", "path": "raf", "splits": ["val"]}])
    with pytest.raises(UsageError, match=r"no split 'val'.*train, test"):
        run("--config", str(recipe), "--out", str(tmp_path / "s"))


# With a real photograph: NASA's portrait of Eileen Collins, as scikit-image carries it.


def turned(degrees: float, gain: float = 1.0) -> np.ndarray:
    portrait = cv2.cvtColor(photographs.astronaut(), cv2.COLOR_RGB2BGR)
    turn = cv2.getRotationMatrix2D((224, 115), degrees, 1.0)
    return np.clip(cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE) * gain, 0, 255).astype(
        np.uint8
    )


def test_faces_are_found_and_their_eyes_levelled(tmp_path: Path) -> None:
    angles = {"AF01HAS": 0, "AF02HAS": 20, "AF03HAS": -20}
    for name, degrees in angles.items():
        put(tmp_path / "kdef" / name[:4] / f"{name}.JPG", turned(degrees))
    put(tmp_path / "kdef" / "AF04" / "AF04HAS.JPG", cv2.cvtColor(photographs.coffee(), cv2.COLOR_RGB2BGR))
    recipe = write_recipe(
        tmp_path / "r.yaml",
        [{"name": "kdef", "path": "kdef"}],
        crop={"size": 224, "margin": 0.3, "align": "eyes"},
        twins=None,
    )
    run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert read_summary(tmp_path / "out").refused == {"kdef": {"no face": 1}}
    rows = {row.subject: row for row in read_manifest(tmp_path / "out")}
    assert {row.method for row in rows.values()} == {"eyes"}
    level = rows["F01"].angle_deg
    assert abs(level) < 9, "a three-quarter view, on which detectors see the eyes a little off level"
    assert rows["F02"].angle_deg - level == pytest.approx(-20, abs=6)
    assert rows["F03"].angle_deg - level == pytest.approx(20, abs=6)
    faces = {who: cv2.imread(str(tmp_path / "out" / row.file)) for who, row in rows.items()}
    for face in faces.values():
        assert face.shape == (224, 224, 3)
        inner = face[40:184, 40:184].astype(np.float32)
        upright = faces["F01"][40:184, 40:184].astype(np.float32)
        assert np.corrcoef(inner.ravel(), upright.ravel())[0, 1] > 0.85, "turned back, it is the same picture"


def test_a_picture_without_a_face_can_be_taken_whole(tmp_path: Path) -> None:
    put(tmp_path / "kdef" / "AF01HAS.JPG", turned(0))
    put(tmp_path / "kdef" / "AF02HAS.JPG", cv2.cvtColor(photographs.coffee(), cv2.COLOR_RGB2BGR))
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "kdef", "path": "kdef"}], detect={"missing": "whole"})
    run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert sorted(row.method for row in read_manifest(tmp_path / "out")) == ["upright", "whole"]


def test_a_detector_without_eyes_cannot_level_them(tmp_path: Path) -> None:
    put(tmp_path / "kdef" / "AF01HAS.JPG", turned(0))
    recipe = write_recipe(
        tmp_path / "r.yaml", [{"name": "kdef", "path": "kdef"}], detect={"detector": "none"}, crop={"align": "eyes"}
    )
    with pytest.raises(UsageError, match="tells no eyes"):
        run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")


def test_when_no_picture_gives_a_face_the_reasons_are_told(tmp_path: Path) -> None:
    put(tmp_path / "kdef" / "AF02HAS.JPG", cv2.cvtColor(photographs.coffee(), cv2.COLOR_RGB2BGR))
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "kdef", "path": "kdef"}])
    with pytest.raises(BadInputError, match="Not one of 1 pictures gave a face: no face 1"):
        run("--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    assert not (tmp_path / "out").exists()


# Recipes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sources: [", "is not valid YAML"),
        ("sources: []", "sources"),
        ("sources: [{name: A B, path: x}]", "sources.0.name"),
        ("sources: [{name: a, path: x}, {name: a, path: y}]", "same name"),
        ("sources: [{name: a, path: x}]\nsplit: {train: 0.9}", "sum to 1"),
        ("sources: [{name: a, path: x}]\nmargins: 3", "margins"),
        ("sources: [{name: a, path: x}]\ncrop: {size: 3}", "crop.size"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(BadInputError, match=complaint):
        run("--config", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out"))


def test_missing_recipes_and_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_FER_DATA", raising=False)
    with pytest.raises(BadInputError, match="Shipped recipes: fer2013, three-sources"):
        run("--config", "nothing", "--out", str(tmp_path / "out"))
    recipe = write_recipe(tmp_path / "r.yaml", [{"name": "raf", "path": "RAF-DB"}])
    with pytest.raises(BadInputError, match=r"source raf was not found.*EDGE_FER_DATA"):
        run("--config", str(recipe), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe, _ = load_recipe(name)
    assert recipe.split.by == "stratified"


def test_sources_are_found_below_the_data_folder(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.rename(tmp_path / "fer2013")
    monkeypatch.setenv("EDGE_FER_DATA", str(tmp_path))
    run("--config", "fer2013", "--out", str(tmp_path / "out"), "--workers", "1")
    assert len(read_manifest(tmp_path / "out")) == 140
