"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal

# Before torch is imported, here or in a process that a test starts: on busy cores, threads that wait for each other
# make small models many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from accelerate import Accelerator

settings.register_profile("detmodes", deadline=None)  # how busy the machine is says nothing about an example
settings.load_profile("detmodes")

SHARED = Path(os.environ.get("DETMODES_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Path of a file among the reference data that are kept beside the repository; skips where it is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"reference data not found: {path} (set DETMODES_SHARED)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rendered sets go to a folder of this test session, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nobody_pulls_the_plug() -> Iterator[None]:
    """What the system has taken is as good as written, then; waiting for a busy disk takes longer than many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_as_in_the_foreground() -> Iterator[None]:
    """SIGINT is ignored in what a shell starts in the background, and in all that such a process starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def bf16() -> Iterator[Accelerator]:
    """bf16 autocast. accelerate keeps one precision per process: forget it before and after."""
    from accelerate import Accelerator  # late: it imports torch, which many test files do not need
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
