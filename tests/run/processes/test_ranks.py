"""Several processes compute one cell together: the same results, one writer, and no hang when one of them is gone."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from harness import records
from harness.commands import app
from harness.errors import DetmodesError
from harness.evaluation import evaluate, generation
from harness.records import Record
from harness.run import runner
from harness.run.context import open_context
from harness.suite.schema import Suite
from harness.system import ranks
from harness.training import checkpoints, step
from harness.types import LossOutput
from tests.support import small
from tests.support.processes.killing import cell_outcome
from tests.support.processes.ranks import LIMIT, finish, forks, on_ranks, rank, scenario, start, torchrun

IMAGES = 7
"""Validation images, one in a batch: neither 2 nor 3 ranks share them evenly."""
CHANGES: dict[str, Any] = {
    "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": IMAGES, "calibration_images": 8},
    "models": ["open_flamingo"],
    "train": {
        "steps": 4,
        "batch_size": 4,
        "eval_at": [2],
        "log_every": 1,
        "targets": "random",
        "schedule": "linear",
        "ema": 0.5,
        "probe": {"every": 2, "images": 2},
    },
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 1, "temperatures": [0.5]},
    "keep": "all",
}
SUITE = small.mini_suite(**CHANGES)
SHORT = {"steps": 4, "batch_size": 4, "log_every": 1}
"""Training without evaluations and probes on the way."""


# ---- whole cells: what each rank plays -------------------------------------------------------------------------------


@contextmanager
def writing_nothing(on: int) -> Iterator[None]:
    """On that rank the system refuses to write a single byte to any file, and Python to make or rename one."""
    if on != rank():
        yield
        return
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, allowed[1]))
    refusing = [True]

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        made = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.utime")
        made = made or (event == "open" and bool(int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        if refusing[0] and made and not str(arguments[0]).startswith("/dev/"):
            raise PermissionError(errno.EPERM, f"{event} on rank {rank()}", str(arguments[0]))

    sys.addaudithook(refuse)
    try:
        yield
    finally:
        refusing[0] = False
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def failing(on: int, calls: int, error: Callable[[], Exception], target: str, original: Any) -> Any:
    """`target` raises `error` on that rank when it is called for the nth time."""
    count = iter(range(1, 1000))

    def perhaps(*arguments: Any, **settings: Any) -> Any:
        if next(count) == calls and on == rank():
            raise error()
        return original(*arguments, **settings)

    return patch(target, perhaps)


def cells(folder: Path) -> Any:
    """Every way in which cells may end that are computed together."""
    context = open_context(SUITE, None, "cpu")
    context.snapshot_every = 2

    def run(name: str, only: str) -> list[Any]:
        try:
            recorded = ranks.make_on_all(context.accelerator, lambda: runner.run(context, folder / name, only))
        except DetmodesError as error:
            return [str(error)]
        return [_summary(record) for record in recorded]

    def broken() -> Exception:
        return RuntimeError("no such luck")

    def full() -> Exception:
        return OSError(errno.ENOSPC, "No space left on device", str(folder / "full"))

    outcomes = {}
    with writing_nothing(on=1):
        outcomes["cells"] = run("cells", "open_flamingo-*")
    with failing(1, 2, broken, "harness.training.loop.accumulate", step.accumulate):
        outcomes["rank 1 fails in training"] = run("failing", "open_flamingo-[bc]*")
    with failing(0, 1, broken, "harness.evaluation.evaluate.figure_tables", evaluate.figure_tables):
        outcomes["rank 0 fails in evaluation"] = run("evaluation", "open_flamingo-base-*")
    with failing(1, 3, broken, "harness.evaluation.scored_samples.generate_batch", generation.generate_batch):
        outcomes["rank 1 fails in generation"] = run("generation", "open_flamingo-base-*")
    with failing(0, 1, full, "harness.training.checkpoints.write_copy", checkpoints.write_copy):
        outcomes["the disk is full"] = run("full", "open_flamingo-ce-*")
    return outcomes


def _summary(record: Record) -> list[str | None]:
    return [record.label, record.status, record.error]


# ---- training, and whole cells ---------------------------------------------------------------------------------------


class Two:
    """Two ranks' cells, and those of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first, self.second = on_ranks(2, "tests.run.processes.test_ranks:cells", folder)
        runner.run(open_context(SUITE, None, "cpu"), folder / "alone", "open_flamingo-*")

    def cells(self, label: str) -> tuple[Path, Path]:
        """Of the two ranks, and of one process."""
        (joint,), (alone,) = (
            (self.folder / of / "cells").glob(f"open_flamingo-{label}-*") for of in ("cells", "alone")
        )
        return joint, alone


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two(tmp_path_factory.mktemp("two"))


