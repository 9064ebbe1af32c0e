"""The training loop applies exactly the objective that was asked for, however a batch is split."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.errors import ConfigError, DetmodesError, ObjectiveError
from harness.inference.teacher_forcing import heldout_nll, top_k_masses
from harness.objectives import ObjectiveSpec
from harness.records.log import Log
from harness.run.resume import CellCheckpointer
from harness.sequence.targets import members, target
from harness.suite.train_settings import Probe, Train
from harness.system.interrupts import Interrupted, Interrupts
from harness.training.loop import Hooks
from harness.training.objective import Objective, prepare
from harness.training.rows import Row
from harness.training.step import accumulate, means, reference_selection, with_samples
from harness.types import Example, LossOutput, Projection, Term, TokenBatch
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

PLAN = Train(steps=3, batch_size=8, log_every=1)
SED: dict[str, dict[str, Any]] = {
    "live": {"mask": "live", "top_k": 5, "quantile": 0.5, "weight": 5.0},
    "none": {"mask": "none", "weight": 5.0},
    "base": {"mask": "base", "top_k": 5, "quantile": 0.5, "weight": 5.0},
}
HELDOUT = 8
TIMES = ("seconds", "waiting")
"""What no two runs have in common."""


def heldout() -> tuple[Example, ...]:
    return small.benchmark().split("calibration")[:HELDOUT]


def ready(name: str, settings: dict[str, Any], base: OpenFlamingo | None = None, plan: Train = PLAN) -> Objective:
    return prepare(name, settings, base or small.fitted(), heldout(), plan, 0)


def gradient(adapter: OpenFlamingo) -> Tensor:
    """All gradients in one vector; a parameter without one counts as 0."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in adapter.model.parameters()]
    return torch.cat([part.flatten() for part in parts])


def rows_of(
    adapter: OpenFlamingo, examples: Sequence[Example], targets: str = "canonical", seed: int = 0, epoch: int = 0
) -> list[Row]:
    """One target of each example."""
    return [Row(e, members(e, adapter.codec, targets, seed, epoch, 1)[0]) for e in examples]


def after_accumulation(
    adapter: OpenFlamingo, objective: Objective, micro_batch: int, examples: Sequence[Example] | None = None
) -> tuple[LossOutput, Tensor]:
    examples = small.train_examples(8) if examples is None else examples
    adapter.model.zero_grad()
    output = accumulate(adapter, rows_of(adapter, examples), objective, micro_batch, small.accelerator())
    return output, gradient(adapter)


