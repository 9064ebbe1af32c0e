"""The objective `mixture`: experts are chosen without dropout, one learns a target, and answers know their expert."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import records
from harness.commands.models import predict
from harness.errors import ConfigError, ObjectiveError
from harness.evaluation.scored_samples import EvaluationSettings, sample_and_score
from harness.inference.confidence import MentionScore, score
from harness.inference.teacher_forcing import heldout_nll, likeliest, log_likelihoods, with_likeliest
from harness.protocols import Adapter
from harness.run import runner
from harness.run.context import open_context
from harness.run.task import experts_of
from harness.sequence.targets import target
from harness.suite.schema import SampleSettings
from harness.training.objective import Objective, prepare
from harness.training.rows import Row
from harness.training.step import accumulate, means
from harness.types import Example, LossOutput
from tests.support import small
from tests.support.gru_adapter import GruDetector

EXPERTS = 3


def gru(seed: int = 0) -> GruDetector:
    """A mixture with random weights, whose experts differ visibly, and with dropout; it is in training."""
    torch.manual_seed(seed)
    adapter = GruDetector(small.benchmark().categories, {"width": 32})
    with torch.no_grad():
        adapter.model.embedding.weight.mul_(3.0)
    adapter.model.embedding = nn.Sequential(adapter.model.embedding, nn.Dropout(0.3))  # type: ignore[assignment]
    adapter.codec.experts = experts_of(adapter, "mixture", {"experts": EXPERTS})
    adapter.model.train()
    return adapter


def shown(adapter: Adapter, count: int = 12) -> tuple[list[Example], list[tuple[int, ...]]]:
    examples = list(small.train_examples(count))
    return examples, [target(example, adapter.codec, "canonical") for example in examples]


def e_step(adapter: Adapter, count: int = 12) -> Tensor:
    examples, sequences = shown(adapter, count)
    return log_likelihoods(adapter, examples, sequences, adapter.pixels(examples))


def by_hand(adapter: Adapter, example: Example, tokens: tuple[int, ...], expert: int) -> float:
    """log P(tokens | image, expert), one sequence at a time."""
    adapter.model.eval()
    prompt = [*adapter.codec.tokens.prompt, adapter.codec.experts[expert]]
    with torch.no_grad():
        logits = adapter.logits(adapter.pixels([example]), torch.tensor([[*prompt, *tokens[:-1]]]))
    return -float(F.cross_entropy(logits[0, len(prompt) - 1 :], torch.tensor(tokens), reduction="sum"))


def objective_of(experts: int, name: str = "mixture") -> Objective:
    settings = {"experts": experts} if name == "mixture" else {}
    return prepare(name, settings, small.fresh(), (), small.mini_suite().train, 0)


def step(adapter: Adapter, objective: Objective) -> tuple[LossOutput, dict[str, Tensor | None]]:
    """What a step over some images makes of the parameters' gradients."""
    adapter.model.zero_grad()
    rows = [Row(example, tokens) for example, tokens in zip(*shown(adapter), strict=True)]
    output = accumulate(adapter, rows, objective, 5, small.accelerator())
    return output, {name: p.grad for name, p in adapter.model.named_parameters()}


# ---- the E-step ------------------------------------------------------------------------------------------------------


def test_the_expert_with_the_largest_likelihood_is_chosen() -> None:
    assert likeliest(torch.tensor([[-1.0, -2.0], [-3.0, -0.5], [-1.0, -1.0]])) == [0, 1, 0]


