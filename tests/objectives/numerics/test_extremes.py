"""No NaN and no infinity: logits up to +-1e4, p_y exactly 0 and 1, the smallest vocabularies, nothing to learn from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.errors import ObjectiveError
from harness.objectives import build
from harness.types import IGNORED_LABEL, Members, TokenBatch
from tests.objectives.cases import MEMBERS, SET_LEVEL, chunks_of, every_objective, outcome, over, projected

HUGE = 1e4
LOGITS: dict[str, list[list[float]]] = {
    # p is exactly (1, 0, 0) in either type, and -log p is 0 or 2e4.
    "one-hot": [[HUGE, -HUGE, -HUGE]],
    "two-hot": [[HUGE, HUGE, -HUGE]],
    "high": [[HUGE, HUGE, HUGE]],
    "low": [[-HUGE, -HUGE, -HUGE]],
    "zero": [[0.0, 0.0, 0.0]],
    # 1 - p_y is at, below and above what the types resolve; -log p_y down to the smallest numbers there are.
    "nearly one": [[0.0, -gap, -HUGE] for gap in (10.0, 16.0, 17.0, 37.0, 88.0, 100.0, 104.0, 200.0, 745.0, 746.0)],
    # Steps between probability 1 and 0.
    "falling": [[0.0, -gap, -2 * gap] for gap in (1e-30, 1e-8, 1e-3, 1.0, 30.0, 300.0, 3000.0)],
    "two tokens": [[HUGE, -HUGE], [-HUGE, HUGE], [0.0, 1e-6], [0.0, 104.0]],
    "one token": [[0.0], [HUGE], [-HUGE]],
}


def every_label(logits: list[list[float]], dtype: torch.dtype) -> TokenBatch:
    """Each row with each token as the label, twice, and once as padding; two sequences in every set."""
    row = torch.tensor(logits, dtype=dtype)
    v = row.shape[-1]
    labels = torch.arange(v).repeat(len(row), 2).flatten()
    labels = torch.cat([labels, torch.full((len(row),), IGNORED_LABEL)])
    tiled = torch.cat([row.repeat_interleave(2 * v, 0), row])
    group = torch.arange(len(labels)) % len(MEMBERS.set)
    return TokenBatch(tiled, labels, group, MEMBERS, torch.arange(len(labels)) % 2 == 0, reference=tiled.flip(-1))


def fitting(settings: dict[str, Any], name: str, vocabulary: int) -> dict[str, Any]:
    """sed_sft refuses a top_k beyond the vocabulary."""
    if name == "sed_sft" and "top_k" in settings:
        return {**settings, "top_k": min(settings["top_k"], vocabulary)}
    return settings


def assert_finite(name: str, settings: dict[str, Any], batch: TokenBatch, path: str) -> None:
    with chunks_of(4, 3):
        output, gradients = outcome(name, settings, batch if path == "logits" else projected(batch))
    assert output.mean().isfinite()
    assert all(term.sum.isfinite() for term in output.terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(total.isfinite() for total, _ in output.stats.values())


both_paths = pytest.mark.parametrize("path", ["logits", "projection"])
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_objective
@both_paths
@both_types
def test_loss_and_gradient_are_finite(name: str, settings: dict[str, Any], path: str, dtype: torch.dtype) -> None:
    for rows in LOGITS.values():
        assert_finite(name, fitting(settings, name, len(rows[0])), every_label(rows, dtype), path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sed_sft", {"top_k": 3, "threshold": 1.0, "weight": 5.0}),  # top_k is the vocabulary
        ("eaft", {"top_k": 3, "alpha": 0.5}),
        ("eaft", {"top_k": 1, "alpha": 0.5}),
        ("eaft", {"alpha": 0.0}),
        ("focal", {"gamma": 0.01}),
        ("focal", {"gamma": 1e3}),
        ("gem", {"beta": 0.01}),
        ("gem", {"beta": 100.0, "h": "logsigmoid"}),
        ("label_smoothing", {"epsilon": 0.999}),
        ("precision_recall", {"lam": 1e-6, "gamma": 1e-7}),
        ("precision_recall", {"lam": 1.0, "gamma": 1e-7}),
        ("precision_recall", {"lam": 1.0, "gamma": 1.0}),
    ],
)
@both_paths
@both_types
def test_extreme_settings_are_finite(name: str, settings: dict[str, Any], path: str, dtype: torch.dtype) -> None:
    for logits in LOGITS.values():
        if len(logits[0]) == 3:
            assert_finite(name, settings, every_label(logits, dtype), path)


@both_paths
@both_types
@pytest.mark.parametrize(("label", "loss"), [(0, 0.0), (1, 2e4)])
def test_values_at_p_0_and_1(path: str, dtype: torch.dtype, label: int, loss: float) -> None:
    batch = TokenBatch(torch.tensor(LOGITS["one-hot"], dtype=dtype), torch.tensor([label]))
    batch = batch if path == "logits" else projected(batch)
    output, (gradient, *_) = outcome("ce", {}, batch)
    assert output.mean().item() == loss
    assert gradient.tolist() == [[0.0, 0.0, 0.0] if label == 0 else [1.0, -1.0, 0.0]]
    # dft and focal: the factors are 0 and 1, and 1 and 0.
    assert outcome("dft", {}, batch)[0].mean().item() == 0
    assert outcome("focal", {}, batch)[0].mean().item() == loss
    # sed_sft: (p_y - 1/2)^2 is 1/4 at both ends, and stands still there.
    penalised, (same, *_) = outcome("sed_sft", {"mask": "none", "weight": 4.0}, batch)
    assert penalised.mean().item() == loss + 1
    assert same.tolist() == gradient.tolist()


@both_types
def test_a_set_of_one_certain_and_one_impossible_sequence(dtype: torch.dtype) -> None:
    # log P = 0 and -2e4; q = (1, 0): KL = -ln 2 + 1e4, variance (1e4)^2, risk = the cost of the first.
    members = Members(torch.tensor([0, 0]), torch.tensor([False, False]), torch.tensor([0.25, 1.0]))
    logits = torch.tensor(LOGITS["one-hot"] * 2, dtype=dtype)
    batch = TokenBatch(logits, torch.tensor([0, 1]), torch.tensor([0, 1]), members)
    values = {name: outcome(name, {}, batch)[0].terms[name].sum.item() for name in ("eco", "kl_uniform", "mrt")}
    assert values == pytest.approx({"eco": 1e8, "kl_uniform": 1e4 - math.log(2), "mrt": 0.25}, rel=1e-6)


@both_types
def test_only_ratios_of_unlikely_members_matter(dtype: torch.dtype) -> None:
    # log P = -1000 and -1000 - ln 3, both of which exp() rounds to 0, beside a sample with log P = 0.
    # Among the members q = (3/4, 1/4), so KL = 1/2 ln 4/3; with the sample q = (0, 0, 1), so the risk is its cost.
    members = Members(torch.tensor([0, 0, 0]), torch.tensor([False, False, True]), torch.tensor([0.0, 0.5, 0.25]))
    logits = torch.tensor([[0.0, -1000.0], [0.0, -1000.0 - math.log(3)], [0.0, -1000.0]], dtype=dtype)
    batch = TokenBatch(logits, torch.tensor([1, 1, 0]), torch.arange(3), members)
    values = {name: outcome(name, {}, batch)[0].terms[name].sum.item() for name in ("kl_uniform", "mrt")}
    # float32 resolves 1000 to 6e-5.
    assert values == pytest.approx({"kl_uniform": math.log(4 / 3) / 2, "mrt": 0.25}, abs=1e-4)


@every_objective
@both_paths
@pytest.mark.parametrize("n", [0, 3])
def test_a_batch_without_targets(name: str, settings: dict[str, Any], path: str, n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    nothing = Members(torch.arange(0), torch.ones(0, dtype=torch.bool), torch.ones(0))
    alone = Members(torch.arange(3), torch.zeros(3, dtype=torch.bool), torch.ones(3))
    batch = TokenBatch(
        torch.randn(n, 4, generator=rng),
        torch.full((n,), IGNORED_LABEL),
        torch.arange(n),
        alone if n else nothing,
        torch.ones(n, dtype=torch.bool),
        reference=torch.randn(n, 4, generator=rng),
    )
    output, gradients = outcome(name, settings, batch if path == "logits" else projected(batch))
    assert output.mean().item() == 0
    assert not any(gradient.any() for gradient in gradients)
    assert all((term.sum.item(), term.count.item()) == (0, 0) for term in output.terms.values())
    assert all((total.item(), count.item()) == (0, 0) for total, count in output.stats.values())


@over(SET_LEVEL)
@both_paths
def test_sets_without_targets_have_no_gradient(name: str, settings: dict[str, Any], path: str) -> None:
    # Members without a token are all equally (un)likely: the variance and the KL are 0, the risk is the mean cost.
    members = Members(torch.tensor([0, 0]), torch.tensor([False, False]), torch.tensor([0.5, 1.0]))
    batch = TokenBatch(torch.randn(2, 4), torch.full((2,), IGNORED_LABEL), torch.tensor([0, 1]), members)
    output, gradients = outcome(name, settings, batch if path == "logits" else projected(batch))
    assert output.terms[name].sum.item() == pytest.approx({"mrt": 0.75}.get(name, 0.0), abs=1e-6)
    assert not any(gradient.any() for gradient in gradients)


@over(SET_LEVEL)
@both_paths
def test_only_samples_leave_nothing_to_compare(name: str, settings: dict[str, Any], path: str) -> None:
    members = Members(torch.tensor([0, 0]), torch.tensor([True, True]), torch.tensor([0.5, 1.0]))
    batch = TokenBatch(torch.randn(4, 4), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1]), members)
    output, gradients = outcome(name, settings, batch if path == "logits" else projected(batch))
    assert all((term.sum.item(), term.count.item()) == (0, 0) for term in output.terms.values())
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("path", ["logits", "projection"])
def test_top_k_beyond_the_vocabulary_raises(path: str) -> None:
    batch = every_label(LOGITS["zero"], torch.float32)
    objective = build("sed_sft", top_k=4, threshold=0.5)
    with pytest.raises(ObjectiveError, match="top_k is 4, but the vocabulary has 3 tokens"):
        objective(batch if path == "logits" else projected(batch))
