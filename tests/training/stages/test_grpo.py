"""A chain of stages: fine-tuning, then GRPO on the model's own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import ConfigError
from harness.inference.precision import Numbers, numbers_in_use
from harness.metrics.samples.reward import REWARDS, rewards
from harness.objectives.policy import advantages
from harness.run import runner
from harness.run.context import open_context
from harness.suite.schema import NamedObjective, Suite
from harness.suite.stage_settings import Grpo
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.loop import Hooks
from harness.training.rows import Row
from harness.training.stage import Work
from harness.training.stages.grpo import GrpoStage, split
from harness.training.stages.rollout import Rollout, own_samples, rollout
from harness.training.step import accumulate
from harness.types import Example, Sample
from model_zoo.flamingo.network import TrainableFlamingo
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.chains import (
    GRPO,
    brevity,
    chain_of,
    first_step,
    gradient,
    log_probs,
    stage_of,
    train_chain,
    weights,
)


def suite(train: Mapping[str, Any] = {}, **then: Any) -> Suite:
    """One row: two steps of cross-entropy, then GRPO."""
    return chain_of({**GRPO, **then}, train)


def grpo_stage(**then: Any) -> GrpoStage:
    stage = stage_of(suite(**then))
    assert isinstance(stage, GrpoStage)
    return stage


def first_batch(stage: GrpoStage, adapter: OpenFlamingo, examples: Sequence[Example]) -> Sequence[Row]:
    """The only one of the first step."""
    (rows,) = first_step(stage, adapter, examples).updates
    return rows


def rl(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in curve if "reward" in row]


def test_samples_are_drawn_in_the_number_format_of_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, cpu = small.fitted(), torch.device("cpu")
    formats: list[str] = []
    generate = adapter.generate

    def observed(*arguments: Any) -> list[list[Sample]]:
        formats.append(numbers_in_use(cpu))
        return generate(*arguments)

    monkeypatch.setattr(adapter, "generate", observed)
    for numbers in (None, Numbers(cpu, bf16=True)):
        work = replace(small.work_of(adapter), examples=small.fitted_examples(), numbers=numbers)
        own_samples(work, DataParallel(adapter.model, work.accelerator), grpo_stage().settings, 0)
        state = TrainingState(adapter.model, torch.optim.SGD(adapter.model.parameters()))
        next(iter(grpo_stage().steps(work, state, DataParallel(adapter.model, work.accelerator), 0)))
    assert formats == ["float32", "float32", "bf16 autocast", "bf16 autocast"]


# ---- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [4, 100])
def test_the_first_update_is_the_policy_gradient(micro_batch: int) -> None:
    """The ratio is exactly 1: the loss is - mean of A over all tokens of the batch, to the last digits of a sum in
    float32, and its gradient that of - mean of A * log p, whatever the micro-batch."""
    adapter, stage = small.fitted(), grpo_stage()
    rows = first_batch(stage, adapter, small.fitted_examples())
    adapter.model.zero_grad()
    output = accumulate(adapter, rows, stage.objective, micro_batch, small.accelerator())
    update = gradient(adapter)
    weights = [row.advantage or 0.0 for row in rows]
    tokens = sum(len(row.tokens) for row in rows)
    assert int(output.terms["policy"].count) == tokens
    assert float(output.terms["policy"].sum) == pytest.approx(
        -sum(a * len(row.tokens) for a, row in zip(weights, rows, strict=True)), abs=1e-4
    )
    assert float(output.stats["clipped"][0]) == 0
    adapter.model.zero_grad()
    for weight, row in zip(weights, rows, strict=True):
        torch.autograd.backward(-weight * log_probs(adapter, row).sum() / tokens)
    assert update.norm() > 1e-3
    assert (update - gradient(adapter)).norm() < 1e-4 * update.norm()


def test_samples_have_the_advantage_of_their_reward() -> None:
    adapter, examples = small.fitted(), small.fitted_examples()
    rows = first_batch(grpo_stage(), adapter, examples)
    groups = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    assert groups
    for group in groups:
        example = group[0].example
        assert {row.example.image_id for row in group} == {example.image_id}
        answers = [adapter.codec.decode(row.tokens, example.width, example.height) for row in group]
        worth = torch.from_numpy(rewards("detection", [example], [answers]))
        assert [row.advantage for row in group] == pytest.approx(advantages(worth)[0].tolist())


def test_images_are_encoded_once_in_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, stage = small.fitted(), grpo_stage()
    rows = first_batch(stage, adapter, small.fitted_examples())
    encoded: list[int] = []
    original = TrainableFlamingo.latents

    def latents(model: TrainableFlamingo, vision_x: Tensor) -> Tensor:
        encoded.append(len(vision_x))
        return original(model, vision_x)

    monkeypatch.setattr(TrainableFlamingo, "latents", latents)
    accumulate(adapter, rows, stage.objective, len(rows), small.accelerator())
    assert encoded == [len(rows) / 4]


def said_of(worth: Sequence[Sequence[float]]) -> Rollout:
    """Samples of one token; the image's id is its place."""
    examples = tuple(Example(index, Path(), 8, 8, ()) for index in range(len(worth)))
    samples = tuple(tuple(Sample((index,), (0.0,)) for index, _ in enumerate(row)) for row in worth)
    return Rollout(examples, samples, torch.tensor(worth), advantages(torch.tensor(worth)), {})


