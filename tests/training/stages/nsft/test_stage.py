"""The stage of nSFT: from samples with errors to corrections, and from these to a model that makes fewer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.errors import StageError
from harness.metrics.samples.reward import rewards
from harness.protocols import Correction
from harness.sequence.targets import target
from harness.training.finetuning import FineTuning
from harness.training.objective import prepare
from harness.training.rows import Row
from harness.training.stage import stage_seed
from harness.training.stages.corrections import Templates
from harness.training.stages.nsft import NsftStage, answers_of, corrections_of
from harness.training.stages.rollout import Rollout
from harness.types import Example, Sample
from tests.metrics.builders import example
from tests.support import small
from tests.support.chains import (
    NSFT,
    SFT,
    TablesInMemory,
    chain_of,
    first_step,
    stage_of,
    steps_of,
    train_chain,
    weights,
)
from tests.support.tiny import Scripted
from tests.training.stages.nsft.sequences import CODEC, FAR, A, B, encoded

# ---- what was said -> corrections ------------------------------------------------------------------------------------


IMAGE = example([(5, A), (7, B)], image_id=4, negative=[8])
RIGHT, WORSE, WORST = encoded(("sofa", A), ("bed", B)), encoded(("sofa", A)), encoded(("cup", FAR))


def rolled(*sequences: tuple[int, ...], image: Example = IMAGE) -> Rollout:
    """What a model said of one image, with its rewards."""
    parsed = [CODEC.decode(tokens, 64, 64) for tokens in sequences]
    worth = torch.from_numpy(rewards("detection", [image], [parsed]))
    return Rollout((image,), (tuple(Sample(tokens, ()) for tokens in sequences),), worth, torch.zeros_like(worth), {})


def table_of(*said_: Rollout, rejected: int = 1, seed: int = 0) -> pd.DataFrame:
    return corrections_of(said_, CODEC, Templates(CODEC, "canonical"), rejected, seed)


def kinds(table: pd.DataFrame) -> list[str]:
    return sorted(table["kind"])


def test_the_worst_samples_with_an_error_are_put_right() -> None:
    """WORST: an invented cup, both objects missed, three wrong counts. WORSE: the bed missed, and so a wrong count."""
    worst, worse = ["background", *["miscount"] * 3, "missed"], ["miscount", "missed"]
    assert kinds(table_of(rolled(RIGHT, WORSE, WORST, WORST))) == worst
    assert kinds(table_of(rolled(RIGHT, WORSE))) == worse
    assert kinds(table_of(rolled(RIGHT, WORSE, WORST), rejected=2)) == sorted(worst + worse)
    assert table_of(rolled(RIGHT, RIGHT)).empty
    paid = replace(rolled(WORSE, WORST), rewards=torch.tensor([[0.1, 0.2]], dtype=torch.float64))
    assert kinds(table_of(paid)) == worse  # whatever is paid for
    assert kinds(table_of(rolled(RIGHT, WORST, WORST), rejected=3)) == worst  # the same sample counts once


def test_what_an_image_gets_depends_on_the_seed_and_the_image_alone() -> None:
    other = rolled(WORSE, image=replace(IMAGE, image_id=5))
    joint, alone = table_of(other, rolled(WORST)), table_of(rolled(WORST))
    assert joint[joint["image_id"] == 4].reset_index(drop=True).equals(alone)
    assert any(not table_of(rolled(WORST), seed=seed).equals(alone) for seed in range(1, 9))


def test_the_table_comes_back_from_disk(tmp_path: Path) -> None:
    """With what was asked about an image, and contexts without tokens."""
    asked = replace(IMAGE, asked=(5, 7))
    table = table_of(rolled(WORST), rolled(WORSE, image=asked))
    table.to_parquet(tmp_path / "table.parquet", index=False)
    answers = answers_of(pd.read_parquet(tmp_path / "table.parquet"))
    assert answers == answers_of(table)
    assert answers.keys() == {(4,), (4, 5, 7)}
    lines = [Correction(*line[2:]) for line in table.itertuples(index=False)]
    written = [(line.context, line.answer) for line in lines[: int(table["asked"].isna().sum())]]
    assert len(set(written)) < len(written)  # a wrong count and a missed object may have the same answer
    assert answers[(4,)] == list(dict.fromkeys(written))
    assert () in {line.context for line in lines}


# ---- the stage -------------------------------------------------------------------------------------------------------


@cache
def outcome(**then: Any) -> tuple[list[dict[str, Any]], Tensor]:
    """The curve of the stage, and all weights afterwards."""
    adapter = small.fitted()
    curve = train_chain(adapter, chain_of({**NSFT, **then}))
    return curve[2:], weights(adapter)


def test_a_step_has_targets_and_some_corrections_of_the_same_images() -> None:
    adapter, images = small.fitted(), small.fitted_examples()
    stage = stage_of(chain_of({**NSFT, "rejected_per_image": 3}))
    assert isinstance(stage, NsftStage)
    tables = TablesInMemory()
    steps = [step.updates for step in steps_of(stage, adapter, images, 2, tables)]
    (table,) = tables.made.values()
    assert len(steps) == 3
    answers = answers_of(table)
    assert len(answers) >= 3  # a model that was fitted for a few steps errs on nearly every image
    shown: dict[int, set[Any]] = {}
    for (rows,) in steps:
        assert sorted(row.example.image_id for row in rows if not row.correction) == sorted(e.image_id for e in images)
        for image in images:
            first, *others = [row for row in rows if row.example is image]
            assert first == Row(image, target(image, adapter.codec, "canonical"))
            pairs = [(row.context, row.tokens) for row in others]
            assert len(pairs) == len(set(pairs)) == min(2, len(answers.get(image.key, ())))
            assert set(pairs) <= set(answers.get(image.key, ()))
            shown.setdefault(image.image_id, set()).update(pairs)
    assert any(len(pairs) > 2 for pairs in shown.values())  # they take turns


def test_a_stage_does_not_repeat_the_batches_of_the_one_before() -> None:
    plan = chain_of(SFT, {"batch_size": 2}).train
    adapter, images = small.fitted(), small.train_examples(24)
    objective = prepare("ce", {}, small.fresh(), (), plan, 0)
    drawn = []
    for start in (0, 2, 2, 3):
        first = first_step(FineTuning(objective, plan), adapter, images, start)
        drawn.append([row.example.image_id for row in first.updates[0]])
    assert drawn[1] == drawn[2]
    assert len({*map(tuple, drawn)}) == 3
    assert stage_seed(3, 0) == 3


@pytest.mark.parametrize(
    "change",
    [
        *({"images": 2, "batch_size": 2}, {"samples": 2}, {"temperature": 1.5}, {"rejected_per_image": 3}),
        *({"corrections": 1}, {"negative": 0.5}, {"kl": 2.0}, {"batch_size": 2}),
    ],
)
def test_every_setting_has_an_effect(change: dict[str, Any]) -> None:
    assert not torch.equal(outcome()[1], outcome(**change)[1])


def test_the_divergence_is_from_the_model_as_the_stage_begins() -> None:
    """0 to the last digits before the first update, positive afterwards; a larger weight holds the model back."""
    curves = {weight: [row["kl"] for row in outcome(kl=weight)[0]] for weight in (0.01, 10.0)}
    for divergence in curves.values():
        assert divergence[0] == pytest.approx(0, abs=1e-6)
        assert min(divergence[1:]) > 1e-5
    assert curves[10.0][-1] < curves[0.01][-1]
    assert "kl" not in outcome()[0][0]


def test_own_errors_become_unlikely() -> None:
    curve, _ = outcome(steps=8, lr=3e-4)
    nll = [row["correction_nll"] for row in curve]
    assert max(nll[-3:]) < min(nll[:2])


@pytest.mark.usefixtures("installed")
def test_with_a_corrector_of_ones_own() -> None:
    """The one of tests.training.stages.nsft.conftest answers every sample with the whole image, in no context."""
    stage = stage_of(chain_of({**NSFT, "corrector": "mine"}))
    (rows,) = first_step(stage, small.fitted(), small.fitted_examples(), 2).updates
    corrections = [row for row in rows if row.correction]
    assert corrections
    assert {row.context for row in corrections} == {()}


def test_random_targets_have_random_corrections() -> None:
    plans = [stage_of(chain_of(NSFT, {"targets": targets})).plan for targets in ("canonical", "all(2)")]
    assert [plan.targets for plan in plans] == ["canonical", "all(2)"]
    steps = steps_of(stage_of(chain_of(NSFT, {"targets": "random"})), small.fitted(), small.fitted_examples(), 2)
    drawn = {row.tokens for step in steps for row in step.updates[0] if not row.correction}
    assert len(drawn) > len(small.fitted_examples())


def test_a_model_without_errors_has_nothing_to_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = small.fitted()

    right = Scripted(adapter.codec, lambda example: [target(example, adapter.codec, "canonical")] * 8)
    monkeypatch.setattr(adapter, "generate", right.generate)
    with pytest.raises(StageError, match="expected errors in the model's samples to correct, found none"):
        first_step(stage_of(chain_of(NSFT)), adapter, small.fitted_examples(), 2)
