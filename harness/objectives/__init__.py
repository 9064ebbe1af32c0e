"""Training objectives: pure functions from a TokenBatch to a LossOutput.

To add one, write its function (token.py: a contribution per target position; sets.py: one per equivalence set) and its
line in OBJECTIVES.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from harness.errors import ConfigError, ObjectiveError, unknown
from harness.objectives import apply, sets, token
from harness.objectives.calibration import log_probs, threshold_at, top_k_mass
from harness.objectives.spec import (
    Need,
    SetLevel,
    Setting,
    Settings,
    Spec,
    TokenLevel,
    above,
    at_least,
    count,
    fraction,
    one_of,
)
from harness.types import LossOutput, TokenBatch

__all__ = [
    "OBJECTIVES",
    "Need",
    "Objective",
    "SetLevel",
    "Setting",
    "Spec",
    "TokenLevel",
    "build",
    "by_kind",
    "complete",
    "needs",
    "problems",
    "reference_selection",
    "resolve",
    "top_k_mass",
]

Objective = Callable[..., LossOutput]
"""`objective(batch, logged=True)`; statistics are computed only where they are `logged`."""

OBJECTIVES: dict[str, Spec] = {
    "ce": TokenLevel(token.ce, "-log p_y", "cross-entropy, the maximum-likelihood baseline"),
    "label_smoothing": TokenLevel(
        token.label_smoothing,
        "-(1 - epsilon) * log p_y - epsilon * mean_v log p_v",
        "Szegedy et al., CVPR 2016; arXiv 1512.00567",
        {"epsilon": fraction(0.1)},
    ),
    "sed_sft": TokenLevel(
        token.sed_sft,
        "-log p_y + weight * m * (p_y*(p_y - 1) + 1/4), m = 1 where the top_k mass < threshold, else 0",
        "Chen et al., ACL 2026; arXiv 2602.07464",
        {
            "top_k": count(),
            "threshold": Setting(float, "a number in (0, 1]", lambda t: 0 < t <= 1),
            "quantile": Setting(float, "a number in (0, 1)", lambda q: 0 < q < 1),
            "weight": at_least(0, default=1.0),
            "mask": one_of(get_args(token.Mask), default="live"),
        },
        token.sed_sft_problems,
        token.sed_sft_needs,
    ),
    "gem": TokenLevel(
        token.gem,
        "-sum_v q_v * h(z_v - z_y) * (log p_y - log p_v), q = softmax(z / beta), h = 1 or sigmoid(0.01 * .)",
        "Li et al., ICLR 2025; arXiv 2408.16673",
        {"beta": above(0, default=0.7), "h": one_of(get_args(token.Scaling), default="linear")},
    ),
    "dft": TokenLevel(token.dft, "-sg(p_y) * log p_y", "Wu et al., ICLR 2026; arXiv 2508.05629"),
    "entropy_bonus": TokenLevel(
        token.entropy_bonus,
        "-log p_y - weight * H(p)",
        "Pereyra et al., 2017; arXiv 1701.06548",
        {"weight": at_least(0, default=0.1)},
    ),
    "eaft": TokenLevel(
        token.eaft,
        "-log p_y * sg(H_k / z)^alpha, H_k: entropy of the top_k largest logits' softmax, z = ln k by default",
        "Diao et al., 2026; arXiv 2601.02151",
        {"alpha": at_least(0, default=1.0), "top_k": count(20), "z": above(0)},
    ),
    "focal": TokenLevel(
        token.focal,
        "-(1 - p_y)^gamma * log p_y",
        "Lin et al., ICCV 2017; arXiv 1708.02002",
        {"gamma": at_least(0, default=2.0)},
    ),
    "eco": SetLevel(
        sets.eco,
        "ce + weight * variance of log P over the members of a set, mean over sets",
        "equivalence consistency: half the mean squared difference of two members' log P",
        {"weight": at_least(0, default=0.01), "log_prob": one_of(get_args(sets.Reduction), default="sum")},
    ),
    "kl_uniform": SetLevel(
        sets.kl_uniform,
        "ce + weight * KL(uniform over the members of a set || their normalised probabilities), mean over sets",
        "forward KL to the uniform distribution over the right answers",
        {"weight": at_least(0, default=0.1)},
    ),
    "mrt": SetLevel(
        sets.mrt,
        "ce + weight * sum_i q_i * (1 - F_i) over the members and samples of a set, q: normalised probabilities",
        "minimum-risk training, Shen et al., ACL 2016; arXiv 1512.02433",
        {"weight": at_least(0, default=1.0), "samples": count(2)},
        needs=lambda _: frozenset({"sets", "samples"}),
    ),
}


def build(name: str, **settings: Any) -> Objective:
    """The objective as a pure callable; ConfigError with every problem of the name and the settings."""
    full, spec = complete(name, settings), OBJECTIVES[name]

    def objective(batch: TokenBatch, logged: bool = True) -> LossOutput:
        if isinstance(spec, TokenLevel):
            return apply.token_level(partial(spec.function, **full), batch, logged)
        own = {key: value for key, value in full.items() if key != "samples"}  # that one is the training loop's
        return apply.set_level(partial(spec.function, **own), name, batch, logged)

    return objective


def problems(name: str, settings: Settings) -> list[str]:
    """Everything that is wrong with an objective's name and settings, one line each; empty if nothing is."""
    if name not in OBJECTIVES:
        return [unknown("objective", name, OBJECTIVES)]
    spec = OBJECTIVES[name]
    found = [problem for key, value in settings.items() for problem in _problem(spec, str(key), value)]
    found += spec.problems(_with_defaults(spec, settings))
    return [f"{name}: {problem}" for problem in found]


