"""Every objective through every execution path: what the step's gradient is, and what it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from harness.protocols import Adapter
from harness.sequence.experts import expert_tokens
from harness.sequence.targets import members
from harness.suite.train_settings import Train
from harness.training.objective import Objective, prepare
from harness.training.rows import Row
from harness.training.step import accumulate, with_samples
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

SETTINGS: dict[str, dict[str, Any]] = {
    "ce": {},
    "ce_kl": {"weight": 0.6},
    "mixture": {"experts": 3},
    "label_smoothing": {"epsilon": 0.3},
    "sed_sft": {"mask": "none", "weight": 5.0},
    "sed_sft live": {"mask": "live", "weight": 5.0, "top_k": 3, "threshold": 0.8},
    "sed_sft base": {"mask": "base", "weight": 5.0, "top_k": 3, "quantile": 0.6},
    "gem": {"beta": 0.5},
    "gem logsigmoid": {"beta": 0.5, "h": "logsigmoid"},
    "dft": {},
    "entropy_bonus": {"weight": 0.7},
    "eaft": {"alpha": 0.5},
    "eaft z": {"alpha": 2.0, "top_k": 7, "z": 3.0},
    "focal": {"gamma": 1.5},
    "precision_recall": {"lam": 0.3, "gamma": 0.2},
    "precision_recall all": {"lam": 1.0, "gamma": 0.4},
    "eco": {"weight": 0.5},
    "eco mean": {"weight": 2.0, "log_prob": "mean"},
    "kl_uniform": {"weight": 0.8},
    "mrt": {"weight": 3.0, "samples": 3},
}
"""Case -> settings. The first word of a case is the objective."""
PLAN = Train(targets="random", batching="collision", collision_rate=1.0, batch_size=8)


def model() -> OpenFlamingo:
    """The model in training: some of its answers are certain, some not."""
    return small.fitted()


@cache
def base() -> OpenFlamingo:
    """The reference, which selects other positions than the model in training would; nothing trains it."""
    other = small.fitted()
    with torch.no_grad():
        other.model.lang_encoder.get_input_embeddings().weight.mul_(1.5)
    return other


def objective_of(case: str) -> Objective:
    heldout = small.benchmark().split("calibration")[:8]
    return prepare(case.split()[0], SETTINGS[case], base(), heldout, PLAN, 0)


def rows_of(adapter: Adapter, objective: Objective) -> list[Row]:
    """Two targets each of four images, and what the model samples where the objective asks for it."""
    chosen = [e for e in small.benchmark().split("train") if len(e.instances) >= 2][:4]
    rows = [Row(e, tokens) for e in chosen for tokens in members(e, adapter.codec, "random", 0, 0, 2)]
    return with_samples(adapter, rows, 3, 12, seed=5) if "samples" in objective.needs else rows


def step_gradient(case: str, accelerator: Accelerator, micro_batch: int, adapter: Adapter | None = None) -> Tensor:
    """What `accumulate` leaves in the parameters, as one vector; of several processes each takes its share."""
    adapter = adapter or model()
    objective = objective_of(case)
    adapter.codec.experts = expert_tokens(adapter.codec.tokens.locations, SETTINGS[case].get("experts", 1))
    rows = rows_of(adapter, objective)
    sets = sorted({row.example.image_id for row in rows})
    share = sets[accelerator.process_index :: accelerator.num_processes]
    adapter.model.zero_grad()
    accumulate(adapter, [row for row in rows if row.example.image_id in share], objective, micro_batch, accelerator)
    return flat([p.grad for p in adapter.model.parameters()], adapter)


def flat(gradients: Sequence[Tensor | None], adapter: Adapter) -> Tensor:
    parameters = list(adapter.model.parameters())
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients)])  # noqa: B905


# ---- what the gradient should be: textbook formulas, one unpadded sequence at a time, one mean at the end ----------


@dataclass(frozen=True)
class Scored:
    """A sequence with the model's and the reference's logits [L, V] at its tokens [L], and the model's with each of
    some more tokens at the end of its prompt."""

    row: Row
    logits: Tensor
    reference: Tensor
    labels: Tensor
    prompted: Sequence[Tensor] = ()

    @property
    def p_y(self) -> Tensor:
        return self.logits.softmax(-1)[torch.arange(len(self.labels)), self.labels]

    @property
    def log_prob(self) -> Tensor:
        return self.p_y.log().sum()


@cache
def _scored(sampled: bool, prompted: bool) -> tuple[OpenFlamingo, list[Scored]]:
    """The model, and its rows: those that it samples among them, and what it says after more tokens of the prompt,
    where that is asked for. Read once for all objectives."""
    adapter, reference = model(), base()
    rows = rows_of(adapter, objective_of("mrt" if sampled else "ce"))
    # 65 locations: of three experts these are in the middle of each third.
    more = [adapter.tokens.locations[place] for place in (10, 32, 54)] if prompted else []
    return adapter, [
        Scored(
            row,
            _logits(adapter, row),
            _logits(reference, row).detach(),
            torch.tensor(row.tokens),
            [_logits(adapter, row, token) for token in more],
        )
        for row in rows
    ]


def expected_gradient(case: str) -> Tensor:
    name, settings = case.split()[0], SETTINGS[case]
    adapter, scored = _scored("samples" in objective_of(case).needs, name == "mixture")
    loss = FORMULAS[name]([s for s in scored if not s.row.sampled], scored, **settings)
    gradients = torch.autograd.grad(loss, list(adapter.model.parameters()), retain_graph=True, allow_unused=True)
    return flat(gradients, adapter)


def _logits(adapter: OpenFlamingo, row: Row, *more: int) -> Tensor:
    prompt = [*adapter.tokens.prompt, *more]
    inputs = torch.tensor([[*prompt, *row.tokens[:-1]]])
    return adapter.logits(adapter.pixels([row.example]), inputs)[0, len(prompt) - 1 :]


Formula = Callable[..., Tensor]


def _per_token(formula: Callable[..., Tensor]) -> Formula:
    """The mean over all target tokens of what the formula gives for each sequence's tokens."""

    def loss(targets: list[Scored], _: list[Scored], **settings: Any) -> Tensor:
        return torch.cat([formula(one, **settings) for one in targets]).mean()

    return loss


