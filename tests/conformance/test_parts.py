"""Every objective, reward and benchmark that is shipped passes its checks, and each check notices the one thing that
it is there for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from benchmarks.shapes import Shapes
from harness import conformance, registry
from harness.commands.parts import check as command
from harness.conformance import Outcome
from harness.conformance.parts import benchmarks, objectives, rewards, stages
from harness.errors import ConfigError
from harness.metrics.samples.mentions import Floats
from harness.metrics.samples.reward import REWARDS, Reward, detection, f_score
from harness.objectives import OBJECTIVES, ObjectiveSpec
from harness.objectives.token import PerToken, ScoredPositions
from harness.settings import at_least
from harness.suite.stage_base import Amount
from harness.suite.stage_settings import STAGES, Sft
from harness.suite.train_settings import Train
from harness.training.stage import Stage, Work
from harness.training.stages import kinds, sft
from harness.types import Detection, Evaluation
from tests.objectives.cases import CASES, Case
from tests.support.small import SETTINGS


def failing(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in outcomes if outcome.state == "failed"}


# ---- objectives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CASES, ("sed_sft", {"top_k": 2, "quantile": 0.3, "mask": "base"})], ids=str)
def test_objectives_of_ours_pass(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objectives.CHECKS, "torch_free", lambda subject: None)  # of each: tests/test_imports.py
    outcomes = conformance.check_objective(*case)
    assert [outcome.check for outcome in outcomes] == list(objectives.CHECKS)
    assert failing(outcomes) == {}
    skipped = {outcome.check for outcome in outcomes if outcome.state == "skipped"}
    spec = OBJECTIVES[case[0]]
    assert ("gradient" in skipped) == ("sg(" in spec.equation)
    assert skipped - {"gradient"} == ({"weights"} if spec.level == "set" else set())


SCALE = {"scale": at_least(0, default=2.0)}


def scaled(at: ScoredPositions, *, scale: float) -> PerToken:
    return PerToken({"scaled": at.nll}, {"scaled": scale})


SPEC = ObjectiveSpec("token", "-scale * log p_y", "us", SCALE, function=scaled)
CALLS = iter(range(10**6))


def of_block(at: ScoredPositions, *, scale: float) -> PerToken:
    """What a position contributes depends on the positions beside it: by chunks it is something else."""
    return PerToken({"x": at.nll * at.nll.mean().detach()}, {"x": scale})


BROKEN_OBJECTIVES: dict[str, ObjectiveSpec] = {
    "settings": replace(SPEC, problems=lambda settings: ["nothing is right"]),
    "described": replace(SPEC, equation="two\nlines"),
    "shapes": replace(SPEC, function=lambda at, scale: PerToken({})),
    "finite": replace(SPEC, function=lambda at, scale: PerToken({"x": 1 / (-at.nll).exp()})),
    "weights": replace(SPEC, function=lambda at, scale: PerToken({"x": at.nll * next(CALLS)})),
    "chunked": replace(SPEC, function=of_block),
    "gradient": replace(SPEC, function=lambda at, scale: PerToken({"x": at.nll * at.nll.detach()})),
    "repeatable": replace(SPEC, function=lambda at, scale: PerToken({"x": at.nll * next(CALLS)})),
}


@pytest.mark.parametrize("check", BROKEN_OBJECTIVES)
def test_each_check_of_an_objective_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.ours, "broken", BROKEN_OBJECTIVES[check])
    subject = objectives.ObjectiveSubject("broken", {})
    assert conformance.run_check(check, objectives.CHECKS[check], subject).state == "failed"
    monkeypatch.setitem(OBJECTIVES.ours, "broken", SPEC)
    subject = objectives.ObjectiveSubject("broken", {})
    assert conformance.run_check(check, objectives.CHECKS[check], subject).state == "passed"


def test_what_ignores_no_label_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over targets are the harness's, so that only a set-level function, or a wrong sum, can break it."""
    whole = objectives.ObjectiveSubject("ce", {})
    honest = whole.loss
    monkeypatch.setitem(
        whole.__dict__, "loss", lambda batch, logged=True: honest(replace(batch, labels=batch.labels.abs() % 9))
    )
    assert conformance.run_check("ignored", objectives.ignored, whole).state == "failed"


# ---- rewards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_of_ours_pass(name: str) -> None:
    outcomes = conformance.check_reward(name)
    assert [(outcome.check, outcome.state) for outcome in outcomes] == [(check, "passed") for check in rewards.CHECKS]


def by_position(truth: Any, answers: Any, verification: Any) -> Floats:
    """Pays nothing where the first mention is wrong."""
    worth = f_score(truth, answers, verification)
    images, samples = worth.shape
    at = answers.mentions.image * samples + answers.mentions.sample
    first = np.searchsorted(at, np.arange(images * samples))
    wrong = np.append(verification.instance < 0, False)[first].reshape(images, samples)
    return np.where(wrong, 0.0, worth)


BROKEN_REWARDS: dict[str, Callable[..., Floats]] = {
    "in_range": lambda truth, answers, v: 3 * f_score(truth, answers, v),
    "complete": lambda truth, answers, v: f_score(truth, answers, v) / 2,
    "tells": lambda truth, answers, v: np.ones(answers.malformed.shape),
    "permutation": by_position,
    "synonyms": lambda truth, answers, v: _by_name(detection(truth, answers, v), answers),
    "independent": lambda truth, answers, v: f_score(truth, answers, v) / max(1e-9, f_score(truth, answers, v).max()),
}


def _by_name(worth: Floats, answers: Any) -> Floats:
    """Pays less for answers whose names come late in the alphabet of the data's columns."""
    images, samples = worth.shape
    at = answers.mentions.image * samples + answers.mentions.sample
    total = np.bincount(at, weights=answers.mentions.name % 2, minlength=images * samples)
    return np.asarray(worth / (1 + total.reshape(images, samples)))


