"""DPO and DivPO as stages after fine-tuning: what they learn from, what they leave, and going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
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
from harness.sequence.targets import target
from harness.suite.schema import Suite
from harness.suite.stage_settings import Grpo
from harness.training.rows import Row, sets_of
from harness.training.stage import Stage
from harness.training.step import accumulate
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.chains import (
    DIVPO,
    DPO,
    GEPO,
    SPL,
    TablesInMemory,
    brevity,
    chain_of,
    first_step,
    gradient,
    log_probs,
    stage_of,
    train_chain,
    weights,
)
from tests.support.processes.killing import counted


def suite(then: Mapping[str, Any] = DPO) -> Suite:
    """One row: two steps of cross-entropy, then the stage."""
    return chain_of(then)


# ---- one step --------------------------------------------------------------------------------------------------------


@cache
def begun() -> tuple[OpenFlamingo, Stage, list[Row], pd.DataFrame]:
    adapter, stage = small.fitted(), stage_of(suite())
    tables = TablesInMemory()
    step = first_step(stage, adapter, small.fitted_examples(), cache=tables)
    (rows,) = step.updates
    return adapter, stage, list(rows), tables.made["pairs"]


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
    update = gradient(adapter)
    assert int(output.terms["dpo"].count) == 3
    assert float(output.mean()) == pytest.approx(0.6931472, abs=1e-5)
    adapter.model.zero_grad()
    for row in rows:
        assert row.advantage is not None
        torch.autograd.backward(-0.1 / 2 * row.advantage / 3 * log_probs(adapter, row).sum())
    assert (update - gradient(adapter)).norm() < 1e-3 * update.norm()


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
    curve = train_chain(adapter, suite({**{"dpo": DPO, "divpo": DIVPO, "spl": SPL, "gepo": GEPO}[name], **changes}))
    return curve[2:], weights(adapter)


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
        *(("spl", change) for change in ({"alpha": 0.6}, {"beta": 0.5}, {"pairs_per_image": 2}, {"normalise": True})),
        *(("gepo", change) for change in ({"group": 2}, {"weight": 0.1}, {"beta": 0.5}, {"batch_size": 3})),
        *(("divpo", change) for change in ({"good": 0.5}, {"bad": 0.85}, {"samples": 8}, {"beta": 0.5})),
    ],
)
def test_every_setting_has_an_effect(name: str, change: dict[str, Any]) -> None:
    assert not torch.equal(outcome(name)[1], outcome(name, **change)[1])


def test_spl_with_equal_weights_is_dpo_to_the_last_bit() -> None:
    curve, learnt = outcome("spl", alpha=0.1, beta=0.1)
    expected, of_dpo = outcome("dpo", beta=0.1)
    assert curve == expected
    assert torch.equal(learnt, of_dpo)


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_a_group_is_what_an_image_has_to_compare() -> None:
    """Different members of its equivalence set over its worst samples, whatever the targets of fine-tuning are."""
    adapter, tables = small.fitted(), TablesInMemory()
    stage = stage_of(suite({**GEPO, "batch_size": 3}))
    (rows,) = first_step(stage, adapter, small.fitted_examples(), cache=tables).updates
    groups = sets_of(rows)
    assert len(groups) == 3
    for group in groups:
        winners = [row.tokens for row in group if row.advantage == 1.0]
        losers = [row.tokens for row in group if row.advantage == -1.0]
        assert len(winners) == len(losers) == len(group) // 2 == len({*winners}) == len({*losers})
        assert not {*winners} & {*losers}
    assert max(len(group) for group in groups) > 2
    assert len(tables.made["pairs"]) >= sum(len(group) // 2 for group in groups)


@pytest.mark.parametrize("micro_batch", [1, 100])
def test_the_first_update_of_groups(micro_batch: int) -> None:
    """At the reference the loss is log 2, all r are 0 and the variance has no slope: the gradient is that of - beta / 2
    * (mean log P of the winners - mean of the losers), a mean over the groups, which stay whole."""
    adapter, stage = small.fitted(), stage_of(suite({**GEPO, "batch_size": 3}))
    (rows,) = first_step(stage, adapter, small.fitted_examples(), cache=TablesInMemory()).updates
    adapter.model.zero_grad()
    output = accumulate(adapter, rows, stage.objective, micro_batch, small.accelerator())
    update = gradient(adapter)
    assert float(output.mean()) == pytest.approx(0.6931472, abs=1e-5)
    assert {name: int(term.count) for name, term in output.terms.items()} == {"gepo": 3, "variance": 3}
    adapter.model.zero_grad()
    for group in sets_of(rows):
        for row in group:
            assert row.advantage is not None
            share = -0.1 / 2 * row.advantage / (len(group) / 2) / 3
            torch.autograd.backward(share * log_probs(adapter, row).sum())
    assert (update - gradient(adapter)).norm() < 1e-3 * update.norm()


def test_winners_become_likelier_and_equally_so() -> None:
    """With the variance at a weight they stay closer together than without it."""
    tied, free = outcome("gepo", lr=1e-3, weight=1.0)[0], outcome("gepo", lr=1e-3, weight=0.0)[0]
    assert tied[-1]["margin"] > 0.05
    assert 0 < tied[-1]["variance"] < free[-1]["variance"]


# ---- settings of cells -----------------------------------------------------------------------------------------------


def test_the_reward_says_which_sample_is_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "brevity", brevity)
    assert not torch.equal(outcome("dpo")[1], outcome("dpo", reward="brevity")[1])


def test_settings_of_grpo_tell_its_cells_apart() -> None:
    """`filter` sets them apart from cells of earlier code, which had another mean and another deviation."""
    assert Grpo(name="grpo").described == {
        "name": "grpo",
        "steps": 60,
        "images": 16,
        "filter": False,
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


TINY: dict[str, Any] = {
    "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": 2, "calibration_images": 2},
    "models": ["open_flamingo"],
    "train": {"steps": 2, "batch_size": 4, "log_every": 1},
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 2},
}


def tiny(**then: dict[str, Any]) -> Suite:
    """A row for each stage, labelled by the keyword."""
    return small.mini_suite(
        **TINY, objectives=[{"name": "ce", "label": label, "then": stage} for label, stage in then.items()]
    )


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
