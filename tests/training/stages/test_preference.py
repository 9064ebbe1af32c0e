"""DPO and DivPO as stages after fine-tuning: what they learn from, what they leave, and going on after a kill."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.errors import ConfigError, DataError
from harness.metrics.samples.reward import REWARDS, rewards
from harness.run import runner
from harness.run.context import open_context
from harness.run.kept import ResumeWarning
from harness.run.resume import CellCheckpointer
from harness.sequence.targets import target
from harness.suite.schema import Suite
from harness.suite.stage_settings import STAGES, Grpo
from harness.system.interrupts import Interrupted, Interrupts
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.finetuning import FineTuning
from harness.training.loop import Hooks, train
from harness.training.objective import prepare
from harness.training.rows import Row
from harness.training.stage import Stage, Step, Work
from harness.training.stages import kinds, pairs
from harness.training.stages.rollout import keys
from harness.training.step import accumulate
from model_zoo.flamingo.toy import OpenFlamingo
from tests.run.test_resume import Server, counted, flip_last_byte, outcome_of, unkilled
from tests.support import small
from tests.training.stages.test_grpo import brevity, gradient, log_probs, parameters

OWN: dict[str, Any] = {"images": 4, "samples": 6, "batch_size": 3, "lr": 1e-4, "warm_up": 0, "log_every": 1, "steps": 3}
DPO = {"name": "dpo", **OWN}
DIVPO = {"name": "divpo", **OWN, "samples": 12, "temperature": 0.8, "good": 0.9, "bad": 0.45}


def suite(then: Mapping[str, Any] = DPO, **train: Any) -> Suite:
    """One row: two steps of cross-entropy, then the stage."""
    own = {"steps": 2, "batch_size": 4, "lr": 1e-5, "log_every": 1, **train}
    return small.mini_suite(objectives=[{"name": "ce", "label": "chain", "then": then}], train=own)


def stage_of(chain: Suite) -> Stage:
    (objective,) = chain.objectives
    assert objective.then is not None
    work = Work(small.fresh(), small.fitted_examples(), 3, small.accelerator(), fresh=small.fresh)
    return kinds.stage(objective.then, chain.plans_of(objective)[1], work)


class Tables:
    """A Cache that keeps them in memory."""

    def __init__(self) -> None:
        self.made: dict[str, pd.DataFrame] = {}

    def get_or_make(self, name: str, make: Any, /) -> Any:
        self.made[name] = make()
        return self.made[name]


def first_step(stage: Stage, adapter: OpenFlamingo) -> tuple[Step, pd.DataFrame]:
    """What it learns from, and the table of pairs."""
    tables = Tables()
    work = Work(adapter, small.fitted_examples(), 3, small.accelerator(), cache=tables)
    state = TrainingState(adapter.model, torch.optim.SGD(adapter.model.parameters()))
    step = next(stage.steps(work, state, DataParallel(adapter.model, work.accelerator), 0))
    return step, tables.made["pairs"]


def chained(
    adapter: OpenFlamingo,
    chain: Suite,
    kept: CellCheckpointer | None = None,
    stop: int | None = None,
    caught: Any = None,
) -> list[dict[str, Any]]:
    """The curve of both stages, without times."""
    first = chain.plans_of(chain.objectives[0])[0]
    ready = prepare("ce", {}, small.fresh(), (), first, 0)

    def progress(step: int, _: float) -> None:
        if step == stop:
            caught.pending = signal.SIGTERM

    work = small.work_of(adapter, kept)
    curve = train(work, [FineTuning(ready, first), stage_of(chain)], Hooks(progress=progress), kept)
    return [{name: value for name, value in row.items() if name not in ("seconds", "waiting")} for row in curve]


# ---- one step --------------------------------------------------------------------------------------------------------


@cache
def begun() -> tuple[OpenFlamingo, Stage, list[Row], pd.DataFrame]:
    adapter, stage = small.fitted(), stage_of(suite())
    todo, table = first_step(stage, adapter)
    (rows,) = todo.updates
    return adapter, stage, list(rows), table


def test_pairs_are_made_of_what_the_model_says() -> None:
    """The first target's pair: its reward is 1, that of the rejected one is what the sample is worth, and less."""
    adapter, _, rows, table = begun()
    examples = {example.image_id: example for example in small.fitted_examples()}
    assert len(table) == len(set(table["image_id"])) >= 3
    for line in table.to_dict("records"):
        example = examples[line["image_id"]]
        assert tuple(line["chosen_tokens"]) == target(example, adapter.codec, "canonical")
        worth = [
            rewards("detection", [example], [[adapter.codec.decode(line[name], example.width, example.height)]])[0, 0]
            for name in ("chosen_tokens", "rejected_tokens")
        ]
        assert [line["chosen_reward"], line["rejected_reward"]] == pytest.approx(worth)
        assert line["rejected_reward"] < line["chosen_reward"] == 1.0
    assert [row.advantage for row in rows] == [1.0, -1.0] * 3
    assert all(a.example is b.example for a, b in zip(rows[::2], rows[1::2], strict=True))


