"""What several ranks do in tests: python -m torch.distributed.run --standalone --nproc-per-node N -m
tests.support.ranks.ranked SCENARIO FOLDER. Each rank leaves what its scenario returned in FOLDER/<rank>.json; rank 0
alone writes cells there."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate import Accelerator

from harness.commands import app
from harness.errors import DetmodesError
from harness.evaluation import evaluate, generation
from harness.inference.device import accelerator_on
from harness.objectives import calibration
from harness.records import Record
from harness.run import runner
from harness.run.context import open_context
from harness.suite.schema import Train
from harness.system import ranks
from harness.training import checkpoints, step
from harness.training.objective import prepare
from harness.types import LossOutput
from tests.support import paths, small

RANK = int(os.environ.get("RANK", "0"))
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
        "probe": {"every": 2, "images": 2},
    },
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 1, "temperatures": [0.5]},
    "keep": "all",
}
SUITE = small.mini_suite(**CHANGES)


# ---- the same loss curve, for every objective -----------------------------------------------------------------------

PLAN = Train(
    targets="all(2)", batching="grouped", steps=10, batch_size=8, micro_batch=4, lr=1e-4, warm_up=3, log_every=1
)
CASES = [case for case in paths.SETTINGS if "quantile" not in paths.SETTINGS[case]] + ["sed_sft base"]


def curve(case: str, accelerator: Accelerator, threshold: float) -> list[float]:
    """Losses of ten steps; the threshold is that of sed_sft where it has one."""
    settings = {name: value for name, value in paths.SETTINGS[case].items() if name not in ("quantile", "threshold")}
    if "top_k" in settings and case.startswith("sed_sft"):
        settings["threshold"] = threshold
    adapter = paths.model()
    objective = prepare(case.split()[0], settings, paths.base(), (), PLAN, 0)
    rows = small.fine_tune(adapter, objective, PLAN, small.train_examples(24), accelerator=accelerator)
    return [row["loss"] for row in rows]


def nearest_mass(case: str, threshold: float) -> float:
    """How near a top-k mass comes to the threshold along this curve, in one process."""
    found = [1.0]

    def watched(*arguments: Any) -> torch.Tensor:
        masses = original(*arguments)
        found.append(float((masses - threshold).abs().min()))
        return masses

    original = calibration.mass_of
    with patch("harness.objectives.token.mass_of", watched):
        curve(case, small.accelerator(), threshold)
    return min(found)


# ---- cells -----------------------------------------------------------------------------------------------------------


@contextmanager
def writing_nothing(on: int) -> Iterator[None]:
    """On that rank the system refuses to write a single byte to any file, and Python to make or rename one."""
    if on != RANK:
        yield
        return
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, allowed[1]))
    refusing = [True]

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        made = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.utime")
        made = made or (event == "open" and bool(int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        if refusing[0] and made and not str(arguments[0]).startswith("/dev/"):
            raise PermissionError(errno.EPERM, f"{event} on rank {RANK}", str(arguments[0]))

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
        if next(count) == calls and on == RANK:
            raise error()
        return original(*arguments, **settings)

    return patch(target, perhaps)


def cells(folder: Path) -> Any:
    """Every way in which cells may end that are computed together."""
    context = open_context(SUITE, None, "cpu")
    context.snapshot_every = 2

    def run(name: str, only: str) -> list[Any]:
        try:
            found = ranks.together(context.accelerator, lambda: runner.run(context, folder / name, only))
        except DetmodesError as error:
            return [str(error)]
        return [_summary(record) for record in found]

    def broken() -> Exception:
        return RuntimeError("no such luck")

    def full() -> Exception:
        return OSError(errno.ENOSPC, "No space left on device", str(folder / "full"))

    found = {}
    with writing_nothing(on=1):
        found["cells"] = run("cells", "open_flamingo-*")
    with failing(1, 2, broken, "harness.training.loop.accumulate", step.accumulate):
        found["rank 1 fails in training"] = run("failing", "open_flamingo-[bc]*")
    with failing(0, 1, broken, "harness.evaluation.evaluate.figure_tables", evaluate.figure_tables):
        found["rank 0 fails in evaluation"] = run("evaluation", "open_flamingo-base-*")
    with failing(1, 3, broken, "harness.evaluation.evaluate.emit", generation.emit):
        found["rank 1 fails in generation"] = run("generation", "open_flamingo-base-*")
    with failing(0, 1, full, "harness.training.checkpoints.write", checkpoints.write):
        found["the disk is full"] = run("full", "open_flamingo-ce-*")
    return found


def _summary(record: Record) -> list[str | None]:
    return [record.label, record.status, record.error]


def two(folder: Path) -> Any:
    """Curves and cells in one go: starting processes takes longer than either."""
    accelerator = accelerator_on("cpu")
    threshold = float(os.environ["THRESHOLD"])
    return {"curves": {case: curve(case, accelerator, threshold) for case in CASES}, "cells": cells(folder)}


# ---- the program, killed ---------------------------------------------------------------------------------------------


def program(folder: Path) -> Any:
    """`detmodes ARGUMENTS`; a rank is killed as it begins the nth step where KILL says so."""
    del folder
    sys.argv = ["detmodes", *sys.argv[3:]]
    rank, nth = map(int, os.environ.get("KILL", "-1 0").split())
    original, count = step.accumulate, iter(range(1, 1000))

    def killed(*arguments: Any, **settings: Any) -> LossOutput:
        if next(count) == nth and rank == RANK:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **settings)

    with patch("harness.training.loop.accumulate", killed):
        app.main()


SCENARIOS = {"two": two, "program": program}

if __name__ == "__main__":
    torch.manual_seed(0)
    scenario, place = sys.argv[1], Path(sys.argv[2])
    result = SCENARIOS[scenario](place)
    (place / f"{RANK}.json").write_text(json.dumps(result))
    dist.destroy_process_group()
