"""Fixtures that every part of the suite shares: a cache of its own, and the real data when it is at hand."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from edge_fer.core.bundle import Bundle, find_bundle, open_bundle

# Texts of tests and of the commands that they start are UTF-8, whatever a library does to the locale of a worker.
os.environ.setdefault("PYTHONUTF8", "1")
# A thread to each worker: on a busy machine, threads that spin while they wait for one another take minutes for what is
# seconds of work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite that is started in a script's background inherits that Ctrl-C is ignored, and so would the commands that it
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A deadline would measure the machine: on a busy one every property would fail.
settings.register_profile("no wall time", deadline=None)
settings.load_profile("no wall time")


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines built by the tests stay out of the user's cache; one build serves the whole session."""
    folder = tmp_path_factory.mktemp("engine-cache")
    os.environ["EDGE_FER_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def slim_resemotenet() -> Callable[[], AbstractContextManager[None]]:
    """Within it, ResEmoteNet has a twentieth of the paper's 80 M weights: where the graph is under test."""

    @contextmanager
    def slim() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge_fer.models.resemotenet.RESIDUAL_WIDTHS", (272, 304, 352))
            yield

    return slim


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    """The default model's bundle, as it travels in the wheel."""
    return open_bundle(find_bundle())


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """Root of FER-2013 in class folders; tests that need it are skipped where it is absent."""
    root = os.environ.get("EDGE_FER_DATA")
    if not root or not (Path(root) / "fer2013").is_dir():
        pytest.skip("set EDGE_FER_DATA to a folder that holds fer2013/")
    return Path(root) / "fer2013"