@pytest.mark.parametrize("check", BROKEN_REWARDS)
def test_each_check_of_a_reward_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS.ours, "broken", Reward(BROKEN_REWARDS[check], "e", "s"))
    outcome = conformance.run_check(check, rewards.CHECKS[check], rewards.RewardSubject("broken"))
    assert outcome.state == "failed", outcome


# ---- stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sft", *(pytest.param(name, marks=pytest.mark.slow) for name in STAGES if name != "sft")]
)
def test_stages_of_ours_pass(name: str) -> None:
    assert failing(conformance.check_stage(name)) == {}


class Idle(Sft):
    """Its steps are none of those that its plan says."""

    def make(self, plan: Train, work: Work) -> Stage:
        return sft.stage(self, plan.with_changes({"steps": 1}), work)


class Drifting(Sft):
    """Its learning rate is another each time."""

    def make(self, plan: Train, work: Work) -> Stage:
        return sft.stage(self, plan.with_changes({"lr": 1e-5 * (1 + next(CALLS))}), work)


class Unsaid(Sft):
    equation: ClassVar[str] = "two\nlines"

    @property
    def amount(self) -> Amount:
        return Amount(0, 0)


@pytest.mark.parametrize(
    ("check", "broken"), [("described", Unsaid), ("amount", Unsaid), ("trains", Idle), ("repeatable", Drifting)]
)
def test_each_check_of_a_stage_notices_its_fault(
    check: str, broken: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = stages.StageSubject("sft", {})
    monkeypatch.setitem(subject.__dict__, "settings", broken(name="sft", steps=2, warm_up=0, log_every=1))
    monkeypatch.setattr(kinds, "stage", lambda settings, plan, work: settings.make(plan, work))
    outcome = conformance.run_check(check, stages.CHECKS[check], subject)
    assert outcome.state == "failed", outcome


# ---- benchmarks --------------------------------------------------------------------------------------------------


def test_the_shipped_benchmark_passes() -> None:
    outcomes = conformance.check_benchmark("shapes", SETTINGS)
    passed = [(check, "passed") for check in benchmarks.CHECKS]
    assert [(outcome.check, outcome.state) for outcome in outcomes] == passed


class Careless(Shapes):
    """Shapes with one fault, named by a setting that a subclass fixes."""


class WrongSize(Careless):
    def split(self, name: str) -> Any:
        return tuple(replace(example, width=example.width + 1) for example in super().split(name))


class Leaking(Careless):
    def split(self, name: str) -> Any:
        return super().split("val" if name == "train" else name)


class Blind(Careless):
    """Its evaluator loses a tenth of the detections."""

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        return super().evaluate(split, detections[: len(detections) * 9 // 10], engine)


class Unlooked(Careless):
    """Says that a category is absent where it has objects."""

    def split(self, name: str) -> Any:
        return tuple(
            replace(example, negative=frozenset(instance.category_id for instance in example.instances))
            for example in super().split(name)
        )


class Repeating(Careless):
    def __init__(self, settings: Any, data: Any = None) -> None:
        super().__init__(settings, data)
        self.categories = tuple(replace(c, names=(*c.names, c.names[0])) for c in self.categories)


class Forgetful(Careless):
    def describe(self) -> dict[str, object]:
        return super().describe() | {"when": next(CALLS)}


BROKEN_BENCHMARKS: dict[str, type[Careless]] = {
    "pictures": WrongSize,
    "apart": Leaking,
    "oracle": Blind,
    "federated": Unlooked,
    "synonyms": Repeating,
    "repeatable": Forgetful,
}


@pytest.mark.parametrize("check", BROKEN_BENCHMARKS)
def test_each_check_of_a_benchmark_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "benchmark", lambda name, settings, data: BROKEN_BENCHMARKS[check](settings, data))
    outcome = conformance.run_check(check, benchmarks.CHECKS[check], benchmarks.BenchmarkSubject("broken", SETTINGS))
    assert outcome.state == "failed", outcome


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_checks_each_kind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.check("reward", "detection") == 0
    assert command.check("benchmark", "shapes", [f"{key}={value}" for key, value in SETTINGS.items()]) == 0
    assert command.check("objective", "gem", ["beta=0.5"]) == 0
    shown = capsys.readouterr().out
    for check in ("permutation", "federated", "torch_free"):
        assert check in shown
    monkeypatch.setitem(REWARDS.ours, "broken", Reward(BROKEN_REWARDS["complete"], "e", "s"))
    assert command.check("reward", "broken") == 1


@pytest.mark.parametrize(
    ("kind", "name", "assignments", "complaint"),
    [
        ("reward", "detectoin", [], "unknown reward 'detectoin', did you mean 'detection'"),
        ("reward", "detection", ["a=1"], "--set a: a reward has no settings"),
        ("objective", "gem", ["beta=0"], r"gem\.beta: expected"),
        ("benchmark", "shapes", ["domian=plain"], "'domian'"),
    ],
)
def test_what_cannot_be_checked_is_told(kind: str, name: str, assignments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        command.check(kind, name, assignments)


def test_torch_is_noticed_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    subject = objectives.ObjectiveSubject("ce", {})
    point = EntryPoint("ce", "harness.objectives.token:ce", "detmodes.objectives")
    assert conformance.run_check("torch_free", objectives.torch_free, subject).state == "passed"
    monkeypatch.setattr(OBJECTIVES, "point", lambda name: point)
    assert conformance.run_check("torch_free", objectives.torch_free, subject).state == "failed"
    assert torch.__version__