def token_by_token(adapter: OpenFlamingo, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """logits [N, V] and labels [N] of the canonical targets, one unpadded image at a time."""
    logits, labels = [], []
    prompt = list(adapter.tokens.prompt)
    for example in examples:
        tokens = list(target(example, adapter.codec, "canonical"))
        inputs = torch.tensor([[*prompt, *tokens[:-1]]])
        logits.append(adapter.logits(adapter.pixels([example]), inputs)[0, len(prompt) - 1 :])
        labels += tokens
    return torch.cat(logits), torch.tensor(labels)


def run(adapter: OpenFlamingo, objective: Objective, plan: Train, examples: int = 8) -> list[dict[str, Any]]:
    return small.fine_tune(adapter, objective, plan, small.train_examples(examples))


def parameters(adapter: OpenFlamingo) -> list[Tensor]:
    return [p.detach().clone() for p in adapter.model.parameters()]


# ---- accumulation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["live", "base"])
def test_a_batch_may_be_split_in_any_way(mask: str) -> None:
    adapter, objective = small.fitted(), ready("sed_sft", SED[mask])
    whole, expected = after_accumulation(adapter, objective, 8)
    for micro_batch in (1, 3):
        split, got = after_accumulation(adapter, objective, micro_batch)
        assert (got - expected).norm() < 1e-5 * expected.norm()  # float32 sums in another order
        assert float(split.mean()) == pytest.approx(float(whole.mean()), abs=1e-6)
        assert {name: int(term.count) for name, term in split.terms.items()} == {
            name: int(term.count) for name, term in whole.terms.items()
        }
        assert {**means(split), "padding": 0} == pytest.approx({**means(whole), "padding": 0}, abs=1e-5)


def test_the_curve_does_not_depend_on_the_micro_batch() -> None:
    whole, split = (
        run(small.fitted(), ready("ce", {}), PLAN.model_copy(update={"micro_batch": size})) for size in (None, 1)
    )
    differing = {*TIMES, "padding"}
    for one, other in zip(whole, split, strict=True):
        assert {k: v for k, v in one.items() if k not in differing} == pytest.approx(
            {k: v for k, v in other.items() if k not in differing}, rel=1e-3
        )
    assert all(row["padding"] == 0 for row in split)


def test_ce_is_torchs_cross_entropy() -> None:
    adapter, examples = small.fitted(), small.train_examples(8)
    output, got = after_accumulation(adapter, ready("ce", {}), 3)
    adapter.model.zero_grad()
    loss = F.cross_entropy(*token_by_token(adapter, examples))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(output.mean()) == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(got, gradient(adapter), atol=1e-6, rtol=1e-4)


# ---- the objective that was asked for is the one applied ---------------------------------------------------------


def predicted_gradient(adapter: OpenFlamingo, examples: Sequence[Example], m: Tensor, weight: float) -> Tensor:
    """DESIGN 6.3: CE's gradient, scaled per token by 1 - 2*weight*m*p_y*(p_y - 1/2)."""
    adapter.model.zero_grad()
    logits, labels = token_by_token(adapter, examples)
    nll = F.cross_entropy(logits, labels, reduction="none")
    p_y = (-nll.detach()).exp()
    (nll * (1 - 2 * weight * m * p_y * (p_y - 0.5))).mean().backward()  # type: ignore[no-untyped-call]
    return gradient(adapter)


@pytest.mark.parametrize("mask", ["live", "none", "base"])
def test_sed_sft_scales_the_gradient_as_predicted(mask: str) -> None:
    adapter, base, examples = small.fitted(), small.fitted(), small.train_examples(8)
    with torch.no_grad():  # the reference is another model than the one that trains, so that the masks differ
        base.model.lang_encoder.get_input_embeddings().weight.mul_(1.5)
    objective = ready("sed_sft", SED[mask], base)
    _, got = after_accumulation(adapter, objective, 3)

    with torch.no_grad():
        views = {name: token_by_token(of, examples)[0] for name, of in (("live", adapter), ("base", base))}
    selected = {
        name: logits.softmax(-1).topk(5).values.sum(-1) < (objective.threshold or 0) for name, logits in views.items()
    }
    selected["none"] = torch.ones_like(selected["live"])
    if mask != "none":
        assert 0 < selected[mask].float().mean() < 1
        assert not torch.equal(selected["live"], selected["base"])
    expected = predicted_gradient(adapter, examples, selected[mask].float(), weight=5.0)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-3)
    plain = predicted_gradient(adapter, examples, torch.zeros(len(selected["none"])), weight=5.0)
    assert (got - plain).norm() > 0.01 * plain.norm()


def test_weight_zero_is_ce_to_the_last_bit() -> None:
    ce, sed = small.fitted(), small.fitted()
    run(ce, ready("ce", {}), PLAN)
    run(sed, ready("sed_sft", {**SED["live"], "weight": 0.0}), PLAN)
    assert all(torch.equal(a, b) for a, b in zip(ce.model.parameters(), sed.model.parameters(), strict=True))
    assert not all(
        torch.equal(a, b) for a, b in zip(ce.model.parameters(), small.fitted().model.parameters(), strict=True)
    )


def test_each_mask_trains_another_model() -> None:
    ends = []
    for mask in SED:
        adapter, base = small.fitted(), small.fitted()
        with torch.no_grad():
            base.model.lang_encoder.get_input_embeddings().weight.mul_(1.5)
        run(adapter, ready("sed_sft", SED[mask], base), PLAN)
        ends.append(torch.cat([p.flatten() for p in parameters(adapter)]))
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[1], ends[2])


