"""The training loop applies exactly the objective that was asked for, however a batch is split."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.errors import ObjectiveError
from harness.objectives import ObjectiveSpec
from harness.training.objective import Objective
from harness.training.step import accumulate, means, reference_selection
from tests.support import small
from tests.training.loop.gradients import (
    PLAN,
    SED,
    TIMES,
    after_accumulation,
    by_term,
    gradient,
    parameters,
    predicted_gradient,
    ready,
    rows_of,
    run,
    token_by_token,
)

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
