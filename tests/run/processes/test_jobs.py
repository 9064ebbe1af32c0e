"""Worker processes: what each gets, how they are stopped, and what their ends mean. Most workers here are scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.commands.run.launch import with_options
from harness.run.executors import processes
from harness.run.executors.processes import Ended, environment, exit_code, messages
from harness.system.interrupts import Interrupted
from harness.system.timing import THREAD_VARIABLES


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """What is started in place of Python."""
    path = folder / "worker.sh"
    path.write_text(f"#!/bin/sh\ncd {folder}\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(processes, "POLL", 0.02)


# ---- what a worker gets --------------------------------------------------------------------------------------------


def test_cores_are_shared_out() -> None:
    """16 cores for 3 workers are 5 each; 2 for 3 are one each, there is no less."""
    assert environment(0, 3, [], 16, {"HOME": "/root"}) == {"HOME": "/root"} | dict.fromkeys(THREAD_VARIABLES, "5")
    assert environment(2, 3, [], 2, {})["OMP_NUM_THREADS"] == "1"


def test_what_the_user_has_set_stays() -> None:
    assert environment(0, 2, [], 8, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_each_worker_gets_one_gpu_in_turn() -> None:
    given = [environment(number, 3, ["2", "GPU-5"], 8, {})["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert given == ["2", "GPU-5", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in environment(0, 3, [], 8, {})


def test_gpus_are_named_as_the_user_allowed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert processes.visible_gpus("auto") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert processes.visible_gpus("cuda") == ["5", "3"]
    assert processes.visible_gpus("cpu") == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.visible_gpus("auto") == []


def test_workers_run_the_command_with_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, 'echo "$@" on $CUDA_VISIBLE_DEVICES; echo "to stderr" >&2; exit 1')
    looks: list[None] = []
    ended = processes.run(["run", "quickstart"], 2, ["7", "8"], lambda: looks.append(None))
    assert ended == [
        Ended(number, 1, f"-P -m detmodes run quickstart on {gpu}\nto stderr\n") for number, gpu in ((1, "7"), (2, "8"))
    ]
    assert looks  # at least once, when all have ended


# ---- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_worker_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A worker notes each signal and ends 0.3 s after the first: time enough to note a second one."""
    trap = 'trap "echo INT >> signals.$$; stop=1" INT\ntrap "echo TERM >> signals.$$; stop=1" TERM'
    waiting = 'while [ -z "$stop" ]; do sleep 0.05; done\nsleep 0.1; sleep 0.1; sleep 0.1'
    script(tmp_path, monkeypatch, f"{trap}\ntouch ready.$$\n{waiting}")
    before = signal.getsignal(number)
    sent: list[None] = []

    def look() -> None:
        if len(list(tmp_path.glob("ready.*"))) == 3 and not sent:
            sent.append(None)
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        processes.run([], 3, [], look)
    assert caught.value.exit_code == 128 + number
    assert [path.read_text() for path in tmp_path.glob("signals.*")] == [f"{number.name[3:]}\n"] * 3
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("run s --jobs 2", "run s --jobs 2 --jobs 1"),
        ("run --jobs 2 -- s", "run --jobs 2 --jobs 1 -- s"),
        ("run s --jobs 2 --", "run s --jobs 2 --jobs 1 --"),
    ],
)
def test_a_workers_options_stand_before_what_ends_the_options(given: str, expected: str) -> None:
    """Behind `--` they were taken for suites."""
    assert with_options(given.split(), ["--jobs", "1"]) == expected.split()


def test_a_worker_stops_when_its_parent_is_gone() -> None:
    code = "from harness.run.executors import processes; import time; "
    code += "processes.stop_with_parent(); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        assert process.poll() is None  # as long as the parent is there
        process.stdin.close()  # as the system does when a process dies
        assert process.wait(10) == -signal.SIGTERM


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in what nohup or a shell's `&` started: the workers do not hear of it either, and go on to their end."""
    script(tmp_path, monkeypatch, 'trap "touch heard" TERM\ntouch ready; while [ ! -e sent ]; do sleep 0.02; done')

    def look() -> None:
        if (tmp_path / "ready").exists() and not (tmp_path / "sent").exists():
            os.kill(os.getpid(), signal.SIGTERM)
            (tmp_path / "sent").touch()

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert [worker.code for worker in processes.run([], 1, [], look)] == [0]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "heard").exists()


def test_an_error_while_they_run_stops_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their standard input ends, as when the parent dies, and they are waited for."""
    script(tmp_path, monkeypatch, "touch ready; cat; sleep 0.1; touch stopped")

    def look() -> None:
        if (tmp_path / "ready").exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        processes.run([], 1, [], look)
    assert (tmp_path / "stopped").exists()


# ---- what their ends mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, 1], 1),
        ([0, -signal.SIGKILL], 0),  # the other one has done its cell
        ([-signal.SIGKILL, 1], 1),
        ([-signal.SIGKILL, -signal.SIGSEGV], 1),
        ([2, 2], 2),
        ([2, -signal.SIGKILL], 2),
    ],
)
def test_exit_code(codes: list[int], expected: int) -> None:
    assert exit_code([Ended(number, code, "") for number, code in enumerate(codes)]) == expected


def test_lines_of_several_workers_are_told_once_and_deaths_are_named() -> None:
    ended = [
        Ended(1, 1, "detmodes: cell x failed: no\nown warning\n"),
        Ended(2, 1, "detmodes: cell x failed: no\n\n"),
        Ended(3, -9, "half a li"),
    ]
    assert messages(ended) == [
        "detmodes: cell x failed: no",
        "own warning",
        "half a li",
        "detmodes: worker 3 was ended by SIGKILL; its cell is taken over by another one, or by the next run",
    ]
