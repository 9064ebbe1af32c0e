"""`detmodes run` and what goes with it: tables, progress, dry runs, interrupts, workers, status and clean."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import Record
from harness.run.context import Context
from harness.run.executors import processes
from harness.system.interrupts import Interrupted
from tests.commands.command_line import Invoke, assert_one_problem, change
from tests.run.mini_runs import fail_in_training


def test_a_run_prints_its_table_and_can_be_repeated(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert (done.code, done.err) == (0, "")
    for label in ("base", "ce", "oracle-uniform", "oracle-collapsed"):
        assert label in done.out
    assert len(list(Path("out/cells").iterdir())) == 4
    again = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert again == done
    report = invoke("report", "out")
    assert (report.code, report.out) == (0, done.out)


def test_progress_goes_to_stderr_and_only_selects(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--device", "cpu", "--only", "oracle-*", "--seeds", "7")
    assert (done.code, done.out) == (0, "")
    assert "finished  oracle-uniform-s0" in done.err
    cells = sorted(path.name.rsplit("-", 1)[0] for path in Path("runs/mini/cells").iterdir())
    assert cells == ["oracle-collapsed-s0", "oracle-uniform-s0"]


def test_a_failed_cell_is_told_and_exits_with_1(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_in_training(patch)
        monkeypatch.setattr("harness.commands.console.show_summary", lambda folder: print("report of", folder))
        done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert done.code == 1
    assert done.problems == ["detmodes: cell open_flamingo-ce-s0 failed: RuntimeError: out of memory"]
    assert done.out == "report of out\n"  # what has finished is reported all the same
    assert invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet").code == 0


def test_a_dry_run_shows_cells_and_cost_and_writes_nothing(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--dry-run", "--device", "cpu", "--seeds", "0,1")
    assert done.code == 0
    assert "mini: 5 cells into runs/mini" in done.out
    for cell in ("open_flamingo-base-s0", "open_flamingo-ce-s1", "oracle-collapsed-s0"):
        assert cell in done.out
    assert "steps: 3," in done.out
    assert "train_images: 24" in done.out
    assert "minutes on cpu" in done.out
    assert "memory in GB" in done.out
    for phase in ("training", "generation", "scoring", "checkpoints"):
        assert phase in done.out
    assert not Path("runs").exists()


def test_a_run_uses_what_the_command_line_sets(invoke: Invoke, mini: Path) -> None:
    changes = ("--set", "train.steps=2", "--set", "seeds=[4]", "--set", "train.batch_size=2")
    done = invoke("run", mini, "--only", "*-ce-*", "--output", "out", "--device", "cpu", "--quiet", *changes)
    assert (done.code, done.err) == (0, "")
    (record,) = (Record.model_validate_json(path.read_text()) for path in Path("out/cells").glob("*/record.json"))
    assert record.cell.train is not None
    assert (record.cell.train["steps"], record.cell.train["batch_size"], record.cell.seed) == (2, 2, 4)
    suite = json.loads(Path("out/suite.json").read_text())
    assert (suite["train"]["steps"], suite["seeds"]) == (2, [4])
    assert "--set train.steps=2 --set &#x27;seeds=[4]&#x27;" in invoke("report", "out", "--format", "html").out
    assert_one_problem(invoke("run", mini, "--set", "train.stepp=2"), "'stepp', did you mean 'steps'")


def test_a_dry_run_for_another_device(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--dry-run", "--on", "h100")
    assert done.code == 0
    assert "minutes on H100" in done.out
    assert "assumed:   40% of 989 TFLOP/s in bf16" in done.out
    assert_one_problem(invoke("run", mini, "--dry-run", "--on", "h999"), "--on: unknown device 'h999'")
    assert_one_problem(invoke("run", mini, "--on", "h100"), "--on: expected with --dry-run")


def test_a_dry_run_says_what_cannot_run(invoke: Invoke, mini: Path) -> None:
    change(
        mini, objectives=[{"name": "ce", "then": {"name": "nsft", "images": 4, "batch_size": 4, "corrector": "gpt"}}]
    )
    assert_one_problem(invoke("run", mini, "--dry-run", "--device", "cpu"), "then.corrector: unknown corrector 'gpt'")


@pytest.mark.parametrize(
    ("raised", "code", "name"),
    [
        (Interrupted(signal.SIGTERM), 143, "SIGTERM"),
        (Interrupted(signal.SIGINT), 130, "SIGINT"),
        (KeyboardInterrupt(), 130, "SIGINT"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(
    invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, name: str
) -> None:
    def interrupted(*_: object) -> None:
        raise raised

    monkeypatch.setattr("harness.run.runner.run", interrupted)
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert (done.code, done.out) == (code, "")
    (problem,) = done.problems
    assert name in problem
    assert "run the same command to go on" in problem


def test_snapshots_are_made_as_often_as_asked_for(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every: list[str | int] = []

    def noted(context: Context, *_: object) -> list[Record]:
        every.append(context.snapshot_every)
        return []

    monkeypatch.setattr("harness.run.runner.run", noted)
    for arguments in ((), ("--snapshot-every", "7")):
        invoke("run", mini, "--only", "*", "--device", "cpu", "--quiet", *arguments)
    assert every == ["10m", "7"]
    refused = invoke("run", mini, "--snapshot-every", "0")
    assert refused.code == 2
    assert (
        "--snapshot-every: expected a number of steps (50) or a time (90s, 10m, 1.5h), got '0'" in refused.problems[0]
    )


def test_jobs_run_the_same_command_in_workers(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the workers need to be part of this run, and what they say of its end."""
    started: list[tuple[list[str], int, list[str]]] = []

    def run(arguments: list[str], count: int, gpus: list[str], look: Callable[[], None]) -> list[processes.Ended]:
        started.append((arguments, count, gpus))
        look()  # before there is anything to see
        return [processes.Ended(1, 1, "detmodes: cell x failed: no\n"), processes.Ended(2, -9, "")]

    monkeypatch.setattr(processes, "run", run)
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--only", "*-ce-*", "--jobs", "2")
    assert (done.code, done.out) == (1, "")
    assert done.problems[0] == "detmodes: cell x failed: no"
    assert "worker 2 was ended by SIGKILL" in done.problems[1]
    ((arguments, count, gpus),) = started
    assert (count, gpus) == (2, [])
    given = ["run", str(mini), "--output", "out", "--device", "cpu", "--only", "*-ce-*", "--jobs", "2"]
    assert arguments[: len(given)] == given
    assert arguments[len(given) :] == [
        *("--jobs", "1", "--worker", arguments[-3]),
        *("--output", "out"),
    ]
    assert float(arguments[-3]) == pytest.approx(Path("out").stat().st_mtime, abs=60)


