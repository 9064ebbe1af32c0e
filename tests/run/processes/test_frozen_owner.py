"""Two processes, of which one is stopped for so long that the other takes its cell over, and then wakes up in the midst
of the other's work: that work remains. (Each way to lose the lock by itself: test_taken_over.py.)"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import records
from tests.support import small
from tests.support.processes.frozen_owner import wait_for
from tests.support.processes.killing import ROOT, arguments, suite_file

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
"""Starts a command with process ids of its own, as a container has them."""


def namespaces() -> bool:
    """Whether this machine lets us have some."""
    installed = shutil.which("unshare") is not None
    return installed and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


def start(folder: Path, role: str, suite: Path, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "tests.support.processes.frozen_owner", str(folder), role]
    return subprocess.Popen(
        [*command, *arguments(suite, folder / "out", 1, "*-ce-*")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def python_of(process: subprocess.Popen[str]) -> int:
    """The process id, out here, of what `unshare` has started; that of the process where it was started plainly."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    inside = children.read_text().split() if process.args[0] == UNSHARE[0] else []  # type: ignore[index]
    return int(inside[0]) if inside else process.pid


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_who_wakes_up_leaves_the_new_owners_work(tmp_path: Path, apart: bool) -> None:
    """apart: the first has process ids of its own; else it only says that they are another machine's."""
    if apart and not namespaces():
        pytest.skip("no namespaces of process ids here")
    suite = suite_file(
        tmp_path, small.mini_suite(objectives=["ce"], train={"steps": 5, "batch_size": 2, "log_every": 1})
    )
    first = start(tmp_path, "first", suite, UNSHARE if apart else ())
    wait_for(tmp_path / "reached")
    frozen = python_of(first)
    os.kill(frozen, signal.SIGSTOP)
    second = start(tmp_path, "second", suite)
    wait_for(tmp_path / "overtaken")  # it has the cell, has gone on from a checkpoint and trains
    (owner,) = (path.name for path in tmp_path.glob("out/locks/*/*~*"))
    (tmp_path / "go").touch()
    os.kill(frozen, signal.SIGCONT)
    printed = [process.communicate(timeout=240)[0] for process in (second, first)]
    assert [second.returncode, first.returncode] == [0, 0], printed
    assert f"~{second.pid}~" in owner
    assert (tmp_path / "noticed").exists()
    (cell,) = tmp_path.glob("out/cells/*")
    record = records.read_record(cell)
    assert record.status == "finished"
    records.verify_files(record, cell, list(record.files))
    rows = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5]
    assert list(tmp_path.glob("out/locks/*")) == []