@pytest.mark.parametrize("make", [gru, small.fresh])
def test_likelihoods_are_those_of_the_sequences_after_the_expert(make: type) -> None:
    """For an adapter that encodes images apart, and for one that has logits only."""
    adapter = make()
    adapter.codec.experts = experts_of(adapter, "mixture", {"experts": EXPERTS})
    examples, sequences = shown(adapter, 3)
    expected = [[by_hand(adapter, e, s, z) for z in range(EXPERTS)] for e, s in zip(examples, sequences, strict=True)]
    torch.testing.assert_close(e_step(adapter, 3), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    asked = with_likeliest(adapter, examples, sequences)
    assert [example.expert for example in asked] == [row.index(max(row)) for row in expected]


@pytest.mark.parametrize("training", [True, False])
def test_experts_are_chosen_without_dropout_and_the_mode_stays(training: bool) -> None:
    adapter = gru()
    examples, sequences = shown(adapter)
    inputs = torch.tensor([[*adapter.codec.prompt(examples[0]), *sequences[0]]])
    pixels = adapter.pixels(examples[:1])
    assert not torch.equal(adapter.logits(pixels, inputs), adapter.logits(pixels, inputs))  # in training they vary
    adapter.model.train(training)
    assert torch.equal(e_step(adapter), e_step(adapter))
    assert adapter.model.training == training
    assert all(module.training == training for module in adapter.model.modules())


def test_the_mode_stays_where_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = gru()
    monkeypatch.setattr(adapter, "logits", lambda pixels, tokens: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        e_step(adapter)
    assert adapter.model.training


# ---- the M-step ------------------------------------------------------------------------------------------------------


def test_only_the_chosen_expert_learns_a_target() -> None:
    """The gradient is that of cross-entropy after each target's expert; all others are as if they were not there."""
    adapter = gru()
    adapter.model.embedding[1].p = 0.0  # type: ignore[index]
    chosen = likeliest(e_step(adapter))
    assert len(set(chosen)) > 1
    output, gradients = step(adapter, objective_of(EXPERTS))
    adapter.model.zero_grad()
    parts = []
    for example, tokens, expert in zip(*shown(adapter), chosen, strict=True):
        prompt = [*adapter.codec.tokens.prompt, adapter.codec.experts[expert]]
        logits = adapter.logits(adapter.pixels([example]), torch.tensor([[*prompt, *tokens[:-1]]]))
        parts.append(F.cross_entropy(logits[0, len(prompt) - 1 :], torch.tensor(tokens), reduction="none"))
    expected = torch.cat(parts).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert float(output.mean()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in adapter.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)
    shares = [means(output)[f"expert/{expert}"] for expert in range(EXPERTS)]
    assert shares == pytest.approx([chosen.count(expert) / len(chosen) for expert in range(EXPERTS)])


def test_one_expert_is_cross_entropy() -> None:
    one, plain = small.fresh(), small.fresh()
    one.codec.experts = experts_of(one, "mixture", {"experts": 1})
    (loss, gradients), (ce, expected) = step(one, objective_of(1)), step(plain, objective_of(1, "ce"))
    assert torch.equal(loss.mean(), ce.mean())
    assert all(name.partition("/")[0] != "expert" for name in loss.stats)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=0)


def test_a_model_without_these_experts_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="mixture needs a model with 4 experts, got 3"):
        step(gru(), objective_of(4))


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_greedy_is_the_answer_of_the_expert_that_is_surest() -> None:
    adapter, examples = gru(), small.train_examples(6)
    adapter.model.eval()
    tokens, every = adapter.codec.experts, []
    for token in tokens:  # a mixture of one token has one greedy answer
        adapter.codec.experts = (token,)
        every.append([greedy for (greedy,) in adapter.generate(examples, [0.0], seed=0, max_tokens=12)])
    adapter.codec.experts = tokens
    answers = [greedy for (greedy,) in adapter.generate(examples, [0.0], seed=0, max_tokens=12)]
    for answer, *each in zip(answers, *every, strict=True):
        totals = [sum(sample.log_probs) for sample in each]
        best = totals.index(max(totals))
        assert (answer.tokens, answer.expert) == (each[best].tokens, best)
    assert {answer.expert for answer in answers} != {0}  # the first would answer in any case