def test_the_base_is_frozen_and_asked_once_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images, 3 epochs of canonical targets: the reference sees each image once, and its answer stays."""
    adapter, base = small.fitted(), small.fitted()
    objective = ready("sed_sft", SED["base"], base)
    examples = small.train_examples(8)
    drawn_rows, pixels = rows_of(adapter, examples), adapter.pixels(examples)
    before, weights = reference_selection(objective, drawn_rows, pixels), parameters(base)
    objective.selections.clear()
    rows: list[int] = []
    original = base.logits

    def counted(pixels: Tensor, tokens: Tensor) -> Tensor:
        rows.append(len(tokens))
        return original(pixels, tokens)

    monkeypatch.setattr(base, "logits", counted)
    run(adapter, objective, PLAN)
    assert sum(rows) == 8
    assert torch.equal(reference_selection(objective, drawn_rows, pixels), before)
    assert sum(rows) == 8
    assert all(torch.equal(a, b) for a, b in zip(weights, parameters(base), strict=True))
    assert not base.model.training


def test_random_targets_ask_the_base_again() -> None:
    objective = ready("sed_sft", SED["base"])
    run(small.fitted(), objective, PLAN.model_copy(update={"targets": "random"}))
    assert 8 < len(objective.selections) <= 24  # 3 epochs of 8 images, most with a sequence of their own


def test_only_what_needs_a_reference_gets_one() -> None:
    assert [ready("sed_sft", SED[mask]).reference is not None for mask in SED] == [False, False, True]
    assert ready("ce", {}).reference is None


def by_term(batch: TokenBatch, count: int) -> LossOutput:
    assert isinstance(batch.logits, Projection)
    logits = batch.logits.hidden @ batch.logits.weight.T
    nll = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
    return LossOutput({"pairs": Term(nll, torch.tensor(count))})


def test_a_term_that_does_not_count_target_positions_is_refused() -> None:
    """Its denominator would be wrong under accumulation."""
    objective = Objective("pairwise", {}, lambda batch, logged: by_term(batch, 1))
    with pytest.raises(
        ObjectiveError, match=r"objective pairwise: term pairs counts 8 tokens, expected the batch's \d+;"
    ):
        after_accumulation(small.fitted(), objective, 1)


def test_an_objective_with_other_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ObjectiveSpec("token", "", "", needs=lambda settings: frozenset({"rewards"}))  # type: ignore[arg-type]
    monkeypatch.setitem(objectives.OBJECTIVES, "rl", spec)
    with pytest.raises(ObjectiveError, match=r"rl needs \['rewards'\]"):
        ready("rl", {})


# ---- calibration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "top_k"), [(0.3, 5), (0.7, 1)])
def test_the_threshold_is_torchs_quantile_of_the_bases_masses(quantile: float, top_k: int) -> None:
    base = small.fitted()
    settings = {**SED["live"], "quantile": quantile, "top_k": top_k}
    objective = ready("sed_sft", settings, base)
    with torch.no_grad():
        masses = token_by_token(base, heldout())[0].softmax(-1).topk(top_k).values.sum(-1)
    assert len(masses) == sum(5 * len(e.instances) + len(e.instances) for e in heldout())  # 5 each, ; or end
    torch.testing.assert_close(top_k_masses(base, heldout(), "canonical", 0, top_k), masses, atol=1e-5, rtol=0)
    assert objective.threshold == pytest.approx(float(torch.quantile(masses, quantile)), abs=1e-5)
    assert "quantile" not in objective.settings


def test_calibration_uses_the_suites_targets() -> None:
    canonical, random = (
        ready("sed_sft", SED["live"], plan=PLAN.model_copy(update={"targets": name})).threshold
        for name in ("canonical", "random")
    )
    assert canonical != random


def test_the_published_rule_takes_another_mass_more_positions_and_fewer_examples() -> None:
    """By hand: the masses of the row of logits before every token but the first, of the first three examples."""
    base = small.fitted()
    rule = {"top_k": 2, "quantile": 0.3, "calibration_top_k": 10, "calibration_positions": "all"}
    official = ready("sed_sft", {**rule, "calibration_examples": 3}, base)
    masses = []
    for example in heldout()[:3]:
        tokens = torch.tensor([[*base.codec.prompt(example), *target(example, base.codec, "canonical")]])
        with torch.no_grad():
            logits = base.logits(base.pixels([example]), tokens[:, :-1])[0]
        masses.append(logits.softmax(-1).sort(descending=True).values[:, :10].sum(-1))
    assert [len(mass) for mass in masses] == [1 + 6 * len(example.instances) for example in heldout()[:3]]
    assert official.threshold == pytest.approx(float(torch.quantile(torch.cat(masses), 0.3)), abs=1e-5)


@pytest.mark.parametrize(
    "setting", [{"calibration_top_k": 10}, {"calibration_positions": "all"}, {"calibration_examples": 3}]
)
def test_every_setting_of_the_calibration_changes_the_threshold(setting: dict[str, Any]) -> None:
    plain = {**SED["live"], "quantile": 0.3}
    assert ready("sed_sft", plain).threshold != ready("sed_sft", {**plain, **setting}).threshold


def test_more_examples_than_the_calibration_split_has_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="calibration_examples: expected at most the 8 of the calibration split, got 9"
    ):
        ready("sed_sft", {**SED["live"], "calibration_examples": HELDOUT + 1})


def test_a_quantile_without_held_out_images_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"quantile needs a calibration split.*calibration_images"):
        prepare("sed_sft", SED["live"], small.fresh(), (), PLAN, 0)


# ---- the loop ----------------------------------------------------------------------------------------------------


def test_loss_that_is_not_a_number_stops_with_step_and_images() -> None:
    calls: list[int] = []

    def loss(batch: TokenBatch, _: bool) -> LossOutput:
        calls.append(1)
        output = by_term(batch, len(batch.labels))
        term = output.terms["pairs"]
        return LossOutput({"pairs": Term(term.sum * (math.nan if len(calls) == 2 else 1.0), term.count)})

    plan = PLAN.model_copy(update={"batch_size": 2})
    with pytest.raises(DetmodesError, match=r"loss is nan at step 2 \(images \[\d+, \d+\]\); lower train.lr"):
        run(small.fresh(), Objective("nan", {}, loss), plan)


def test_the_selected_share_is_logged_by_token_kind() -> None:
    """The shares by kind, weighted by how often each kind occurs, are the share over all."""
    adapter, examples = small.fitted(), small.train_examples(8)
    output, _ = after_accumulation(adapter, ready("sed_sft", SED["live"]), 3)
    kinds = [output.stats[f"selected/{kind}"] for kind in ("name", "location", "separator", "end")]
    objects = sum(len(e.instances) for e in examples)
    assert [int(count) for _, count in kinds] == [objects, 4 * objects, objects - 8, 8]
    assert float(sum(s for s, _ in kinds)) == float(output.stats["selected"][0])
    assert 0 < float(output.stats["selected"][0]) < 6 * objects
    curve = run(adapter, ready("sed_sft", SED["none"]), PLAN.model_copy(update={"steps": 1}))
    assert [curve[0][f"selected/{kind}"] for kind in ("name", "location", "end")] == [1.0, 1.0, 1.0]


def test_what_was_not_counted_has_no_mean() -> None:
    zero = torch.tensor(0.0)
    assert means(LossOutput({}, {"a": (zero, zero), "b": (torch.tensor(3.0), torch.tensor(2))})) == {
        "a": None,
        "b": 1.5,
    }


def test_evaluations_happen_at_their_steps_in_training_mode_afterwards() -> None:
    adapter = small.fresh()
    evaluated: list[tuple[int, bool]] = []

    def evaluate(step: int) -> None:
        adapter.model.eval()
        evaluated.append((step, adapter.model.training))

    plan = Train(steps=5, batch_size=2, eval_at=(2, 4), log_every=2)
    losses: list[int] = []
    hooks = Hooks(evaluate, progress=lambda step, loss: losses.append(step))
    curve = small.fine_tune(adapter, ready("ce", {}), plan, hooks=hooks)
    assert [step for step, _ in evaluated] == [2, 4, 5]
    assert losses == [1, 2, 3, 4, 5]
    assert [row["step"] for row in curve] == [1, 2, 4, 5]
    assert adapter.model.training


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    plan = Train(steps=8, batch_size=8, lr=1e-3, warm_up=2, log_every=1)
    first, second = small.fresh(), small.fresh()
    curve, again = run(first, ready("ce", {}), plan), run(second, ready("ce", {}), plan)
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    assert [row["loss"] for row in curve] == [row["loss"] for row in again]
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


@pytest.mark.parametrize("change", [{"lr": 3e-3}, {"weight_decay": 0.5}, {"warm_up": 0}, {"clip": 1e-3}])
def test_every_setting_of_the_optimiser_has_an_effect(change: dict[str, float]) -> None:
    plain, changed = small.fresh(), small.fresh()
    run(plain, ready("ce", {}), PLAN.model_copy(update={"steps": 2}))
    run(changed, ready("ce", {}), PLAN.model_copy(update={"steps": 2, **change}))
    assert not all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), changed.model.parameters(), strict=True))


def test_random_targets_depend_on_seed_epoch_and_image_alone() -> None:
    adapter, examples = small.fresh(), small.train_examples(8)
    drawn = rows_of(adapter, examples, "random")
    assert drawn == rows_of(adapter, examples, "random")
    assert drawn[3:] == rows_of(adapter, examples[3:], "random")
    assert drawn != rows_of(adapter, examples, "random", seed=1)
    assert drawn != rows_of(adapter, examples, "random", epoch=1)
    canonical = rows_of(adapter, examples)
    assert drawn != canonical
    assert canonical == rows_of(adapter, examples, seed=1, epoch=1)
    assert [len(row.tokens) for row in drawn] == [len(row.tokens) for row in canonical]


def test_held_out_loss_is_the_cross_entropy_of_the_canonical_targets() -> None:
    adapter = small.fitted()
    with torch.no_grad():
        expected = F.cross_entropy(*token_by_token(adapter, heldout()))
    assert heldout_nll(adapter, heldout()) == pytest.approx(float(expected), abs=1e-5)
    assert heldout_nll(adapter, ()) is None


GROUPED = PLAN.model_copy(update={"targets": "all(2)", "batching": "grouped"})
COLLIDING = PLAN.model_copy(update={"targets": "random", "batching": "collision", "collision_rate": 0.5})


STOPPED = [
    ("sed_sft", SED["base"], PLAN.model_copy(update={"targets": "random"}), "all", 1),
    ("ce", {}, PLAN.model_copy(update={"micro_batch": 3}), "flamingo", 2),
    ("mrt", {"weight": 0.5}, COLLIDING, "all", 2),
]


@pytest.mark.parametrize(
    ("name", "settings", "plan", "trains", "stop"),
    [*STOPPED, *(pytest.param(*case, 3 - stop, marks=pytest.mark.slow) for *case, stop in STOPPED)],
)
def test_stopped_training_goes_on_to_the_last_bit(
    name: str, settings: dict[str, Any], plan: Train, trains: str, stop: int, tmp_path: Path
) -> None:
    """In another process all but the checkpoint would be new: here the model, the objective and the log are. Step 1
    ends in the warm-up. A probe that draws random numbers changes nothing, though only one of the runs repeats it."""

    def go(
        adapter: OpenFlamingo,
        objective: Objective,
        checkpointer: CellCheckpointer | None = None,
        stop: int | None = None,
    ) -> list[dict[str, Any]]:
        def progress(step: int, _: float) -> None:
            caught.pending = signal.SIGTERM if step == stop else None

        def probe(_: int) -> None:
            torch.rand(())

        examples, watched = small.train_examples(12), plan.model_copy(update={"probe": Probe(every=1)})
        hooks, log = Hooks(probe=probe, progress=progress), Log() if checkpointer is None else checkpointer.log
        return small.fine_tune(adapter, objective, watched, examples, hooks, checkpointer, seed=3, log=log)

    def ready_again() -> tuple[OpenFlamingo, Objective]:
        return small.fitted(trains=trains), ready(name, settings, plan=plan)

    caught = Interrupts()
    whole, expected = ready_again()
    curve = go(whole, expected)
    following = torch.rand(())
    with pytest.raises(Interrupted):
        go(*ready_again(), small.checkpointer(tmp_path, caught), stop)
    adapter, objective = ready_again()
    torch.manual_seed(99)
    again = go(adapter, objective, small.checkpointer(tmp_path))
    assert torch.rand(()) == following
    for row in (*curve, *again):
        for name in TIMES:
            del row[name]
    assert again == curve
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(whole), strict=True))
    assert objective.selections.keys() == expected.selections.keys()
    assert len(curve) == 3


# ---- bf16 --------------------------------------------------------------------------------------------------------


def test_bf16_autocast_trains_under_the_same_objective(bf16: Accelerator) -> None:
    adapter, examples = small.fitted(), small.train_examples(8)
    losses, gradients = {}, {}
    for name, settings in (("ce", {}), ("sed_sft", SED["none"])):
        adapter.model.zero_grad()
        output = accumulate(adapter, rows_of(adapter, examples), ready(name, settings), 8, bf16)
        losses[name], gradients[name] = output, gradient(adapter)
    assert losses["ce"].terms["ce"].sum.dtype == torch.float32
    with torch.no_grad():
        expected = float(F.cross_entropy(*token_by_token(adapter, examples)))
    assert float(losses["ce"].mean()) == pytest.approx(expected, rel=0.02)
    assert float(losses["ce"].mean()) != pytest.approx(expected, rel=1e-7)  # it was bf16
    predicted = predicted_gradient(adapter, examples, torch.tensor(1.0), weight=5.0)
    assert (gradients["sed_sft"] - predicted).norm() < 0.1 * predicted.norm()
    assert (gradients["sed_sft"] - gradients["ce"]).norm() > 0.1 * predicted.norm()
    curve = small.fine_tune(adapter, ready("sed_sft", SED["base"]), PLAN, examples, accelerator=bf16)
    assert all(math.isfinite(row["loss"]) for row in curve)
    assert all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in adapter.model.parameters())


# ---- sets of targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [GROUPED, COLLIDING], ids=["grouped", "collision"])
@pytest.mark.parametrize("name", ["eco", "kl_uniform", "mrt"])
def test_objectives_over_sets_train(name: str, plan: Train) -> None:
    """Whatever the micro-batch: sets stay whole. What the model samples differs from step to step."""
    settings = {"weight": 0.5}
    whole, split = small.fitted(), small.fitted()
    curve = run(whole, ready(name, settings, plan=plan), plan)
    again = run(split, ready(name, settings, plan=plan), plan.model_copy(update={"micro_batch": 2}))
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in again], rel=1e-3)
    plain = run(small.fitted(), ready("ce", {}), plan)
    assert curve[0]["nll"] == pytest.approx(plain[0]["nll"], rel=1e-5)  # the same targets: sampled ones do not count
    assert curve[0]["loss"] > curve[0]["nll"] * (1 + 1e-4)
    assert all(math.isfinite(row["loss"]) for row in curve)


def test_sampled_sequences_are_new_and_have_their_cost() -> None:
    adapter = small.fitted()
    rows = rows_of(adapter, small.train_examples(4))
    made = with_samples(adapter, rows, 3, 12, seed=1)
    assert [row.tokens for row in made if not row.sampled] == [row.tokens for row in rows]
    assert len({(row.example.image_id, row.tokens) for row in made}) == len(made) > len(rows)
    assert [row.cost for row in made if not row.sampled] == [0.0] * 4
    assert all(0 < row.cost <= 1 for row in made if row.sampled)
    assert made == with_samples(adapter, rows, 3, 12, seed=1) != with_samples(adapter, rows, 3, 12, seed=2)
    assert not adapter.model.training