@pytest.mark.slow
def test_two_ranks_make_the_same_cells(two: Two) -> None:
    """Of a model that is not trained, to the last bit; of trained ones, as far as sums in another order go."""
    assert two.first["cells"] == [
        ["base", "finished", None],
        ["ce", "finished", None],
        ["sed", "finished", None],
    ]
    joint, alone = (records.read_record(folder) for folder in two.cells("base"))
    assert joint.evaluations == alone.evaluations
    for name in records.TABLES:
        one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in two.cells("base"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for label in ("ce", "sed"):
        joint, alone = (records.read_record(folder) for folder in two.cells(label))
        assert joint.steps == alone.steps == (2, 4)
        assert joint.threshold == alone.threshold
        for key in ("loss", "grad_norm"):
            values, expected = ([row[key] for row in record.curve] for record in (joint, alone))
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        weights = [load_file(folder / "model.safetensors") for folder in two.cells(label)]
        for name, tensor in weights[1].items():
            np.testing.assert_allclose(weights[0][name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_record_says_how_many_made_it(two: Two) -> None:
    for label in ("base", "ce"):
        assert [records.read_record(folder).device["processes"] for folder in two.cells(label)] == [2, 1]


@pytest.mark.slow
def test_only_rank_0_writes(two: Two) -> None:
    """The cells above are whole, though the system let rank 1 write nothing; it has no records of its own."""
    for folder in [two.cells(label)[0] for label in ("base", "ce", "sed")]:
        records.verify_files(records.read_record(folder), folder, list(records.read_record(folder).files))
    assert two.second["cells"] == []
    left = {path.name for path in (two.folder / "cells").iterdir()}
    assert left == {path.name for path in (two.folder / "alone").iterdir()}


@pytest.mark.slow
def test_a_failure_of_one_rank_is_a_failed_cell_and_the_run_goes_on(two: Two) -> None:
    outcomes = two.first
    message = "process 1: RuntimeError: no such luck"
    assert outcomes["rank 1 fails in training"] == [["base", "finished", None], ["ce", "failed", message]]
    assert outcomes["rank 1 fails in generation"] == [["base", "failed", message]]
    assert outcomes["rank 0 fails in evaluation"] == [["base", "failed", "RuntimeError: no such luck"]]
    assert all(two.second[name] == [] for name in outcomes if "fails" in name)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_of_all(two: Two) -> None:
    (message,), (heard,) = (outcomes["the disk is full"] for outcomes in (two.first, two.second))
    assert message.startswith("the disk is full while writing")
    assert heard == f"process 0: DataError: {message}"


# ---- the program -----------------------------------------------------------------------------------------------------


def program(folder: Path, *arguments: str) -> None:
    """`detmodes ARGUMENTS`; a rank is killed as it begins the nth step where KILL says so."""
    del folder
    sys.argv = ["detmodes", *arguments]
    victim, nth = map(int, os.environ.get("KILL", "-1 0").split())
    original, count = step.accumulate, iter(range(1, 1000))

    def killed(*arguments: Any, **settings: Any) -> LossOutput:
        if next(count) == nth and victim == rank():
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **settings)

    with patch("harness.training.loop.accumulate", killed):
        app.main()


def arguments(folder: Path, output: str, suite: Suite = SUITE) -> list[str]:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite.model_dump(mode="json", exclude_defaults=True)))
    only = ["--only", "open_flamingo-ce-*", "--snapshot-every", "1", "--device", "cpu", "--quiet"]
    return ["run", str(path), "--output", str(folder / output), *only]


