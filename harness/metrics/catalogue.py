"""The figures: which there are, how tables call them, which way is better, and what each means in a sentence or two,
for those who read the tables."""

from __future__ import annotations

AP_COLUMNS = ("AP", "AP50", "APr", "APc", "APf")
CONSENSUS_COLUMNS = ("consensus_AP", "consensus_AP50", "consensus_gain")
TEXT_COLUMNS = ("unique_sequences", "order_distance", "self_bleu", "distinct_1", "distinct_2", "vendi")
FAULT_COLUMNS = ("duplicate_rate", "unknown_name_rate", "malformed_rate", "truncation_rate")
COST_COLUMNS = ("step_seconds", "peak_memory_mib")
GAIN = "_gain"
FREQUENCIES = ("r", "c", "f")
CATEGORY_COLUMNS = ("AP", "recall", "name_diversity")
"""What is shown of each category."""
HEADINGS = {
    "self_bleu": "self-BLEU",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "vendi": "Vendi score",
    "step_seconds": "seconds per step",
    "peak_memory_mib": "peak memory (MiB)",
}
"""Where a figure's name would not do."""

MEANINGS: dict[str, str] = {
    "AP": "Average precision of the greedy answer: mean over IoU thresholds 0.50 to 0.95 and over categories.",
    "AP50": "AP at IoU 0.50 alone.",
    "APr": "AP over the rare categories alone.",
    "APc": "AP over the common categories alone.",
    "APf": "AP over the frequent categories alone.",
    "recall": "Share of (instance, sample) pairs of a category with a verified mention: one of the category, matched "
    "one to one to the instance at IoU 0.5 or more. Instances are pooled over images.",
    "precision": "Share of mentions that are verified, among those that are either right or wrong.",
    "coverage@k": "Expected share of a category's instances that are verified in at least one of k of the K samples. "
    "Unbiased for every k up to K.",
    "distinct_names": "Number of different names among a category's verified mentions in the K samples of an image; "
    "mean over images with at least one. Grows with K.",
    "distinct_names@k": "Different names among a category's verified mentions that k of the K samples are expected to "
    "give in an image, over the expected share of images with at least one such mention. Both are unbiased in K.",
    "name_diversity": "Share of pairs of different samples verifying an instance that differ in its name "
    "(Gini-Simpson), over its value for a uniform choice among the category's S names, 1 - 1/S: 0 is one name, 1 "
    "a uniform choice. Unbiased, so it may exceed 1; undefined where fewer than two samples verify the "
    "instance, or S = 1.",
    "name_diversity_raw": "Name diversity before the division by 1 - 1/S.",
    "box_spread": "Mean pairwise 1 - IoU of the boxes that different samples give one instance.",
    "cluster_coverage": "Share of the (instance, name) choices of an image's ground truth that the K samples reach; "
    "undefined for categories with one name. Grows with K.",
    "unique_name_sequences": "Share of an image's K samples that differ as sequences of names, boxes left aside.",
    "unique_sequences": "Share of an image's K samples that differ as sequences, boxes included.",
    "order_distance": "Kendall distance between the orders in which two samples list the verified objects that they "
    "share: 0 is the same order, 1 the reverse; mean over pairs of samples.",
    "self_bleu": "Mean BLEU of a sample's name sequence against the image's other samples, one token a name: 1 is "
    "verbatim repetition. Grows with K.",
    "distinct_1": "Different names over all names in the K samples of an image. Falls with K.",
    "distinct_2": "Different pairs of successive names over all such pairs in the K samples of an image. Falls with K.",
    "vendi": "Vendi score: effective number of different name sequences among the K samples of an image, from 1 to K. "
    "Grows with K.",
    "duplicate_rate": "Share of the mentions that repeat an instance which the same sample has mentioned already.",
    "hallucination_rate": "Share of the mentions of a category that was verified to be absent from the image.",
    "unknown_name_rate": "Share of the mentions whose name is no category's.",
    "malformed_rate": "Share of the entries that could not be read as a name and a box.",
    "truncation_rate": "Share of the samples that reached the limit of tokens before the end token.",
    "consensus_AP": "AP of the consensus: mentions of the K samples that agree in category and overlap at IoU 0.5 or "
    "more become one detection, scored by the share of samples that have it times their mean probability.",
    "consensus_AP50": "The consensus' AP at IoU 0.50 alone.",
    "consensus_gain": "AP of the consensus minus AP of the greedy answer, paired.",
    "step_seconds": "Seconds per training step, evaluations left aside. Of a chain: of its last stage, with what that "
    "makes before its first step.",
    "log_step_seconds": "Natural logarithm of step_seconds: a difference of 0.05 is 5% more time.",
    "log_peak_memory": "Natural logarithm of peak_memory_mib: a difference of 0.05 is 5% more memory.",
    "peak_memory_mib": "Largest memory use in MiB: of the accelerator where there is one, else of the process. "
    "Undefined unless every cell of the row had a process of its own.",
}
"""By the name of the figure. `@k` stands for every k; a suffix `/r`, `/c` or `/f` (rare, common, frequent) limits a
figure to the categories of that frequency."""