def complete(name: str, settings: Settings) -> dict[str, Any]:
    """Checked settings with the defaults filled in: what a record holds. Numbers become floats (5 is 5.0)."""
    if found := problems(name, settings):
        raise ConfigError(*found)
    spec = OBJECTIVES[name]
    return {key: spec.settings[key].kind(value) for key, value in _with_defaults(spec, settings).items()}


def needs(name: str, settings: Settings) -> frozenset[Need]:
    """What the objective must be given under these settings, see `spec.Need`; ConfigError if they are wrong."""
    full = complete(name, settings)
    return OBJECTIVES[name].needs(full)


def resolve(name: str, settings: Settings, masses: Tensor) -> dict[str, Any]:
    """Complete settings in which `quantile` has become the `threshold` that it stands for.

    masses [N]: `top_k_mass` at every target position of the calibration examples, base model in eval mode.
    """
    full = complete(name, settings)
    if "calibration" not in needs(name, full):
        raise ObjectiveError(f"{name} with these settings has no quantile to calibrate: {dict(settings)}")
    threshold = threshold_at(masses, full.pop("quantile"))
    return complete(name, full | {"threshold": threshold})


@torch.no_grad()
def reference_selection(logits: Tensor, settings: Settings) -> Tensor:
    """`TokenBatch.selected` for sed_sft's mask `base`: bool [N] from the base model's logits [N, V]."""
    full = complete("sed_sft", settings)
    at = token.Positions(log_probs(logits), logits.new_zeros(len(logits), dtype=torch.int64))
    return token.select(at, mask="live", top_k=full["top_k"], threshold=full.get("threshold"))


@torch.no_grad()
def by_kind(values: Tensor, kinds: Tensor, n_kinds: int) -> tuple[Tensor, Tensor]:
    """Sums and counts [n_kinds] of values [N] by kinds [N] in 0..n_kinds-1; a negative kind is left out.

    A kind that does not occur has sum and count 0: its mean is undefined.
    """
    kept = kinds >= 0
    dtype = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(n_kinds, dtype=dtype, device=values.device)
    counts = torch.zeros(n_kinds, dtype=torch.int64, device=values.device)
    sums.index_add_(0, kinds[kept], values[kept].to(dtype))
    counts.index_add_(0, kinds[kept], torch.ones_like(kinds[kept], dtype=torch.int64))
    return sums, counts


def _problem(spec: Spec, key: str, value: object) -> list[str]:
    if key not in spec.settings:
        return [unknown("setting", key, spec.settings)]
    setting = spec.settings[key]
    return [] if setting.valid(value) else [f"{key} must be {setting.expected}, got {value!r}"]


def _with_defaults(spec: Spec, settings: Settings) -> dict[str, Any]:
    """Settings in the order of the Spec, defaults where none is given, absent where there is no default."""
    defaults = {key: setting.default for key, setting in spec.settings.items() if setting.default is not None}
    given = {**defaults, **settings}
    return {key: given[key] for key in spec.settings if key in given}
