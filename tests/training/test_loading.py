"""Reading ahead changes when an image is read, and nothing else; and the time of a cell is all accounted for."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.commands import console
from harness.errors import DataError
from harness.records import layout
from harness.records.log import Log
from harness.run import runner
from harness.run.context import Context, open_context
from harness.run.resume import CellCheckpointer
from harness.suite.train_settings import Train
from harness.system import profiler
from harness.system.interrupts import Interrupted, Interrupts
from harness.system.profiler import phase
from harness.training.loop import Hooks
from harness.training.objective import prepare
from harness.training.prefetch import Loader, loading
from harness.training.rows import Row, images_of
from harness.types import Example
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.tiny import example_of

TIMES = ("seconds", "waiting")


class Reading:
    """Pixels whose value is the image id. begun: the ids that were asked for, in order; gate: nobody gets an answer
    while it is closed."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        self.begun += [example.image_id for example in examples]
        assert self.gate.wait(timeout=60)
        return torch.tensor([float(example.image_id) for example in examples])[:, None, None, None].expand(-1, 3, 1, 1)


def readers() -> list[str]:
    """Threads that read ahead."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pixels")]


def ids(pixels: Tensor) -> list[int]:
    return [int(value) for value in pixels[:, 0, 0, 0]]


def images(*numbers: int) -> list[Example]:
    return [example_of(number) for number in numbers]


# ---- the loader ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_image_is_read_once_and_given_in_order(workers: int) -> None:
    """2 is drawn twice in a row, over a micro-batch's end too; 1 comes again later and is read again."""
    reading = Reading()
    with loading(reading, images(1, 2, 2, 2, 3, 1), workers, ahead=2) as loader:
        assert ids(loader(images(1, 2))) == [1, 2]
        assert ids(loader(images(2, 3))) == [2, 3]
        assert ids(loader(images(1))) == [1]
    assert sorted(reading.begun) == [1, 1, 2, 3]


def test_it_reads_so_far_ahead_and_no_further() -> None:
    reading = Reading()
    with ThreadPoolExecutor(1) as pool:
        loader = Loader(reading, images(*range(10)), pool, 3)
        pool.submit(lambda: None).result()  # by then it has read all that it was told to
        assert reading.begun == [0, 1, 2]
        loader(images(0, 1))
        pool.submit(lambda: None).result()
        assert reading.begun == [0, 1, 2, 3, 4]


def test_without_threads_nothing_is_read_before_it_is_asked_for() -> None:
    reading = Reading()
    with loading(reading, images(1, 2, 3), 0, ahead=2) as loader:
        assert reading.begun == []
        loader(images(1))
        assert reading.begun == [1]


def test_threads_read_while_others_work() -> None:
    """The block goes on although no image can be had, and all workers are at one."""
    reading = Reading()
    reading.gate.clear()
    with loading(reading, images(1, 2, 3, 4), 2, ahead=4) as loader:
        while len(reading.begun) < 2:
            pass
        reading.gate.set()
        assert ids(loader(images(1, 2, 3, 4))) == [1, 2, 3, 4]


def test_an_image_out_of_turn_is_refused() -> None:
    with (
        loading(Reading(), images(1, 2), 0, ahead=2) as loader,
        pytest.raises(ValueError, match="2 is not the next"),
    ):
        loader(images(2))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_when_its_image_is_asked_for(workers: int) -> None:
    def pixels(examples: Sequence[Example]) -> Tensor:
        if examples[0].image_id == 2:
            raise DataError("2.png: broken")
        return torch.zeros(1, 3, 1, 1)

    with loading(pixels, images(1, 2, 3), workers, ahead=3) as loader:
        loader(images(1))
        with pytest.raises(DataError, match=r"2\.png: broken"):
            loader(images(2))


def test_no_thread_outlives_the_block() -> None:
    def stopped() -> None:
        with loading(Reading(), images(*range(9)), 3, ahead=9):
            assert readers()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not readers()


# ---- training with it ----------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "sed_sft": {"mask": "base", "top_k": 5, "quantile": 0.5, "weight": 5.0},
    "mrt": {"weight": 3.0, "samples": 2},
}
PLANS = {
    "sed_sft": Train(steps=4, batch_size=6, micro_batch=4, log_every=1, targets="random"),
    "mrt": Train(steps=3, batch_size=8, micro_batch=3, log_every=1, targets="all(2)", batching="grouped"),
}
"""Over the end of an epoch of ten images, in micro-batches of unequal size; mrt's have rows that the model draws, and
images with several rows."""


