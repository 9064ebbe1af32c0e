"""The loop itself: what it logs, when it evaluates, how it stops and goes on, which targets it draws."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from harness.errors import DetmodesError
from harness.inference.teacher_forcing import heldout_nll
from harness.records.log import Log
from harness.run.resume import CellCheckpointer
from harness.suite.train_settings import Probe, Train
from harness.system.interrupts import Interrupted, Interrupts
from harness.training.loop import Hooks
from harness.training.objective import Objective
from harness.training.step import means, with_samples
from harness.types import LossOutput, Term, TokenBatch
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.training.loop.gradients import (
    PLAN,
    SED,
    TIMES,
    after_accumulation,
    by_term,
    heldout,
    parameters,
    ready,
    rows_of,
    run,
    token_by_token,
)

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