def settings_of(**changes: Any) -> Grpo:
    return Grpo.model_validate({**GRPO, "images": 8, **changes})


def test_groups_without_spread_stay_in_the_mean() -> None:
    """Images 1 and 3 have nothing to teach, with an advantage of 0: their tokens count all the same. Two samples have
    the advantages -1 / sqrt(2) and 1 / sqrt(2): the deviation of 0 and 1 is sqrt(1 / 2)."""
    drawn = said_of([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.2, 0.4]])
    work, half = Work(small.fresh(), (), 0, small.accelerator()), 0.5**0.5
    one, other = split(drawn, settings_of(updates=2), work)
    assert [row.example.image_id for row in one] == [0, 0, 1, 1]
    assert [row.example.image_id for row in other] == [2, 2, 3, 3, 4, 4]
    assert [row.advantage for row in one + other] == pytest.approx(
        [-half, half, 0, 0, half, -half, 0, 0, -half, half], abs=1e-6
    )
    nothing = said_of([[0.5, 0.5]])
    assert split(nothing, settings_of(), work) == []
    assert len(split(nothing, settings_of(kl=0.1), work)) == 1  # it still has a divergence to lower


def test_groups_without_spread_are_left_out_where_asked() -> None:
    """Images 1 and 3 have nothing to teach. Three images are split into updates of one and two, whole."""
    rolled_out = said_of([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.2, 0.4]])
    work = Work(small.fresh(), (), 0, small.accelerator())

    def images(updates: int) -> list[list[int]]:
        return [
            [row.example.image_id for row in rows]
            for rows in split(rolled_out, settings_of(updates=updates, filter=True), work)
        ]

    assert images(1) == [[0, 0, 2, 2, 4, 4]]
    assert images(2) == [[0, 0], [2, 2, 4, 4]]
    assert images(5) == [[0, 0], [2, 2], [4, 4]]
    assert split(said_of([[0.5, 0.5]]), settings_of(filter=True), work) == []


