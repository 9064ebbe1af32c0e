"""A process that was cut off for so long that another took its cell over leaves alone what is the other's now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.records import layout
from harness.run import runner
from harness.run.context import Context, open_context
from harness.system import files, locks
from harness.training import step
from tests.support import small


class WaitingError(Exception):
    """The process has nothing to do but wait for the one that has the cell."""


def context() -> Context:
    suite = small.mini_suite(objectives=["ce"], train={"steps": 4, "batch_size": 2, "log_every": 1, "eval_at": [2]})
    made = open_context(suite, None, "cpu")
    made.snapshot_every = 1
    return made


def take_over(output: Path) -> locks.Lock:
    """What a process on another machine does that takes the owner for dead."""
    (holder,) = (path for path in output.glob("locks/*/*") if "~" in path.name)
    lock = locks.Lock(holder.with_name("elsewhere~abc~1~1~abc"), locks.Owner("elsewhere", "abc", 1, 1, "abc"))
    assert locks._take_over(holder, lock)
    return lock


def wait(_: float) -> None:
    raise WaitingError


def run_until_taken_over(monkeypatch: pytest.MonkeyPatch, output: Path, error: type[Exception] | None) -> list[Any]:
    """A run that is cut off in step 3, and then meets this error, or none. Returns the lock that another has now."""
    taken: list[Any] = []
    original, calls = step.accumulate, iter(range(1, 100))

    def cut_off(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 3:
            taken.append(take_over(output))
            taken.append(content(output))
            if error is not None:
                raise error("no such file")
        return original(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("harness.training.loop.accumulate", cut_off)
        patch.setattr(runner, "sleep", wait)
        with pytest.raises(WaitingError):
            runner.run(context(), output, "*-ce-*")
    return taken


def content(output: Path) -> dict[str, str]:
    """Digests of everything in the cell's folder."""
    (work,) = output.glob("cells/.*-ce-*")
    return {str(path.relative_to(work)): files.sha256(path) for path in sorted(work.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("error", [FileNotFoundError, RuntimeError, None])
def test_nothing_of_the_new_owner_is_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception] | None
) -> None:
    """Neither by an error, which may be nothing but the other's work, nor by what would have come next: a row of the
    log, a checkpoint, an evaluation. The new owner goes on from step 2, which was evaluated and so
    has a checkpoint for sure, and finishes the cell."""
    lock, before = run_until_taken_over(monkeypatch, tmp_path, error)
    assert "resume/step-00000002/state.json" in before
    assert content(tmp_path) == before
    lock.release()
    (record,) = runner.run(context(), tmp_path, "*-ce-*")
    assert record.status == "finished"
    assert [row["step"] for row in record.curve] == [1, 2, 3, 4]
    (cell,) = tmp_path.glob("cells/*-ce-*")
    rows = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]


def test_an_error_of_an_owner_is_the_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same error without a new owner: the cell fails, with its traceback."""

    def broken(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("no such file")

    monkeypatch.setattr("harness.training.loop.accumulate", broken)
    (record,) = runner.run(context(), tmp_path, "*-ce-*")
    assert (record.status, record.error) == ("failed", "FileNotFoundError: no such file")
    (cell,) = tmp_path.glob("cells/*-ce-*")
    assert (cell / layout.ERROR).is_file()
