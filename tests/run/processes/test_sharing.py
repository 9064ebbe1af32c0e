"""Real processes on one folder: they share the cells of a suite, survive each other, and stop and go on together.

All of them take long. That one of many gets a lock, and the lock of the dead, is in tests/system/test_locks.py; that a
cell is taken over in tests/run/processes/test_taken_over.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import DataError
from harness.records import layout
from harness.run import runner
from harness.run.context import open_context
from harness.run.output import status
from harness.run.output.status import CellStatus
from harness.suite import load
from tests.support import small

ROOT = Path(__file__).parents[3]
PATIENCE = 600.0
"""Seconds after which a test gives up: starting a process takes many of them on a busy machine."""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two cells that train for some seconds, and three that take no time."""
    changes: dict[str, Any] = {
        "objectives": ["ce"],
        "seeds": [0, 1],
        "train": {"steps": 60, "batch_size": 4},
    }
    path = tmp_path / "shared.yaml"
    content = small.mini_suite(**changes).model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(content))
    return path


def start(suite: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    """`detmodes run`, with its progress on stderr."""
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "detmodes",
            "run",
            str(suite),
            "--output",
            str(output),
            "--device",
            "cpu",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cells(output: Path) -> tuple[CellStatus, ...]:
    try:
        return status.read(output).cells
    except DataError:  # not begun
        return ()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def training(output: Path, pid: int | None = None) -> list[CellStatus]:
    """Cells in training, of this process if one is given."""
    return [
        item
        for item in cells(output)
        if item.state == "running"
        and (item.progress is not None and item.progress.kind == "train")
        and (pid is None or str(item.owner).endswith(f":{pid}"))
    ]


def made(printed: str) -> list[str]:
    """Cells that a process has computed itself, as its progress says."""
    lines = [line.split() for line in printed.splitlines()]
    return [parts[1] for parts in lines if len(parts) > 1 and parts[0] == "finished"]


def nothing_left(output: Path) -> bool:
    folders = [output / layout.LOCKS, output / layout.PROGRESS]
    hidden = [path for path in (output / layout.CELLS).iterdir() if path.name.startswith(".")]
    return not hidden and all(list(folder.iterdir()) == [] for folder in folders)


@pytest.mark.slow
def test_two_runs_share_a_suite_and_one_takes_over_what_the_other_leaves(suite: Path, tmp_path: Path) -> None:
    """Killed in mid-training. No cell is computed by both."""
    output = tmp_path / "out"
    first, second = start(suite, output), start(suite, output)
    wait_for(lambda: bool(training(output, first.pid)))
    (left,) = training(output, first.pid)
    first.kill()
    early = first.communicate()[1]
    table, late = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, late
    everything = [item.cell.id for item in cells(output)]
    assert len(everything) == 5
    assert Counter(made(early) + made(late)) == Counter(everything)
    assert left.cell.id in made(late)
    assert {item.state for item in cells(output)} == {"finished"}
    assert "oracle-collapsed" in table
    assert nothing_left(output)


@pytest.mark.slow
def test_jobs_stop_together_and_the_next_run_goes_on(suite: Path, tmp_path: Path) -> None:
    """Ctrl-C for the command alone, as its workers have process groups of their own."""
    output, only = tmp_path / "out", "open_flamingo-ce-*"
    run = start(suite, output, "--jobs", "2", "--only", only, "--snapshot-every", "10")
    wait_for(lambda: len(training(output)) == 2)
    owners = {item.owner for item in cells(output) if item.state == "running"}
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (130, ""), err
    assert err.splitlines()[-1].startswith("detmodes: stopped by SIGINT; what was computed is saved")
    assert len(owners) == 2
    assert not any(Path(f"/proc/{str(owner).split(':')[1]}").exists() for owner in owners)
    assert Counter(item.state for item in cells(output)) == {"waiting": 3, "interrupted": 2}

    finished = runner.run(open_context(load.load(str(suite)), None, "cpu"), output, only)
    assert [(record.status, record.steps) for record in finished] == [("finished", (60,))] * 2
    assert nothing_left(output)


@pytest.mark.slow
def test_jobs_run_a_suite_and_print_one_table(suite: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    out, err = (run := start(suite, output, "--jobs", "2")).communicate(timeout=PATIENCE)
    assert run.returncode == 0, err
    assert sorted(made(err)) == sorted(item.cell.id for item in cells(output))
    assert out.count("the greedy answer's AP") == 1
    assert nothing_left(output)


@pytest.mark.slow
def test_a_job_that_crashes_takes_no_cell_with_it(suite: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = start(suite, output, "--jobs", "2")
    wait_for(lambda: len(training(output)) == 2)
    os.kill(int(str(training(output)[0].owner).split(":")[1]), signal.SIGKILL)
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, err
    assert "was ended by SIGKILL; its cell is taken over" in err
    assert {item.state for item in cells(output)} == {"finished"}
    assert out.count("the greedy answer's AP") == 1
    assert nothing_left(output)


@pytest.mark.slow
def test_no_cell_is_lost_when_processes_are_killed_again_and_again(suite: Path, tmp_path: Path) -> None:
    """Three at a time; each time two train, one of them is killed and another one starts."""
    output = tmp_path / "out"
    runs = [start(suite, output) for _ in range(3)]
    for _ in range(5):
        wait_for(lambda: bool(training(output)) or all(item.state == "finished" for item in cells(output)))
        victims = [run for run in runs if training(output, run.pid)]
        for run in victims[:1]:
            run.kill()
            run.communicate()
            runs[runs.index(run)] = start(suite, output)
    for run in runs:
        _, err = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, err
    assert {item.state for item in cells(output)} == {"finished"}
    assert nothing_left(output)