def test_a_sample_is_that_of_its_expert() -> None:
    """Its log-probability is the one that its tokens have after its expert's token, and not after another's."""
    adapter, examples = gru(), small.train_examples(4)
    adapter.model.eval()
    drawn = adapter.generate(examples, [1.0] * 4, seed=0, max_tokens=6)
    assert {sample.expert for of_image in drawn for sample in of_image} == set(range(EXPERTS))
    for example, of_image in zip(examples, drawn, strict=True):
        for sample in of_image:
            totals = [by_hand(adapter, example, sample.tokens, expert) for expert in range(EXPERTS)]
            assert sample.expert is not None
            assert sum(sample.log_probs) == pytest.approx(totals.pop(sample.expert), abs=1e-3)
            assert sum(sample.log_probs) != pytest.approx(totals[0], abs=1e-3)


def test_an_answer_is_scored_under_its_expert() -> None:
    adapter = gru()
    settings = EvaluationSettings(SampleSettings(samples=3, max_tokens=14, grammar=True, batch_images=2))
    examples = small.train_examples(3)
    answered = sample_and_score(adapter, examples, settings)[1.0]
    shifted = []
    for example, samples, scores in zip(examples, answered.emitted, answered.scores, strict=True):
        for sample, given in zip(samples, scores, strict=True):
            assert sample.expert is not None

            def scored(expert: int, sample: object = sample, example: Example = example) -> list[MentionScore]:
                read = adapter.codec.decode(sample.tokens, example.width, example.height)  # type: ignore[attr-defined]
                return score(adapter, [replace(example, expert=expert)], [sample.tokens], [read])[0]  # type: ignore[attr-defined]

            values = [mention.category for mention in given or []]
            assert [mention.category for mention in scored(sample.expert)] == pytest.approx(values, rel=1e-3)
            others = [mention.category for mention in scored((sample.expert + 1) % EXPERTS)]
            shifted.append(others != pytest.approx(values, rel=0.05))
    assert any(shifted)


def test_heldout_loss_is_that_of_the_whole_mixture() -> None:
    adapter = gru()
    examples, sequences = shown(adapter, 3)
    total = 0.0
    for example, tokens in zip(examples, sequences, strict=True):
        total -= math.log(sum(math.exp(by_hand(adapter, example, tokens, z)) for z in range(EXPERTS)) / EXPERTS)
    assert heldout_nll(adapter, examples) == pytest.approx(total / sum(map(len, sequences)), rel=1e-5)


# ---- in a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"name": "mixture", "then": {"name": "sft", "steps": 2}}, "expected no stage after mixture"),
        ({"name": "ce", "then": {"name": "sft", "steps": 2, "objective": "mixture"}}, "expected one without experts"),
    ],
)
def test_stages_know_no_experts(row: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        small.mini_suite(objectives=[row])


def test_more_experts_than_locations_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    context = open_context(small.mini_suite(objectives=[{"name": "mixture", "experts": 66}]), None, "cpu")
    with pytest.raises(ConfigError, match=r"experts: expected at most the model's 65 locations, got 66"):
        runner.plan(context, tmp_path)


def test_a_cell_says_which_expert_answered_and_predict_asks_them_again(tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 4, "log_every": 1, "probe": {"images": 2, "every": 1}}
    suite = small.mini_suite(objectives=["mixture", "ce"], train=train, keep="last")
    runner.run(open_context(suite, None, "cpu"), tmp_path)
    (folder,), (other,) = ((tmp_path / "cells").glob(f"*-{label}-s0-*") for label in ("mixture", "ce"))
    record, samples = records.read_record(folder), pd.read_parquet(folder / "samples.parquet")
    assert set(samples["expert"]) <= {0, 1, 2}
    assert samples[samples["sample"] > 0]["expert"].nunique() == 3
    assert "expert" not in pd.read_parquet(other / "samples.parquet")
    for row in record.curve:
        assert sum(row[f"expert/{expert}"] for expert in range(3)) == pytest.approx(1.0)
    adapter = predict.open_model(str(folder))
    assert adapter.codec.experts == experts_of(adapter, "mixture", {"experts": 3})
