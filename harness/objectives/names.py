"""Lists the objectives by name, as data: equation, source, settings. It does not import torch, so that suites can be
read without it. Other packages add theirs by the entry-point group `detmodes.objectives`."""

from __future__ import annotations

from harness.extensions import Extended
from harness.objectives.spec import Need, ObjectiveSpec
from harness.settings import Settings, above, at_least, fraction, number, one_of, whole

MASKS = ("live", "none", "base")
CALIBRATION = ("quantile", "calibration_top_k", "calibration_positions", "calibration_examples")
"""Settings for calibrating a threshold; the calibrated threshold replaces them."""


def _sed_sft_problems(settings: Settings) -> list[str]:
    """Lists settings that contradict each other: the mask decides which ones have an effect."""
    mask = settings["mask"]
    given = [name for name in ("top_k", "threshold", *CALIBRATION) if name in settings]
    if mask == "none":
        return [f"{name} has no effect with mask 'none': remove it" for name in given]
    problems = []
    if "threshold" in given and "quantile" in given:
        problems.append("give either threshold or quantile, not both")
    if "quantile" not in given:
        problems += [f"{name} has no effect without quantile: remove it" for name in given if name in CALIBRATION]
    if mask not in MASKS:  # no further checks: the requirements depend on the mask
        return problems
    if "top_k" not in given:
        problems.append(f"mask {mask!r} requires top_k")
    if "threshold" not in given and "quantile" not in given:
        problems.append(f"mask {mask!r} requires threshold or quantile")
    return problems


def _sed_sft_needs(settings: Settings) -> frozenset[Need]:
    needs: set[Need] = set()
    if settings.get("mask") == "base":
        needs.add("reference")
    if "quantile" in settings:
        needs.add("calibration")
    return frozenset(needs)