def test_the_mean_is_over_the_tokens_of_all_images() -> None:
    """The first image's samples are equal: filtered, the gradient is larger by the tokens of both over those of one."""
    adapter, examples = small.fitted(), small.fitted_examples()[:2]
    work = Work(adapter, examples, 0, small.accelerator())
    engine = DataParallel(adapter.model, work.accelerator)
    drawn = rollout(adapter, examples, "detection", 4, 1.0, max_tokens=16, seed=0)
    worth = drawn.rewards.clone()
    worth[0], worth[1] = 0.5, torch.tensor([0.0, 1.0, 0.0, 1.0])
    drawn = Rollout(drawn.examples, drawn.samples, worth, advantages(worth), {})
    gradients, tokens = [], []
    for chosen in (settings_of(), settings_of(filter=True)):
        (rows,) = split(drawn, chosen, work)
        adapter.model.zero_grad()
        accumulate(adapter, rows, grpo_stage().objective, 4, small.accelerator(), engine=engine)
        gradients.append(gradient(adapter))
        tokens.append(sum(len(row.tokens) for row in rows))
    assert tokens[0] > tokens[1]
    assert gradients[0].norm() > 1e-3
    assert torch.allclose(gradients[0] * tokens[0], gradients[1] * tokens[1], rtol=1e-3, atol=1e-3)


def test_a_step_without_anything_to_learn_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(*arguments: Any, **settings: Any) -> Rollout:
        rolled_out = rollout(*arguments, **settings)
        return Rollout(rolled_out.examples, rolled_out.samples, torch.ones(4, 4), torch.zeros(4, 4), rolled_out.figures)

    monkeypatch.setattr("harness.training.stages.grpo.rollout", equal)
    adapter = small.fitted()
    curve = rl(train_chain(adapter, suite(steps=2)))
    assert [(row["loss"], row["grad_norm"]) for row in curve] == [(0.0, 0.0)] * 2
    tuned = small.fitted()
    train_chain(tuned, suite(steps=1))
    assert torch.equal(weights(adapter), weights(tuned))


# ---- settings --------------------------------------------------------------------------------------------------------


@cache
def outcome(**then: Any) -> tuple[list[Mapping[str, Any]], Tensor]:
    """The curve of GRPO, and all weights afterwards."""
    adapter = small.fitted()
    curve = rl(train_chain(adapter, suite(**then)))
    return curve, weights(adapter)


def test_the_bounds_act_where_a_step_has_several_updates() -> None:
    """And nowhere else: the ratio of a single update is 1."""
    assert torch.equal(outcome()[1], outcome(low=0.01, high=0.01)[1])
    plain, _ = outcome(updates=2)
    low, high = outcome(updates=2, low=0.001), outcome(updates=2, high=0.001)
    assert all(row["clipped"] == 0 for row in outcome()[0])
    assert low[0][-1]["clipped"] > plain[-1]["clipped"]
    weights = [outcome()[1], outcome(updates=2)[1], low[1], high[1]]  # all different
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_four_updates_leave_the_ratio_of_one_and_clip() -> None:
    """With the bounds as they are by default: the model has moved since it drew what the later updates learn from."""
    assert all(row["ratio"] == 1 for row in outcome()[0])
    curve = [row for row in outcome(updates=4, lr=1e-3)[0] if "ratio" in row]  # without: nothing to learn any more
    assert curve
    assert all(abs(row["ratio"] - 1) > 1e-3 for row in curve)
    assert sum(row["clipped"] for row in curve) > 0


@pytest.mark.parametrize(
    "change",
    [
        *({"images": 2}, {"samples": 3}, {"temperature": 0.7}, {"reward": "f_score"}, {"kl": 0.5}, {"lr": 1e-5}),
        *({"weight_decay": 0.5}, {"warm_up": 3}, {"clip": 1e-3}),
    ],
)
def test_every_setting_has_an_effect(change: dict[str, Any]) -> None:
    assert not torch.equal(outcome()[1], outcome(**change)[1])


def test_diversity_without_a_weight_changes_nothing_and_with_one_is_watched() -> None:
    """To the last bit. The reward that is logged stays that of the answers alone."""
    plain, same, diverse = outcome(), outcome(diversity=0.0), outcome(diversity=0.5)
    assert torch.equal(plain[1], same[1])
    assert plain[0] == same[0]
    assert not torch.equal(plain[1], diverse[1])
    assert "novelty" not in plain[0][0]
    assert 0 < diverse[0][0]["novelty"] <= 1
    assert diverse[0][0]["reward"] == plain[0][0]["reward"]
    assert "diversity" not in Grpo(name="grpo").described