def trained(objective: str, workers: int) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Curve without its times, and parameters."""
    adapter, plan = small.fitted(), PLANS[objective]
    heldout = small.benchmark().split("calibration")[:8]
    ready = prepare(objective, SETTINGS[objective], small.fitted(), heldout, plan, 0)
    curve = small.fine_tune(adapter, ready, plan, small.train_examples(10), workers=workers)
    for row in curve:
        assert 0 < row["waiting"] < row["seconds"]
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in curve]
    return rows, [parameter.detach().clone() for parameter in adapter.model.parameters()]


@pytest.mark.parametrize("objective", PLANS)
def test_nothing_depends_on_the_number_of_workers(objective: str) -> None:
    curve, weights = trained(objective, 0)
    for workers in (1, 3):
        other_curve, other_weights = trained(objective, workers)
        assert other_curve == curve
        assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    """Stopped after step 2 of 4, in the middle of an epoch, with images read ahead."""
    plan, caught = PLANS["sed_sft"].model_copy(update={"targets": "canonical"}), Interrupts()
    examples = small.train_examples(10)

    def go(
        adapter: OpenFlamingo, workers: int, saved: CellCheckpointer | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        def progress(step: int, _: float) -> None:
            caught.pending = signal.SIGTERM if step == stop else None

        ready = prepare("ce", {}, adapter, (), plan, 0)
        hooks, log = Hooks(progress=progress), Log() if saved is None else saved.log
        curve = small.fine_tune(adapter, ready, plan, examples, hooks, saved, workers=workers, log=log)
        return [{key: value for key, value in row.items() if key not in TIMES} for row in curve]

    def checkpointer() -> CellCheckpointer:
        return small.checkpointer(tmp_path, caught)

    whole, adapter = small.fitted(), small.fitted()
    expected = go(whole, 0)
    with pytest.raises(Interrupted):
        go(small.fitted(), 3, checkpointer(), stop=2)
    assert go(adapter, 1, checkpointer()) == expected
    assert all(torch.equal(a, b) for a, b in zip(adapter.model.parameters(), whole.model.parameters(), strict=True))


def test_rows_of_one_image_share_its_pixels() -> None:
    reading = Reading()
    rows = [Row(example, (7,)) for example in images(4, 4, 4, 5, 4)]
    assert ids(images_of(rows, reading)) == [4, 4, 4, 5, 4]
    assert reading.begun == [4, 5, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_fails_the_cell_in_one_line(workers: int, tmp_path: Path) -> None:
    """The same line and the same rows before it, however early it was read."""
    context = one_cell(workers)
    examples = small.train_examples(24)
    broken = replace(examples[3], path=tmp_path / "broken.png")
    broken.path.write_bytes(b"no picture")
    splits = {"train": (*examples[:3], broken, *examples[4:])}
    context.benchmark = _WithOther(context.benchmark, splits)
    (record,) = runner.run(context, tmp_path / "out", "*-ce-*")
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith(f"DataError: {broken.path}: expected a readable image")
    assert not readers()


class _WithOther:
    """A benchmark with some splits replaced."""

    def __init__(self, benchmark: Any, splits: dict[str, tuple[Example, ...]]) -> None:
        self._benchmark, self._splits = benchmark, splits

    def split(self, name: str) -> tuple[Example, ...]:
        examples: tuple[Example, ...] = self._splits.get(name) or self._benchmark.split(name)
        return examples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)


def one_cell(workers: int, profile: bool = False) -> Context:
    """A CE cell that sees every training image at its second step."""
    suite = small.mini_suite(objectives=["ce"], train={"steps": 2, "batch_size": 12, "log_every": 1})
    context = open_context(suite, None, "cpu")
    context.workers, context.profile = workers, profile
    return context


# ---- where the time goes -------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_phases_add_up_to_the_wall_clock() -> None:
    """3 s outside; 2 + 1 s of evaluation around 5 s of generation, which are not evaluation's."""
    clock, settled = Clock(), []
    recorder = profiler.PhaseRecorder(lambda: settled.append(clock.now), clock)
    clock.now += 3
    with profiler.recording(recorder):
        with phase("evaluation"):
            clock.now += 2
            with phase("generation"):
                clock.now += 5
            clock.now += 1
        with suppress(KeyError), phase("evaluation"):
            clock.now += 7
            raise KeyError
    with phase("evaluation"):  # nobody records any more
        pass
    assert recorder.seconds == {"evaluation": 10.0, "generation": 5.0, "other": 3.0}
    assert list(recorder.seconds)[-1] == "other"
    assert settled[:5] == [103, 105, 110, 111, 111]  # the device has finished at every border


def test_phases_that_nobody_records_cost_nothing() -> None:
    with phase("a"), phase("b"), profiler.recording(None):
        assert phase("a") is phase("b")


def test_phases_of_other_threads_are_not_recorded() -> None:
    clock = Clock()
    recorder = profiler.PhaseRecorder(clock=clock)
    with profiler.recording(recorder), ThreadPoolExecutor(1) as pool:
        assert pool.submit(phase, "elsewhere").result() is not phase("here")
    assert recorder.seconds == {"other": 0.0}


def test_profiles_of_several_cells_are_added() -> None:
    assert list(profiler.total([{"a": 1.0, "other": 9.0}, {"a": 1.0, "b": 3.0}]).items()) == [
        ("b", 3.0),
        ("a", 2.0),
        ("other", 9.0),
    ]


def test_a_profile_is_written_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every phase that a cell of CE has, and together the time that the cell took."""
    (record,) = runner.run(one_cell(2, profile=True), tmp_path, "*-ce-*")
    (path,) = (tmp_path / layout.PROFILE).iterdir()
    content = json.loads(path.read_text())
    assert set(content["seconds"]) == {
        *("preparation", "data", "forward", "backward", "reduction", "optimizer", "checkpoint"),
        *("held-out loss", "generation", "scoring", "matching and AP", "tables", "other"),
    }
    assert content["wall"] == pytest.approx(sum(content["seconds"].values()))
    assert content["wall"] >= record.seconds > 0
    assert 0 < content["seconds"]["data"] <= record.timings["waiting"]
    console.show_profile(tmp_path)
    printed = capsys.readouterr().out
    assert "1 profiled cells" in printed
    assert "matching and AP" in printed


def test_without_it_there_is_none(tmp_path: Path) -> None:
    runner.run(one_cell(0), tmp_path, "oracle-uniform-*")
    assert not (tmp_path / layout.PROFILE).exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": {"a": "b"}}', "{}"])
def test_a_file_that_is_no_profile_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: expected the profile of a cell"):
        profiler.read(tmp_path)