def test_references_are_the_log_probabilities_of_the_model_as_the_stage_begins() -> None:
    adapter, _, rows, _ = begun()
    for row in rows:
        assert row.reference is not None
        assert torch.allclose(row.reference, log_probs(adapter, row), atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 4, 100])
def test_the_first_update_is_that_of_the_pairs_however_they_are_split(micro_batch: int) -> None:
    """Loss log 2, and the gradient of - beta / 2 * mean over pairs of log P(chosen) - log P(rejected). A pair stays
    whole in a micro-batch of one row."""
    adapter, stage, rows, _ = begun()
    adapter.model.zero_grad()
    output = accumulate(adapter, rows, stage.objective, micro_batch, small.accelerator())
    found = gradient(adapter)
    assert int(output.terms["dpo"].count) == 3
    assert float(output.mean()) == pytest.approx(0.6931472, abs=1e-5)
    adapter.model.zero_grad()
    for row in rows:
        assert row.advantage is not None
        torch.autograd.backward(-0.1 / 2 * row.advantage / 3 * log_probs(adapter, row).sum())
    assert (found - gradient(adapter)).norm() < 1e-3 * found.norm()


def test_a_pair_that_comes_twice_in_a_batch_counts_twice() -> None:
    adapter, stage, (chosen, rejected, *_), _ = begun()
    twice = [replace(row, pair=number) for number in (0, 1) for row in (chosen, rejected)]
    output = accumulate(adapter, twice, stage.objective, 100, small.accelerator())
    adapter.model.zero_grad()
    assert int(output.terms["dpo"].count) == 2


# ---- settings --------------------------------------------------------------------------------------------------------


@cache
def outcome(name: str, **changes: Any) -> tuple[list[dict[str, Any]], Tensor]:
    """The curve of the stage, and all weights afterwards."""
    adapter = small.fitted()
    curve = chained(adapter, suite({**(DPO if name == "dpo" else DIVPO), **changes}))
    return curve[2:], torch.cat([p.detach().flatten() for p in parameters(adapter)])


@pytest.mark.parametrize("name", ["dpo", "divpo"])
def test_it_learns_to_prefer_the_chosen(name: str) -> None:
    curve, _ = outcome(name)
    assert [row["step"] for row in curve] == [3, 4, 5]
    assert curve[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert curve[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert curve[-1]["margin"] > 0.05
    assert curve[-1]["loss"] < curve[1]["loss"] < curve[0]["loss"]
    assert all(0 <= row["accuracy"] <= 1 for row in curve)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("dpo", change) for change in ({"images": 2}, {"samples": 3}, {"temperature": 0.8}, {"pairs_per_image": 2})),
        *(("dpo", change) for change in ({"beta": 0.5}, {"normalise": True}, {"sft_weight": 1.0}, {"batch_size": 2})),
        *(("divpo", change) for change in ({"good": 0.5}, {"bad": 0.85}, {"samples": 8}, {"beta": 0.5})),
    ],
)
def test_every_setting_has_an_effect(name: str, change: dict[str, Any]) -> None:
    assert not torch.equal(outcome(name)[1], outcome(name, **change)[1])


def test_the_reward_says_which_sample_is_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "brevity", brevity)
    assert not torch.equal(outcome("dpo")[1], outcome("dpo", reward="brevity")[1])


def test_settings_of_grpo_are_what_they_were() -> None:
    """Cells that earlier code made are found again."""
    assert Grpo(name="grpo").described == {
        "name": "grpo",
        "steps": 60,
        "images": 16,
        "samples": 8,
        "temperature": 1.0,
        "reward": "detection",
        "updates": 1,
        "low": 0.2,
        "high": 0.28,
        "kl": 0.0,
        "lr": 0.0001,
        "weight_decay": 0.0,
        "warm_up": 5,
        "clip": 1.0,
        "log_every": 5,
        "eval_at": [],
    }


def test_every_stage_can_be_made() -> None:
    assert kinds.KINDS.keys() == STAGES.keys()


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [DPO, pytest.param(DIVPO, marks=pytest.mark.slow)], ids=["dpo", "divpo"])
@pytest.mark.parametrize("stop", [2, 3])
def test_a_stopped_stage_goes_on_to_the_last_bit(then: dict[str, Any], stop: int, tmp_path: Path) -> None:
    """At the end of fine-tuning, and in the stage: then its pairs are those of the model as it began."""
    whole, chain = small.fitted(), suite(then)
    curve = chained(whole, chain)
    caught = Interrupts()
    with pytest.raises(Interrupted):
        chained(
            small.fitted(),
            chain,
            small.checkpointer(tmp_path, caught),
            stop,
            caught,
        )
    assert len(list(tmp_path.glob("table-pairs-*"))) == stop - 2
    adapter = small.fresh(seed=5)
    again = chained(adapter, chain, small.checkpointer(tmp_path))
    assert again == curve
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(whole), strict=True))


