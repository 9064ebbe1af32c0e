"""The smallest suite that has everything, its run that nothing interrupts, and one that is killed in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.run import runner
from harness.run.context import Context, open_context
from tests.support import small
from tests.support.processes.killing import Server, outcome

CHANGES: dict[str, Any] = {
    "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": 6, "calibration_images": 8},
    "models": ["open_flamingo"],
    "objectives": [{"name": "sed_sft", "label": "sed", "top_k": 5, "quantile": 0.5, "weight": 5.0, "mask": "base"}],
    "train": {
        "steps": 6,
        "batch_size": 4,
        "eval_at": [2, 4],
        "log_every": 1,
        "targets": "random",
        "schedule": "cosine",
        "ema": 0.9,
        "probe": {"every": 3, "images": 2},
    },
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 2},
    "keep": "all",
}
"""The smallest suite that has everything: an objective with a reference that is remembered, evaluations of several
batches on the way, probes, and weights kept at each evaluation."""
SUITE = small.mini_suite(**CHANGES)
BATCHES = 3
"""Of the 6 validation images; evaluations are three, and one of the base."""


class Reference(NamedTuple):
    """What an uninterrupted run leaves, and how long it took."""

    outcome: dict[str, Any]
    seconds: float


def assert_ends_like(server: Server, output: Path, reference: Reference, every: int = 1) -> None:
    """The same command goes on, says nothing, and leaves what the uninterrupted run left."""
    done = server.run(output, every=every)
    assert (done.status, done.printed) == (0, "")
    ended = outcome(output)
    assert ended.keys() == reference.outcome.keys()
    for name, cell in ended.items():
        assert cell == reference.outcome[name]


class Killed(BaseException):
    """Ends a cell as a kill would: nothing is written after it."""


def context(**changes: Any) -> Context:
    made = open_context(small.mini_suite(**{**CHANGES, **changes}), None, "cpu")
    made.snapshot_every = 1
    return made


def killed_at(monkeypatch: pytest.MonkeyPatch, output: Path, target: str, call: int, **changes: Any) -> None:
    """Runs the trained cell up to this call of `module.function`."""
    module, _, name = target.rpartition(".")
    original: Callable[..., Any] = getattr(sys.modules[module], name)
    calls = iter(range(1, 1000))

    def killed(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return original(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(Killed):
            runner.run(context(**changes), output, "*-sed-*")
