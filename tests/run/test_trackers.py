"""What a tracker is told is what metrics.jsonl holds, and a cell goes on without a tracker that fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.records import layout
from harness.run import runner, trackers
from harness.run.cell import METRICS
from harness.run.context import open_context
from harness.system.interrupts import Interrupted
from tests.support import small

CELL = "open_flamingo-ce-s0"


def run(output: Path, track: trackers.Name, on_step: Callable[[int], None] = lambda step: None) -> Path:
    """A cell of six steps, a checkpoint after each second; the folder of its tracker."""
    train = {"steps": 6, "batch_size": 4, "log_every": 1, "eval_at": [3]}
    suite = small.mini_suite(objectives=["ce"], train=train)
    context = open_context(suite, None, "cpu", _Watch(on_step))
    context.snapshot_every, context.track = 2, track
    (record,) = runner.run(context, output, CELL)
    assert record.status == "finished"
    return _folder(output)


def _folder(output: Path) -> Path:
    (folder,) = (output / layout.TRACKERS).iterdir()
    return folder


class _Watch:
    """Calls with every step that is done."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step

    def cell(self, *_: object) -> None: ...

    def work(self, kind: str, done: int, *_: object) -> None:
        if kind == "train":
            self._on_step(done)


def stop_at_5(step: int) -> None:
    """As a process is that is killed: nothing is saved any more."""
    if step == 5:
        raise Interrupted(15)