def run_program(folder: Path, output: str, **environment: str) -> tuple[int, list[str]]:
    """`detmodes run` with two ranks; exit code, and what it said itself."""
    played = scenario(torchrun(2), "tests.run.processes.test_ranks:program", folder, *arguments(folder, output))
    return what_it_said(played, **environment)


def what_it_said(command: list[str], **environment: str) -> tuple[int, list[str]]:
    code, printed = finish(command, **environment)
    return code, [line for line in printed.splitlines() if line.startswith("detmodes: ")]


def steps_kept(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("cells/.open_flamingo-ce-*/resume/step-*"))


def test_a_rank_that_is_killed_ends_the_run_with_one_message(tmp_path: Path) -> None:
    """Rank 1, as it begins step 4: no hang, no record, and one process goes on where they were."""
    suite = small.mini_suite(**{**CHANGES, "train": SHORT, "sample": {"samples": 2, "max_tokens": 12}})
    played = forks(2, "tests.run.processes.test_ranks:program", tmp_path, *arguments(tmp_path, "out", suite))
    code, messages = what_it_said(played, KILL="1 4")
    assert code != 0
    (line,) = messages
    assert line.startswith("detmodes: another process of this run has ended; what was computed is saved: run the same")
    assert not list((tmp_path / "out").glob("cells/[!.]*"))
    assert steps_kept(tmp_path / "out")[-1] == "step-00000003"
    (record,) = runner.run(open_context(suite, None, "cpu"), tmp_path / "out", "open_flamingo-ce-*")
    assert record.status == "finished"
    assert [row["step"] for row in record.curve] == [1, 2, 3, 4]
    assert record.device["processes"] == 1
    assert record.device["batch_invariant"]


@pytest.mark.slow
def test_what_two_ranks_began_two_ranks_finish_to_the_last_bit(tmp_path: Path) -> None:
    assert run_program(tmp_path, "whole") == (0, [])
    for killed in ("1 2", "0 2"):  # of the steps that are left: the second one in all, then the third
        code, messages = run_program(tmp_path, "killed", KILL=killed)
        assert (code != 0, len(messages)) == (True, 1)
    assert run_program(tmp_path, "killed") == (0, [])
    (whole,), (again,) = (sorted((tmp_path / of / "cells").iterdir()) for of in ("whole", "killed"))
    assert cell_outcome(again) == cell_outcome(whole)


@pytest.mark.slow
def test_a_signal_stops_all_ranks_after_the_same_step(tmp_path: Path) -> None:
    """As a scheduler sends it: to torchrun, which passes it on."""
    changes = {**CHANGES, "train": {"steps": 2000, "batch_size": 4}}
    command = arguments(tmp_path, "out")
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump(small.mini_suite(**changes).model_dump(mode="json", exclude_defaults=True))
    )
    process = start([*torchrun(2), "detmodes", *command, "--snapshot-every", "1000"])
    deadline = time.monotonic() + LIMIT
    while not list((tmp_path / "out").glob("cells/.*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    printed, _ = process.communicate(timeout=LIMIT)
    messages = [line for line in printed.splitlines() if line.startswith("detmodes: ")]
    assert messages == ["detmodes: stopped by SIGTERM; what was computed is saved: run the same command to go on"]
    assert len(steps_kept(tmp_path / "out")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["run", "nosuch"], "unknown suite 'nosuch'"),
        (["run", "quickstart", "--jobs", "2"], "--jobs: expected one process, got 3"),
        (["run", "quickstart", "--dry-run"], "--dry-run: expected one process, got 3"),
        (
            ["run", "quickstart", "--device", "cpu", "--output", "OUT"],
            "train.batch_size: expected a multiple of 3 proc",
        ),
    ],
)
def test_bad_input_is_said_once(command: list[str], expected: str, tmp_path: Path) -> None:
    code, printed = finish(
        [*torchrun(3), "detmodes", *(str(tmp_path / "out") if word == "OUT" else word for word in command)]
    )
    (line,) = [line for line in printed.splitlines() if line.startswith("detmodes: ")]
    assert expected in line
    assert (code, "exitcode  : 2" in printed) == (1, True)
    assert not list(tmp_path.iterdir())