def test_damaged_pairs_are_made_again(tmp_path: Path) -> None:
    """By the model as the stage began, which the checkpoint before them has; that of a later step goes with them."""
    whole, chain = small.fitted(), suite()
    curve = chained(whole, chain)
    caught = Interrupts()
    with pytest.raises(Interrupted):
        chained(small.fitted(), chain, small.checkpointer(tmp_path, caught), 3, caught)
    (damaged,) = tmp_path.glob("table-pairs-*/pairs.parquet")
    flip_last_byte(damaged)
    adapter = small.fresh(seed=5)
    with pytest.warns(ResumeWarning) as seen:
        again = chained(adapter, chain, small.checkpointer(tmp_path))
    first, second = (str(warning.message) for warning in seen)
    assert first.startswith("checkpoint step-00000003 is of no use and was removed: ")
    assert second.startswith("table pairs is made again: ")
    assert again == curve
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(whole), strict=True))


TINY: dict[str, Any] = {
    "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": 2, "calibration_images": 2},
    "models": ["open_flamingo"],
    "train": {"steps": 2, "batch_size": 4, "log_every": 1},
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 2},
}


def tiny(**then: dict[str, Any]) -> Suite:
    """A row for each stage, labelled by the keyword."""
    return small.mini_suite(
        **TINY, objectives=[{"name": "ce", "label": label, "then": own} for label, own in then.items()]
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), tiny(chain=DPO), "*-chain-*")
    yield started
    started.close()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return unkilled(server, tmp_path_factory.mktemp("whole"))


KILLS = (
    ("harness.training.stages.rollout", "rollout", 1, "kill-after"),  # before there are pairs
    ("harness.run.kept", "StageTables._keep", 1, "kill"),
    ("harness.run.kept", "StageTables._keep", 1, "kill-after"),  # before the stage's first step
    ("harness.training.loop", "accumulate", 2, "kill"),
    ("harness.run.cell", "gallery_frame", 1, "kill"),
)
"""Calls are counted anew in each attempt, which begins where the one before it was killed."""


def test_a_killed_stage_leaves_the_record_of_one_that_was_not(
    server: Server, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert "pairs.parquet" in whole
    for place in KILLS:
        assert server.run(tmp_path, at=place).status == -signal.SIGKILL, place
    done = server.run(tmp_path)
    assert (done.status, done.printed) == (0, "")
    assert outcome_of(tmp_path) == whole


# ---- what cannot run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 25}, r"then\.images: expected at most the 24 training images, got 25"),
        ({"pairs": "nowhere.parquet"}, r"then\.pairs: nowhere\.parquet: expected the pairs\.parquet of a cell"),
    ],
)
def test_what_cannot_run_is_said_before_the_first_stage(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        runner.run(open_context(suite({**DPO, **change}), None, "cpu"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_good_is_better_than_bad() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.0\.then: bad: expected less than good: 0\.3, got 0\.4"):
        suite({**DIVPO, "good": 0.3, "bad": 0.4})
    with pytest.raises(ConfigError, match=r"unknown key objectives\.0\.then\.pair_per_image: .*'pairs_per_image'"):
        suite({**DPO, "pair_per_image": 2})


def test_without_pairs_the_stage_fails_and_fine_tuning_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, it is not fine-tuned again."""
    context = open_context(tiny(none={**DIVPO, "good": 1.0, "bad": 0.0, "samples": 2, "images": 1}), None, "cpu")
    steps = counted(monkeypatch, "harness.training.loop.accumulate")
    for _ in range(2):
        (record,) = runner.run(context, tmp_path, "*-none-*")
        assert record.status == "failed"
        assert record.error is not None
        assert (
            "then: divpo: expected images with a good sample (1 or more) and a bad one (0 or less), got" in record.error
        )
        assert "both of none of 2 samples of each of 1 images" in record.error
        (cell,) = (tmp_path / "cells").iterdir()
        assert [path.name for path in cell.glob("resume/step-*")] == ["step-00000002"]
    assert len(steps) == 2


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_learn_from_the_pairs_of_both(tmp_path: Path) -> None:
    """Each draws from half of the images; the pairs, and so the batches, are those of one process."""
    from tests.run.test_ranks import found
    from tests.support.ranks import preference_ranks  # it imports this module

    first, second = found(2, tmp_path, "tests.support.ranks.preference_ranks")
    assert first["sums"] == second["sums"]
    alone = preference_ranks.outcome(tmp_path / "alone")
    (together,), (one,) = (list(tmp_path.glob(f"{name}/table-pairs-*/pairs.parquet")) for name in ("resume", "alone"))
    both = pairs.read(together), pairs.read(one)
    assert keys(both[0]) == keys(both[1])
    assert pairs.sequences(both[0]) == pairs.sequences(both[1])
    for row, other in zip(first["curve"], alone["curve"], strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