def diversity_columns(samples: int) -> tuple[str, ...]:
    """Columns about what the K samples find and how they differ; `samples` is K."""
    return ("recall", f"coverage@{samples}", "distinct_names", "name_diversity", "unique_name_sequences")


def figure_names(samples: int) -> list[str]:
    """Every figure that a hypothesis may name, in the order of the tables; `samples` is K."""
    per_category = category_figures(samples)
    further = [*TEXT_COLUMNS, "hallucination_rate", "precision"]
    columns = [*AP_COLUMNS, *diversity_columns(samples), *FAULT_COLUMNS]
    more = [name for name in per_category if name not in columns]
    by_frequency = [f"{name}/{group}" for name in per_category if not _of_k(name, samples) for group in FREQUENCIES]
    cost = [*COST_COLUMNS, "log_step_seconds", "log_peak_memory"]
    return [*columns, *more, *further, *CONSENSUS_COLUMNS, *by_frequency, *cost]


def gain_names(samples: int) -> list[str]:
    """Figures of a chain's last stage minus those of fine-tuning, which a hypothesis may name for rows of chains."""
    return [f"{name}{GAIN}" for name in (*AP_COLUMNS, *diversity_columns(samples))]


def about_boxes(name: str) -> bool:
    """Whether a figure is undefined where the task has no boxes."""
    base = name.partition("/")[0]
    return base in (*CONSENSUS_COLUMNS, "box_spread") or base.removesuffix(GAIN) in AP_COLUMNS


def direction(name: str) -> int:
    """+1 where more of a figure is better, -1 where less is, 0 where that depends."""
    base = name.partition("/")[0]
    if base.endswith("_rate") or base in (*COST_COLUMNS, "self_bleu"):
        return -1
    better = (
        "AP",
        "consensus_",
        "coverage",
        "distinct",
        "recall",
        "precision",
        "name_diversity",
        "unique_name",
        "vendi",
    )
    return 1 if base.startswith(better) or base == "cluster_coverage" else 0


def category_figures(samples: int) -> dict[str, str]:
    """Our name of a figure -> its name in `aggregate.category_figures`. In tables name diversity is the
    normalised one (1 for a uniform choice of the name)."""
    curves = (f"{name}@{k}" for name in ("coverage", "distinct_names") for k in range(1, samples + 1))
    same = ("recall", f"coverage@{samples}", "distinct_names", "box_spread", "cluster_coverage", *curves)
    return {name: name for name in same} | {
        "name_diversity": "normalised_name_diversity",
        "name_diversity_raw": "name_diversity",
    }


def _of_k(name: str, samples: int) -> bool:
    """Whether a figure is a point of a curve over k, which is not told by frequency."""
    return "@" in name and name not in ("coverage@1", f"coverage@{samples}")