def logged(output: Path) -> list[dict[str, Any]]:
    (path,) = (output / layout.CELLS).glob(f"*/{METRICS}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars_of(rows: list[dict[str, Any]]) -> Counter[tuple[str, int, float]]:
    """(name, step, value) of every number in a log."""
    return Counter(
        (name, row["step"], float(value))
        for row in rows
        for name, value in trackers.flat({row["kind"]: row}, "/").items()
        if isinstance(value, int | float) and not name.endswith("/step")
    )


# ---- tensorboard ---------------------------------------------------------------------------------------------------


def events(folder: Path) -> Counter[tuple[str, int, float]]:
    """The same, of all event files of a cell, in the precision that TensorBoard keeps."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    logged: Counter[tuple[str, int, float]] = Counter()
    for path in folder.glob("events.*"):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            logged.update((value.tag, event.step, value.simple_value) for value in event.summary.value)
    return logged


def single(logged: Counter[tuple[str, int, float]]) -> Counter[tuple[str, int, float]]:
    """In single precision, as an event has its values."""
    import numpy as np

    return Counter({(name, step, float(np.float32(value))): count for (name, step, value), count in logged.items()})


def test_tensorboard_has_every_number_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = run(tmp_path, "tensorboard")
    assert folder.name.startswith(CELL)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    expected = single(scalars_of(rows))
    assert ("train/loss", 6) in {(name, step) for name, step, _ in expected}
    assert ("evaluation/metrics/AP", 3) in {(name, step) for name, step, _ in expected}
    assert events(folder) == expected


def test_a_cell_that_goes_on_has_every_row_once(tmp_path: Path) -> None:
    """Killed in step 5, after the checkpoint of step 4 (and its rows): the second process trains 5 and 6."""
    pytest.importorskip("tensorboard")
    with pytest.raises(Interrupted):
        run(tmp_path, "tensorboard", stop_at_5)
    assert max(step for _, step, _ in events(_folder(tmp_path))) == 4
    assert events(run(tmp_path, "tensorboard")) == single(scalars_of(logged(tmp_path)))


def test_the_settings_go_along(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (path,) = run(tmp_path, "tensorboard").glob("*/hparams.yml")
    settings = path.read_text().splitlines()
    assert "objective.name: ce" in settings
    assert "train.steps: 6" in settings
    assert "seed: 0" in settings


def test_the_records_files_do_not_include_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, "tensorboard")
    assert not list((tmp_path / layout.CELLS).rglob("events*"))


# ---- any tracker ---------------------------------------------------------------------------------------------------


class Fake:
    """An accelerate tracker that remembers. fails: the call from which on it raises, of start, log and finish."""

    def __init__(self, fails: str = "") -> None:
        self.made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.settings: dict[str, Any] = {}
        self.metrics: list[tuple[str, str]] = []
        self.calls: Counter[str] = Counter()
        self._fails = fails

    def __call__(self, *arguments: Any, **options: Any) -> Fake:
        self.made.append((arguments, options))
        return self

    @property
    def tracker(self) -> Fake:
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def start(self) -> None:
        self._called("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._called("log")
        self.rows.append((step, values))

    def finish(self) -> None:
        self._called("finish")

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if name == self._fails:
            raise ConnectionError("no route\nto host")


@contextmanager
def instead_of(name: str, fake: Fake) -> Iterator[Fake]:
    """Of accelerate's class."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOGGER_TYPE_TO_CLASS, name, fake)
        yield fake


ROW: Mapping[str, Any] = {"kind": "train", "step": 7, "loss": 0.5, "more": {"x": 1, "none": None}}


@pytest.mark.parametrize(("name", "step"), [("trackio", 7), ("wandb", None)])
def test_a_run_is_the_same_run_again(tmp_path: Path, name: trackers.Name, step: int | None) -> None:
    """What it was told before is not told again. wandb, whose own steps only go up, has them as a value."""
    folder = tmp_path / "ce-s0-12345678"
    fakes = [Fake(), Fake()]
    for fake in fakes:
        with instead_of(name, fake), trackers.tracking(name, "suite", folder, {"train": {"lr": 0.1}}) as tell:
            tell({**ROW, "step": 6}, True)
            tell(dict(ROW), False)
        assert fake.settings == {"train.lr": 0.1}
        values = {"train/loss": 0.5, "train/more/x": 1}
        assert fake.rows == [(step, values if name == "trackio" else {**values, "step": 7})]
        assert fake.metrics == ([] if name == "trackio" else [("*", "step")])
        assert fake.calls == {"start": 1, "log": 1, "finish": 1}
    first, second = (fake.made[0] for fake in fakes)
    assert first == second
    assert first[0] == ("suite",)
    assert first[1]["name"].startswith("ce-s0-12345678-")
    assert first[1]["resume"] == "allow"


def test_the_same_cell_elsewhere_is_another_run(tmp_path: Path) -> None:
    names = set()
    for output in ("a", "b"):
        with instead_of("trackio", fake := Fake()), trackers.tracking("trackio", "s", tmp_path / output / "cell", {}):
            names.add(fake.made[0][1]["name"])
    assert len(names) == 2


@pytest.mark.parametrize(
    ("fails", "calls"),
    [
        ("start", {"start": 1}),
        ("log", {"start": 1, "log": 1}),
        ("finish", {"start": 1, "log": 8, "finish": 1}),
    ],
)
def test_a_tracker_that_fails_is_warned_of_once_and_left(tmp_path: Path, fails: str, calls: dict[str, int]) -> None:
    told = r"--track trackio fails, the cell goes on without it: ConnectionError: no route to host"
    with instead_of("trackio", Fake(fails)) as fake, pytest.warns(trackers.TrackerWarning, match=told) as caught:
        run(tmp_path, "trackio")
    assert len(caught) == 1
    assert len(logged(tmp_path)) == 8
    assert fake.calls == calls


def test_a_missing_package_is_named_before_the_first_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.commands import app

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    command = ["run", "quickstart", "--output", str(tmp_path / "o"), "--track", "wandb"]
    with pytest.raises(ConfigError, match=r"--track wandb: .* not installed; pip install detmodes\[wandb\]"):
        app.app(command, standalone_mode=False)
    assert not (tmp_path / "o" / "cells").exists()


def test_flat() -> None:
    nested = {"a": {"b": 1, "c": {"d": "x"}}, "e": [1, {"f": 2}], "g": None, "h": True}
    assert trackers.flat(nested) == {"a.b": 1, "a.c.d": "x", "e": '[1, {"f": 2}]', "h": True}
