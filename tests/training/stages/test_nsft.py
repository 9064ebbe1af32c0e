"""nSFT and continued fine-tuning: stages of training that go on from targets, and from corrections of own errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import ConfigError, ObjectiveError, StageError
from harness.metrics.samples.reward import rewards
from harness.objectives.apply import token_level
from harness.objectives.policy import nsft
from harness.objectives.token import ce_kl
from harness.protocols import Correction
from harness.run import runner
from harness.run.context import open_context
from harness.sequence.targets import target
from harness.suite.stage_settings import Sft
from harness.training.finetuning import FineTuning
from harness.training.objective import prepare
from harness.training.rows import Row
from harness.training.stage import stage_seed
from harness.training.stages.corrections import Templates
from harness.training.stages.nsft import NsftStage, answers_of, corrections_of
from harness.training.stages.rollout import Rollout
from harness.training.step import accumulate
from harness.types import Example, Members, Projection, Sample, TokenBatch
from model_zoo.flamingo.toy import OpenFlamingo
from tests.metrics.builders import example
from tests.support import small
from tests.support.chains import (
    NSFT,
    SFT,
    TablesInMemory,
    chain_of,
    first_step,
    gradient,
    stage_of,
    steps_of,
    train_chain,
    weights,
)
from tests.support.tiny import Scripted
from tests.training.stages.test_corrections import CODEC, FAR, A, B, encoded, installed

__all__ = ["installed"]  # a fixture


# ---- the loss, by hand -------------------------------------------------------------------------------------------


def batch(logits: Tensor | Projection, reference: Tensor | Projection | None = None) -> TokenBatch:
    """Three positions of a target and two of a correction, in sequences that take turns."""
    members = Members(torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.bool), torch.zeros(3))
    correction = torch.tensor([False, True, False])
    group = torch.tensor([0, 0, 1, 1, 2])
    corrected = replace(members, correction=correction)
    return TokenBatch(logits, torch.tensor([1, 0, 2, 2, 3]), group, corrected, reference=reference)


def projection(seed: int) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    return Projection(hidden.double().requires_grad_(), weight.double().requires_grad_())


@pytest.mark.parametrize("multiplied", [True, False])
def test_two_means_and_the_divergence_by_hand(multiplied: bool) -> None:
    made, frozen = projection(0), projection(1)
    logits, other = made.hidden @ made.weight.T, (frozen.hidden @ frozen.weight.T).detach()
    given = batch(logits, other) if multiplied else batch(made, frozen)
    output = nsft(given, negative=0.5, kl=0.2)
    gradients = torch.autograd.grad(output.mean(), (made.hidden, made.weight), retain_graph=True)
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    nll = F.cross_entropy(logits, given.labels, reduction="none")
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # torch's is KL(second || first)
    both = nll + 0.2 * kl
    expected = both[[0, 1, 4]].mean() + 0.5 * both[[2, 3]].mean()
    assert float(output.mean().detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for part, right in zip(gradients, torch.autograd.grad(expected, (made.hidden, made.weight)), strict=True):
        assert torch.allclose(part, right, rtol=1e-9)
    assert {name: (int(term.count), term.unit) for name, term in output.terms.items()} == {
        "ce": (3, "tokens"),
        "kl": (3, "tokens"),
        "correction_ce": (2, "corrections"),
        "correction_kl": (2, "corrections"),
    }
    sums, count = output.stats["correction_kl"]
    assert float(sums / count) == pytest.approx(float(kl[[2, 3]].mean().detach()))


def test_the_divergence_from_itself_is_nothing_and_pulls_nowhere() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    output = nsft(batch(logits, logits.detach()), negative=1.0, kl=1.0)
    divergence = output.terms["kl"].sum + output.terms["correction_kl"].sum
    assert float(divergence.detach()) == 0.0
    assert float(torch.autograd.grad(divergence, logits)[0].abs().max()) < 1e-15


def test_what_is_missing_is_an_error() -> None:
    logits = torch.zeros(5, 4)
    with pytest.raises(ObjectiveError, match=r"needs TokenBatch\.reference"):
        nsft(batch(logits), negative=1.0, kl=0.1)
    with pytest.raises(ObjectiveError, match="members that say which of them are corrections"):
        nsft(replace(batch(logits), members=None), negative=1.0, kl=0.0)
    with pytest.raises(ObjectiveError, match=r"TokenBatch\.reference must have \[5\] rows"):
        token_level(partial(ce_kl, weight=0.1), batch(logits, torch.zeros(4, 4)), logged=False)


def test_without_corrections_it_is_fine_tuning() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    none = Members(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    output = nsft(replace(batch(logits), members=none), negative=3.0, kl=0.0)
    assert float(output.mean().detach()) == pytest.approx(float(F.cross_entropy(logits, batch(logits).labels).detach()))


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows_of(adapter: OpenFlamingo) -> list[Row]:
    """Targets of two images, and three corrections of them."""
    one, two = small.fitted_examples()[:2]
    codec = adapter.codec
    first, second = (target(e, codec, "canonical") for e in (one, two))
    return [
        Row(one, first),
        Row(one, first[5:], context=first[:5], correction=True),
        Row(two, second),
        Row(two, second, correction=True),
        Row(two, second[-1:], context=(*second[:5], *second[:-1]), correction=True),
    ]


def of_rows(rows: Sequence[Row], micro_batch: int = 100, negative: float = 1.0, kl: float = 0.0) -> tuple[Any, Tensor]:
    adapter, stage = small.fitted(), stage_of(chain_of({**NSFT, "negative": negative, "kl": kl}))
    assert isinstance(stage, NsftStage)
    stage = replace(stage, reference=small.fresh(seed=7) if kl else None)
    output = accumulate(adapter, rows, stage.objective, micro_batch, small.accelerator())
    return output, gradient(adapter)


def test_only_answers_are_learnt() -> None:
    """The gradient is that of two forward passes by hand: of the target's tokens, and of the answer's after a context
    whose own tokens have no loss."""
    adapter = small.fitted()
    plain, correction = rows_of(adapter)[:2]
    _, update = of_rows([plain, correction])
    image, prompt = adapter.pixels([plain.example]), adapter.codec.tokens.prompt
    whole = torch.tensor([[*prompt, *plain.tokens]])
    log_p = adapter.logits(image, whole[:, :-1]).log_softmax(-1)[0].gather(1, whole[0, 1:, None])[:, 0]
    assert (*correction.context, *correction.tokens) == plain.tokens  # so one pass says all
    answer = log_p[len(prompt) - 1 + len(correction.context) :]
    torch.autograd.backward(-log_p[len(prompt) - 1 :].mean() - answer.mean())
    assert update.norm() > 1e-3
    assert (update - gradient(adapter)).norm() < 1e-4 * update.norm()


@pytest.mark.parametrize(("negative", "kl"), [(1.0, 0.0), (0.3, 0.5)])
def test_the_gradient_does_not_depend_on_how_a_batch_is_split(negative: float, kl: float) -> None:
    rows = rows_of(small.fitted())
    whole, expected = of_rows(rows, 100, negative, kl)
    assert expected.norm() > 1e-3
    for size in (1, 2, 3):
        output, update = of_rows(rows, size, negative, kl)
        assert (update - expected).norm() < 1e-4 * expected.norm()
        assert float(output.mean().detach()) == pytest.approx(float(whole.mean().detach()), rel=1e-4)


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
    """The one of tests.training.stages.test_corrections answers every sample with the whole image, in no context."""
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


# ---- continued fine-tuning -------------------------------------------------------------------------------------------


def test_any_objective_can_follow() -> None:
    """Minimum-risk training, with samples of its own: the curve has its term, and it moves the model elsewhere."""
    sets = {"targets": "all(2)", "batching": "grouped"}
    trained = {}
    stages: dict[str, dict[str, Any]] = {
        "ce": {},
        "mrt": {"objective": {"name": "mrt", "samples": 2}, **sets},
        "sets": sets,
        "gem": {"objective": "gem"},
    }
    for name, then in stages.items():
        adapter = small.fitted()
        chain = chain_of({**SFT, "steps": 2, **then})
        curve = train_chain(adapter, chain)
        assert [row["step"] for row in curve] == [1, 2, 3, 4]
        trained[name] = weights(adapter)
    assert all(not torch.equal(a, b) for n, a in trained.items() for m, b in trained.items() if n < m)


def test_a_reference_is_the_model_as_the_stage_begins() -> None:
    """It selects what the trained model itself selects in the first step, and stays as it was afterwards."""
    sed = {"name": "sed_sft", "top_k": 2, "threshold": 0.82, "weight": 5.0}
    curves = {}
    for mask in ("live", "base"):
        adapter = small.fitted()
        curves[mask] = train_chain(adapter, chain_of({**SFT, "lr": 3e-3, "objective": {**sed, "mask": mask}}))[2:]
    assert 0 < curves["base"][0]["selected"] < 1
    assert curves["base"][0] == curves["live"][0]
    assert {row["selected"] for row in curves["base"]} == {curves["base"][0]["selected"]}  # all images in every batch
    assert len({row["selected"] for row in curves["live"]}) > 1


def test_the_record_says_the_whole_objective() -> None:
    chain = chain_of({**SFT, "objective": "gem"})
    assert chain.described(chain.models[0], chain.objectives[0])["then"]["objective"] == {
        "name": "gem",
        "beta": 0.7,
        "h": "linear",
    }
    stage = Sft(name="sft", steps=10, objective={"name": "mrt", "samples": 3})
    assert stage.amount.trained == 10 * 16 * 4


SETS = "mrt needs several targets of an image in a batch"


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({"objective": "mrtt"}, "unknown objective 'mrtt', did you mean 'mrt'?"),
        ({"objective": {"name": "gem", "betta": 1}}, "gem: unknown setting 'betta', did you mean 'beta'?"),
        ({"objective": {"name": "mrt"}}, f"objective chain: then: {SETS}, but train has targets: canonical"),
        (
            {"objective": {"name": "sed_sft", "top_k": 5, "quantile": 0.3}},
            "sed_sft: quantile: expected a threshold in a later stage",
        ),
        ({"batching": "grouped"}, "objectives.chain.then: batching: grouped needs targets: all(n), got canonical"),
        ({"collision_rate": 0.5}, "collision_rate: expected with batching: collision, and only there"),
        ({"targets": "all"}, "objectives.0.then.targets: String should match pattern"),
    ],
)
def test_what_cannot_be_is_one_line_of_the_suite(then: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chain_of({**SFT, **then})
    (problem,) = caught.value.problems
    assert message in problem


def test_an_unknown_corrector_is_told_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"then\.corrector: unknown corrector 'template', did you mean 'templates'"):
        runner.run(open_context(chain_of({**NSFT, "corrector": "template"}), None, "cpu"), tmp_path)
    assert not list(tmp_path.iterdir())