def test_what_a_sample_adds_raises_its_reward() -> None:
    adapter, images = small.fitted(), small.fitted_examples()
    plain, diverse = (
        rollout(adapter, images, "detection", 8, 1.0, max_tokens=40, seed=3, diversity=weight) for weight in (0.0, 0.5)
    )
    added = diverse.rewards - plain.rewards
    assert (added >= 0).all()
    assert float(added.mean()) == pytest.approx(0.5 * diverse.figures["novelty"])
    assert float(added.max()) > 0


def test_kl_is_to_the_fine_tuned_model() -> None:
    """0 to the last digits before the first update, positive afterwards; a larger weight holds the model back."""
    curves = {weight: [row["kl"] for row in outcome(kl=weight)[0]] for weight in (0.01, 10.0)}
    for divergence in curves.values():
        assert divergence[0] == pytest.approx(0, abs=1e-6)
        assert min(divergence[1:]) > 1e-5
    assert curves[10.0][-1] < curves[0.01][-1]
    assert "kl" not in outcome()[0][0]


def test_a_reward_is_a_function_and_a_line_and_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "brevity", brevity)
    curve = rl(train_chain(small.fitted(), suite(steps=12, samples=8, reward="brevity")))
    worth = [float(row["reward"]) for row in curve]
    assert min(worth[-4:]) > max(worth[:4])


# ---- the axis of steps -----------------------------------------------------------------------------------------------


def test_steps_go_on_counting() -> None:
    steps: dict[str, list[int]] = {"evaluate": [], "probe": []}
    chain = suite(train={"steps": 4, "eval_at": [2], "probe": {"every": 2}}, steps=5, eval_at=[1, 3], log_every=2)
    hooks = Hooks(evaluate=steps["evaluate"].append, probe=steps["probe"].append)
    curve = train_chain(small.fitted(), chain, hooks=hooks, examples=small.train_examples(8))
    assert steps == {"evaluate": [2, 4, 5, 7, 9], "probe": [0, 2, 4, 6, 8, 9]}
    assert [row["step"] for row in curve] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert [row["step"] for row in rl(curve)] == [5, 6, 8, 9]


# ---- what cannot run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("dppo", "objectives.0.then: unknown stage 'dppo', did you mean 'dpo'?"),
        ({"name": "grpo", "reward": "detektion"}, "unknown reward 'detektion', did you mean 'detection'?"),
        ({"name": "grpo", "stepz": 3}, "unknown key objectives.0.then.stepz: 'stepz', did you mean 'steps'?"),
        ({"name": "grpo", "steps": 3, "eval_at": [4]}, "eval_at: expected steps up to 3 of this stage, got [4]"),
        ({"name": "grpo", "images": 2, "updates": 3}, "updates: expected at most the 2 images of a step, got 3"),
    ],
)
def test_a_wrong_stage_is_one_line_of_the_suite(then: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small.mini_suite(objectives=[{"name": "ce", "then": then}])
    (problem,) = caught.value.problems
    assert message in problem


def test_a_stage_that_cannot_run_says_so_before_the_first_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"then\.images: expected at most the 24 training images, got 25"):
        runner.run(open_context(suite(images=25), None, "cpu"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_row_without_a_chain_is_described_as_ever() -> None:
    """Cells that earlier code made are found again."""
    alone, chain = NamedObjective(name="ce", label="ce"), suite().objectives[0]
    assert suite().described(suite().models[0], alone) == suite().train.described
    assert "then" not in suite().described(suite().models[0], alone)
    assert suite().described(suite().models[0], chain)["then"]["steps"] == 3