def test_small_cells_get_workers_that_nobody_asked_for(
    invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are many; how many is chosen by harness.run.executors.jobs."""
    counts: list[int] = []

    def run(arguments: list[str], count: int, gpus: list[str], look: Callable[[], None]) -> list[processes.Ended]:
        del arguments, gpus, look
        counts.append(count)
        return [processes.Ended(1, 0, "")]

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr("harness.system.host.usable_cores", lambda: 2)
    monkeypatch.setattr("harness.system.host.read_free_memory", lambda: 64.0)
    change(mini, seeds=[0, 1, 2], train={"steps": 100})
    assert invoke("run", mini, "--output", "out", "--device", "cpu", "--only", "*-ce-*", "--quiet").code == 0
    assert counts == [2]


def test_status_and_clean_of_a_run(invoke: Invoke, mini: Path) -> None:
    assert invoke("run", mini, "--output", "out", "--device", "cpu", "--only", "oracle-*", "--quiet").code == 0
    done = invoke("status", "out")
    assert (done.code, done.err) == (0, "")
    rows = [[part.strip() for part in line.split("│")[1:3]] for line in done.out.splitlines() if "│" in line]
    assert rows == [
        ["open_flamingo-base-s0", "waiting"],
        ["open_flamingo-ce-s0", "waiting"],
        ["oracle-uniform-s0", "finished"],
        ["oracle-collapsed-s0", "finished"],
    ]
    assert done.out.splitlines()[-1] == "2 finished, 2 waiting"
    status = json.loads(invoke("status", "out", "--json").out)
    assert [(item["cell"], item["state"]) for item in status["cells"]] == [tuple(row) for row in rows]
    assert status["counts"] == {"finished": 2, "failed": 0, "running": 0, "interrupted": 0, "waiting": 2}

    assert invoke("clean", "out").out == "nothing to remove\n"
    left = Path("out/cells/.oracle-uniform-s7-01234567")
    left.mkdir()
    (left / "table").write_bytes(b"x" * 2**20)
    listed = invoke("clean", "out").out.splitlines()
    assert listed[0].split(maxsplit=3)[:3] == ["1.00", "MiB", str(left.relative_to("out"))]
    assert listed[-1] == "nothing removed; --yes removes it"
    assert left.exists()
    assert invoke("clean", "out", "--yes").out.splitlines()[-1] == "1.00 MiB removed"
    assert not left.exists()