OURS: dict[str, ObjectiveSpec] = {
    "ce": ObjectiveSpec("token", "-log p_y", "cross-entropy, the maximum-likelihood baseline"),
    "ce_kl": ObjectiveSpec(
        "token",
        "-log p_y + weight * KL(p || q), q: the model as training or the stage begins",
        "continued SFT with a per-token divergence, Zhu et al., CVPR 2025 (table 7); arXiv 2411.14797",
        {"weight": at_least(0, default=1.0).means("Weight of the divergence, in nats per token.")},
        needs=lambda settings: frozenset({"reference_logits"} if settings["weight"] else ()),
    ),
    "mixture": ObjectiveSpec(
        "token",
        "-log p_y of expert z*, z* = argmax_z log P(sequence | z) without dropout, z: a token that ends the prompt",
        "hard mixture of experts that share their weights (hMup), Shen et al., ICML 2019; arXiv 1902.07816",
        {"experts": whole(1, default=3).means("How many experts there are; one is ce.")},
        needs=lambda settings: frozenset({"experts"} if settings["experts"] > 1 else ()),
    ),
    "label_smoothing": ObjectiveSpec(
        "token",
        "-(1 - epsilon) * log p_y - epsilon * mean_v log p_v",
        "Szegedy et al., CVPR 2016; arXiv 1512.00567",
        {"epsilon": fraction(0.1).means("Share of the probability that is spread over the vocabulary.")},
    ),
    "sed_sft": ObjectiveSpec(
        "token",
        "-log p_y + weight * m * (p_y*(p_y - 1) + 1/4), m = 1 where the top_k mass < threshold, else 0",
        "Chen et al., ACL 2026; arXiv 2602.07464",
        {
            "top_k": whole(1).means("How many of the largest probabilities make up the mass."),
            "threshold": number("a number in (0, 1]", lambda t: 0 < t <= 1).means(
                "Mass below which a token is selected."
            ),
            "quantile": number("a number in (0, 1)", lambda q: 0 < q < 1).means(
                "Share of the base's tokens that the threshold selects, in its place."
            ),
            "calibration_top_k": whole(1).means("top_k of the masses that the quantile is of; by default top_k."),
            "calibration_positions": one_of(("targets", "all")).means("Whether prompts count in the quantile too."),
            "calibration_examples": whole(1).means("Images of the calibration split that it is of; by default all."),
            "weight": at_least(0, default=1.0).means("Weight of the penalty."),
            "mask": one_of(MASKS, default="live").means(
                "Whose mass selects: the trained model's, that of the base, or none, where all tokens are."
            ),
        },
        _sed_sft_problems,
        _sed_sft_needs,
    ),
    "gem": ObjectiveSpec(
        "token",
        "-sum_v sg(q_v * h(z_v - z_y)) * (log p_y - log p_v), q = softmax(z / beta), h = 1 or sigmoid(0.01 * .)",
        "Li et al., ICLR 2025; arXiv 2408.16673",
        {
            "beta": above(0, default=0.7).means("Temperature of q; with 1 and linear the gradient is that of ce."),
            "h": one_of(("linear", "logsigmoid"), default="linear").means("Weight of a pair of tokens."),
        },
    ),
    "dft": ObjectiveSpec("token", "-sg(p_y) * log p_y", "Wu et al., ICLR 2026; arXiv 2508.05629"),
    "precision_recall": ObjectiveSpec(
        "token",
        "-sg(lam^(t/L) * [r <= lam^(1/L)] * r) * log p_y, r = p_y / (gamma + (1 - gamma) * p_y), the t-th token of L",
        "Verine et al., ICML 2025; arXiv 2508.09654",
        {
            "lam": number("a number in (0, 1]", lambda share: 0 < share <= 1, default=0.1).means("The equation's lam."),
            "gamma": number("a number in (0, 1]", lambda share: 0 < share <= 1, default=0.1).means(
                "The equation's gamma."
            ),
        },
    ),
    "entropy_bonus": ObjectiveSpec(
        "token",
        "-log p_y - weight * H(p)",
        "Pereyra et al., 2017; arXiv 1701.06548",
        {"weight": at_least(0, default=0.1).means("Weight of the entropy, in nats per token.")},
    ),
    "eaft": ObjectiveSpec(
        "token",
        "-log p_y * sg(H_k / z)^alpha, H_k: entropy of the top_k largest logits' softmax, z = ln k by default",
        "Diao et al., 2026; arXiv 2601.02151",
        {
            "alpha": at_least(0, default=1.0).means("How strongly the entropy weighs a token; with 0 it is ce."),
            "top_k": whole(1, default=20).means("Logits that the entropy is of."),
            "z": above(0).means("What the entropy is divided by, in nats; by default the logarithm of top_k."),
        },
    ),
    "focal": ObjectiveSpec(
        "token",
        "-(1 - p_y)^gamma * log p_y",
        "Lin et al., ICCV 2017; arXiv 1708.02002",
        {"gamma": at_least(0, default=2.0).means("How much less a likely token counts; with 0 it is ce.")},
    ),
    "eco": ObjectiveSpec(
        "set",
        "ce + weight * variance of log P over the members of a set, mean over sets",
        "equivalence consistency: half the mean squared difference of two members' log P",
        {
            "weight": at_least(0, default=0.01).means("Weight of the variance."),
            "log_prob": one_of(("sum", "mean"), default="sum").means("Of a sequence: over its tokens."),
        },
    ),
    "kl_uniform": ObjectiveSpec(
        "set",
        "ce + weight * KL(uniform over the members of a set || their normalised probabilities), mean over sets",
        "forward KL to the uniform distribution over the right answers",
        {"weight": at_least(0, default=0.1).means("Weight of the divergence, in nats.")},
    ),
    "mrt": ObjectiveSpec(
        "set",
        "ce + weight * sum_i q_i * (1 - F_i) over the members and samples of a set, q: normalised probabilities",
        "minimum-risk training, Shen et al., ACL 2016; arXiv 1512.02433",
        {
            "weight": at_least(0, default=1.0).means("Weight of the risk."),
            "samples": whole(1, default=2).means("Sequences that the model draws for an image in each step."),
        },
        needs=lambda settings: frozenset({"samples"}),
    ),
}

OBJECTIVES = Extended("objective", OURS, lambda part: isinstance(part, ObjectiveSpec) and callable(part.function))
