"""Which images reinforcement learning is asked about: by what a fixed model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.errors import ConfigError, StageError
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth
from harness.metrics.samples.reward import REWARDS, Reward
from harness.records.record import read_record
from harness.run import runner
from harness.run.context import open_context
from harness.suite.stage_settings import Grpo, Prefilter
from harness.training.stage import Work
from harness.training.stages.prompts import PROMPTS, prompt_counts, prompts_of
from harness.types import Example, Sample
from tests.support import small
from tests.support.chains import GRPO, TablesInMemory, chain_of

EXAMPLES = small.train_examples(4)


class Answering:
    """A base that gives each image the sequences that were set down for it."""

    def __init__(self, answers: Mapping[int, Sequence[bool]]) -> None:
        adapter = small.fresh()
        self.codec, self.model, self.answers = adapter.codec, adapter.model, answers

    def generate(
        self, examples: Sequence[Example], temperatures: Sequence[float], seed: int, max_tokens: int
    ) -> list[list[Sample]]:
        del seed, max_tokens
        drawn = []
        for example in examples:
            right = [(self.codec.names_of[item.category_id][0], item.box) for item in example.instances]
            tokens_of_answers = [
                self.codec.encode(right if good else [], example.width, example.height)
                for good in self.answers[example.image_id]
            ]
            drawn.append([Sample(tokens, (0.0,) * len(tokens)) for tokens in tokens_of_answers][: len(temperatures)])
        return drawn


def work(answers: Sequence[Sequence[bool]], tables: TablesInMemory) -> Work:
    """Four images, of which the base says these."""
    base: Any = Answering({example.image_id: answer for example, answer in zip(EXAMPLES, answers, strict=True)})
    whole = small.work_of(small.fresh())
    return replace(whole, examples=EXAMPLES, fresh=lambda: base, cache=tables)


MIXED = [(True, False, True), (False, False, False), (True, True, True), (False, False, True)]


def test_images_whose_samples_all_succeed_or_all_fail_are_left_out(tmp_path: Path) -> None:
    tables = TablesInMemory()
    settings = Grpo(name="grpo", images=2, prefilter=Prefilter(samples=3))
    assert list(prompts_of(work(MIXED, tables), settings)) == [EXAMPLES[0], EXAMPLES[3]]
    table = tables.made[PROMPTS].set_index("image_id").loc[[example.image_id for example in EXAMPLES]]
    assert table["successes"].tolist() == [2, 0, 3, 1]
    assert table["used"].tolist() == [True, False, False, True]
    assert set(table["samples"]) == {3}
    table.reset_index().to_parquet(tmp_path / "prompts.parquet")
    counts = prompt_counts({PROMPTS: tmp_path / "prompts.parquet"})
    assert counts == {"images": 4, "used": 2, "all_failed": 1, "all_succeeded": 1}
    assert prompt_counts({}) is None


@pytest.mark.parametrize(("success", "used"), [(0.5, 1), (0.3, 0), (0.25, 0), (0.6, 1), (0.75, 0)])
def test_success_is_a_reward_of_at_least_that_much(success: float, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image has samples worth 0.3 and 0.6."""
    worth = Reward(lambda truth, answers, verification: np.array([[0.3, 0.6]] * len(truth.image_ids)), "", "")
    monkeypatch.setitem(REWARDS, "given", worth)
    settings = Grpo(name="grpo", images=1, reward="given", prefilter=Prefilter(samples=2, success=success))
    given = work([(True, True)] * 4, TablesInMemory())
    if used:
        assert len(prompts_of(given, settings)) == 4
    else:
        with pytest.raises(StageError, match="got 0 of 4"):
            prompts_of(given, settings)


def test_too_few_are_said_in_one_line() -> None:
    settings = Grpo(name="grpo", images=3, prefilter=Prefilter(samples=3))
    expected = r"then\.prefilter: expected at least the 3 images of a step .*, got 2 of 4"
    with pytest.raises(StageError, match=expected):
        prompts_of(work(MIXED, TablesInMemory()), settings)


def test_without_it_all_images_are_asked_about_and_nothing_is_drawn() -> None:
    tables = TablesInMemory()
    assert prompts_of(work(MIXED, tables), Grpo(name="grpo")) == EXAMPLES
    assert not tables.made


def test_the_base_is_asked_whatever_the_model_has_learnt() -> None:
    """Rows that were trained otherwise have the same images."""
    settings = Grpo(name="grpo", images=2, prefilter=Prefilter(samples=3))
    one, other = TablesInMemory(), TablesInMemory()
    given = work(MIXED, one)
    prompts_of(given, settings)
    prompts_of(replace(given, adapter=small.fitted(), cache=other), settings)
    pd.testing.assert_frame_equal(one.made[PROMPTS], other.made[PROMPTS])


def test_cells_of_earlier_code_stay_the_same() -> None:
    assert "prefilter" not in Grpo(name="grpo").described
    described = Grpo(name="grpo", prefilter=Prefilter()).described
    assert described["prefilter"] == {"samples": 8, "success": 0.5}


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown key objectives\.0\.then\.prefilter\.sucess: .*'success'"):
        chain_of({**GRPO, "prefilter": {"sucess": 0.5}})


def alternating(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Every third image fails with all samples, every third succeeds with all, the others with every second one."""
    del verification
    sample, image = np.arange(answers.samples), np.arange(len(truth.image_ids))[:, None] % 3
    return np.where(image < 2, image, sample % 2).astype(np.float64)


def test_the_record_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 images in batches of 16 and 8: 6 + 3 fail, 5 + 3 succeed, 5 + 2 do both."""
    monkeypatch.setitem(REWARDS, "alternating", Reward(alternating, "", ""))
    settings: dict[str, Any] = {
        "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": 2, "calibration_images": 2},
        "models": ["open_flamingo"],
        "train": {"steps": 2, "batch_size": 4, "log_every": 1},
        "sample": {"samples": 2, "max_tokens": 12, "batch_images": 2},
        "objectives": [
            {
                "name": "ce",
                "label": "some",
                "then": {**GRPO, "steps": 1, "images": 2, "reward": "alternating", "prefilter": {"samples": 4}},
            }
        ],
    }
    runner.run(open_context(small.mini_suite(**settings), None, "cpu"), tmp_path, "*-some-*")
    (cell,) = (tmp_path / "cells").iterdir()
    record = read_record(cell)
    assert record.status == "finished", record.error
    table = pd.read_parquet(cell / f"{PROMPTS}.parquet")
    assert record.prompts == {"images": 24, "used": 7, "all_failed": 9, "all_succeeded": 8}
    assert int(table["used"].sum()) == 7