def _ce(one: Scored) -> Tensor:
    return F.cross_entropy(one.logits, one.labels, reduction="none")


def _ce_kl(one: Scored, weight: float) -> Tensor:
    q = one.reference.log_softmax(-1)
    divergence: Tensor = F.kl_div(q, one.logits.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return _ce(one) + weight * divergence


def _precision_recall(one: Scored, lam: float, gamma: float) -> Tensor:
    length = len(one.labels)
    q, share = one.p_y.detach(), lam ** (1 / length)
    delta = gamma * share / (1 - (1 - gamma) * share)
    counted = torch.where(q <= delta, torch.tensor(lam) ** (torch.arange(length) / length), 0.0)
    return -counted * q / (gamma + (1 - gamma) * q) * one.p_y.log()


def _mixture(one: Scored, experts: int) -> Tensor:
    assert len(one.prompted) == experts
    losses = [F.cross_entropy(logits, one.labels, reduction="none") for logits in one.prompted]
    return min(losses, key=lambda loss: float(loss.detach().sum()))


def _label_smoothing(one: Scored, epsilon: float) -> Tensor:
    return F.cross_entropy(one.logits, one.labels, reduction="none", label_smoothing=epsilon)


def _sed_sft(
    one: Scored, mask: str, weight: float, top_k: int = 0, threshold: float = 0.0, quantile: float = 0.0
) -> Tensor:
    view = one.reference if mask == "base" else one.logits.detach()
    if quantile:
        threshold = objective_of("sed_sft base").threshold or 0.0
    selected = view.softmax(-1).sort(descending=True).values[:, :top_k].sum(-1) < threshold
    m = torch.ones(len(one.labels)) if mask == "none" else selected.float()
    return -one.p_y.log() + weight * m * (one.p_y * (one.p_y - 1) + 0.25)


def _gem(one: Scored, beta: float, h: str = "linear") -> Tensor:
    q = (one.logits / beta).softmax(-1).detach()
    z_y = one.logits.gather(1, one.labels[:, None])
    factor = torch.sigmoid(0.01 * (one.logits - z_y)).detach() if h == "logsigmoid" else 1.0
    return -(q * factor * (one.p_y.log()[:, None] - one.logits.log_softmax(-1))).sum(-1)


def _dft(one: Scored) -> Tensor:
    return -one.p_y.log() * one.p_y.detach()


def _entropy_bonus(one: Scored, weight: float) -> Tensor:
    return -one.p_y.log() - weight * _entropy(one.logits)


def _eaft(one: Scored, alpha: float, top_k: int = 20, z: float | None = None) -> Tensor:
    largest = one.logits.detach().sort(descending=True).values[:, :top_k]
    return -one.p_y.log() * (_entropy(largest) / (z or torch.tensor(float(top_k)).log())) ** alpha


def _entropy(logits: Tensor) -> Tensor:
    made: Tensor = torch.distributions.Categorical(logits=logits).entropy()  # type: ignore[no-untyped-call]
    return made


def _focal(one: Scored, gamma: float) -> Tensor:
    return -((1 - one.p_y) ** gamma) * one.p_y.log()


def _sets(scored: list[Scored]) -> list[list[Scored]]:
    ids = dict.fromkeys(one.row.example.image_id for one in scored)
    return [[one for one in scored if one.row.example.image_id == image] for image in ids]


def _eco(targets: list[Scored], every: list[Scored], weight: float, log_prob: str = "sum") -> Tensor:
    def value(one: Scored) -> Tensor:
        return one.log_prob / (len(one.labels) if log_prob == "mean" else 1)

    spread = [torch.stack([value(one) for one in of_set]).var(correction=0) for of_set in _sets(targets)]
    return _per_token(_ce)(targets, every) + weight * torch.stack(spread).mean()


def _kl_uniform(targets: list[Scored], every: list[Scored], weight: float) -> Tensor:
    parts = []
    for of_set in _sets(targets):
        q = torch.stack([one.log_prob for one in of_set]).log_softmax(0)
        parts.append(F.kl_div(q, torch.full_like(q, 1 / len(of_set)), reduction="sum"))
    return _per_token(_ce)(targets, every) + weight * torch.stack(parts).mean()


def _mrt(targets: list[Scored], every: list[Scored], weight: float, samples: int) -> Tensor:
    assert len(targets) < len(every) <= len(targets) + samples * len(_sets(every))
    parts = []
    for of_set in _sets(every):
        q = torch.stack([one.log_prob for one in of_set]).softmax(0)
        parts.append((q * torch.tensor([one.row.cost for one in of_set])).sum())
    return _per_token(_ce)(targets, every) + weight * torch.stack(parts).mean()


FORMULAS: dict[str, Formula] = {
    "ce": _per_token(_ce),
    "ce_kl": _per_token(_ce_kl),
    "precision_recall": _per_token(_precision_recall),
    "mixture": _per_token(_mixture),
    "label_smoothing": _per_token(_label_smoothing),
    "sed_sft": _per_token(_sed_sft),
    "gem": _per_token(_gem),
    "dft": _per_token(_dft),
    "entropy_bonus": _per_token(_entropy_bonus),
    "eaft": _per_token(_eaft),
    "focal": _per_token(_focal),
    "eco": _eco,
    "kl_uniform": _kl_uniform,
    "mrt": _mrt,
}
