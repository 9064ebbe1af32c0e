"""The measures: how each is called, which way is better, what it means, and which table shows it.

A new measure is one `Measure` here and the function that computes it: tables, their headings and order, what is printed
bold, the definitions in the report, the axes of figures and the names that a hypothesis may use follow from this page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from harness.metrics.measure import HIGHER, LOWER, NEITHER, Measure
from harness.metrics.recorded import OFFICIAL

MEASURES: tuple[Measure, ...] = (
    Measure(
        *("AP", "AP", HIGHER, "detection"),
        "Average precision of the greedy answer: mean over IoU thresholds 0.50 to 0.95 and over categories.",
        axis="AP (greedy answer)",
        per_category=True,
        needs_boxes=True,
    ),
    Measure("AP50", "AP50", HIGHER, "detection", "AP at IoU 0.50 alone.", needs_boxes=True),
    Measure("APr", "APr", HIGHER, "detection", "AP over the rare categories alone.", needs_boxes=True),
    Measure("APc", "APc", HIGHER, "detection", "AP over the common categories alone.", needs_boxes=True),
    Measure("APf", "APf", HIGHER, "detection", "AP over the frequent categories alone.", needs_boxes=True),
    Measure(
        *("recall", "recall", HIGHER, "diversity"),
        "Share of (instance, sample) pairs of a category with a verified mention: one of the category, matched "
        "one to one to the instance at IoU 0.5 or more. Instances are pooled over images.",
        source="recall",
        per_category=True,
    ),
    Measure(
        *("coverage@k", "coverage@k", HIGHER, "diversity"),
        "Expected share of a category's instances that are verified in at least one of k of the K samples. "
        "Unbiased for every k up to K.",
        source="coverage@k",
    ),
    Measure(
        *("distinct_names", "distinct names", HIGHER, "diversity"),
        "Number of different names among a category's verified mentions in the K samples of an image; mean over "
        "images with at least one. Grows with K.",
        source="distinct_names",
    ),
    Measure(
        *("distinct_names@k", "distinct names@k", HIGHER, "no table"),
        "Different names among a category's verified mentions that k of the K samples are expected to give in an "
        "image, over the expected share of images with at least one such mention. Both are unbiased in K.",
        source="distinct_names@k",
    ),
    Measure(
        *("name_diversity", "name diversity", HIGHER, "diversity"),
        "Share of pairs of different samples verifying an instance that differ in its name (Gini-Simpson), over "
        "its value for a uniform choice among the category's S names, 1 - 1/S: 0 is one name, 1 a uniform choice. "
        "Unbiased, so it may exceed 1; undefined where fewer than two samples verify the instance, or S = 1.",
        source="normalised_name_diversity",
        axis="normalised name diversity",
        per_category=True,
    ),
    Measure(
        *("name_diversity_raw", "name diversity raw", HIGHER, "no table"),
        "Name diversity before the division by 1 - 1/S.",
        source="name_diversity",
    ),
    Measure(
        *("box_spread", "box spread", NEITHER, "clusters"),
        "Mean pairwise 1 - IoU of the boxes that different samples give one instance.",
        source="box_spread",
        needs_boxes=True,
    ),
    Measure(
        *("cluster_coverage", "cluster coverage", HIGHER, "clusters"),
        "Share of the (instance, name) choices of an image's ground truth that the K samples reach; undefined for "
        "categories with one name. Grows with K.",
        source="cluster_coverage",
    ),
    Measure(
        *("unique_name_sequences", "unique name sequences", HIGHER, "diversity"),
        "Share of an image's K samples that differ as sequences of names, boxes left aside.",
    ),
    Measure(
        *("unique_sequences", "unique sequences", NEITHER, "text"),
        "Share of an image's K samples that differ as sequences, boxes included.",
    ),
    Measure(
        *("order_distance", "order distance", NEITHER, "text"),
        "Kendall distance between the orders in which two samples list the verified objects that they share: 0 is "
        "the same order, 1 the reverse; mean over pairs of samples.",
    ),
    Measure(
        *("self_bleu", "self-BLEU", LOWER, "text"),
        "Mean BLEU of a sample's name sequence against the image's other samples, one token a name: 1 is verbatim "
        "repetition. Grows with K.",
    ),
    Measure(
        *("distinct_1", "distinct-1", HIGHER, "text"),
        "Different names over all names in the K samples of an image. Falls with K.",
    ),
    Measure(
        *("distinct_2", "distinct-2", HIGHER, "text"),
        "Different pairs of successive names over all such pairs in the K samples of an image. Falls with K.",
    ),
    Measure(
        *("vendi", "Vendi score", HIGHER, "text"),
        "Vendi score: effective number of different name sequences among the K samples of an image, from 1 to K. "
        "Grows with K.",
    ),
    Measure(
        *("way_diversity", "way diversity", HIGHER, "ways"),
        "Share of pairs of an image's samples that answer in different ways. A way is the rule of order that the "
        "verified mentions keep best (reading order, left to right, largest first, none), whether they are all of the "
        "image's objects, at least half or fewer, and the set of their names. Unbiased; undefined where fewer than two "
        "samples have a verified mention.",
    ),
    Measure(
        *("distinct_ways", "distinct ways", HIGHER, "ways"),
        "Number of different ways of answering among the K samples of an image. Grows with K.",
    ),
    Measure(
        *("duplicate_rate", "duplicate rate", LOWER, "faults"),
        "Share of the mentions that repeat an instance which the same sample has mentioned already.",
    ),
    Measure(
        *("hallucination_rate", "hallucination rate", LOWER, "mentioned"),
        "Share of the mentions of a category that was verified to be absent from the image.",
    ),
    Measure(
        *("precision", "precision", HIGHER, "mentioned"),
        "Share of mentions that are verified, among those that are either right or wrong.",
    ),
    Measure(
        *("unknown_name_rate", "unknown name rate", LOWER, "faults"),
        "Share of the mentions whose name is no category's.",
    ),
    Measure(
        *("malformed_rate", "malformed rate", LOWER, "faults"),
        "Share of the entries that could not be read as a name and a box.",
    ),
    Measure(
        *("truncation_rate", "truncation rate", LOWER, "faults"),
        "Share of the samples that reached the limit of tokens before the end token.",
    ),
    Measure(
        *("consensus_AP", "consensus AP", HIGHER, "consensus"),
        "AP of the consensus: mentions of the K samples that agree in category and overlap at IoU 0.5 or more "
        "become one detection, scored by the share of samples that have it times their mean probability.",
        needs_boxes=True,
    ),
    Measure(
        "consensus_AP50",
        "consensus AP50",
        HIGHER,
        "consensus",
        "The consensus' AP at IoU 0.50 alone.",
        needs_boxes=True,
    ),
    Measure(
        *("consensus_gain", "consensus gain", HIGHER, "consensus"),
        "AP of the consensus minus AP of the greedy answer, paired.",
        needs_boxes=True,
    ),
    Measure(
        *("step_seconds", "seconds per step", LOWER, "cost"),
        "Seconds per training step, evaluations left aside. Of a chain: of its last stage, with what that makes "
        "before its first step.",
    ),
    Measure(
        *("log_step_seconds", "log step seconds", LOWER, "log cost"),
        "Natural logarithm of step_seconds: a difference of 0.05 is 5% more time.",
    ),
    Measure(
        *("log_peak_memory", "log peak memory", LOWER, "log cost"),
        "Natural logarithm of peak_memory_mib: a difference of 0.05 is 5% more memory.",
    ),
    Measure(
        *("peak_memory_mib", "peak memory (MiB)", LOWER, "cost"),
        "Largest memory use in MiB: of the accelerator where there is one, else of the process. Undefined unless "
        "every cell of the row had a process of its own.",
    ),
    Measure(
        *("selected_share", "selected share", NEITHER, "mask"),
        "Share of the tokens that the mask of SED-SFT selects; mean over the last quarter of the logged steps of "
        "fine-tuning. Undefined for objectives without a mask.",
    ),
    Measure(
        *("groups_without_spread", "groups without spread", NEITHER, "rollouts"),
        "Share of the images of a stage's rollouts whose samples all have the same reward, so that they give no "
        "gradient; mean over the logged steps of the last stage. Undefined unless it draws samples as it goes.",
    ),
)
"""The measures that tables show and hypotheses name, in the order of each table's columns and of the definitions."""

GAIN = "_gain"
FURTHER = "further"
"""The group of measures that other packages bring (harness.metrics.image_measures)."""
FREQUENCIES = ("r", "c", "f")

_BY_NAME = {measure.name: measure for measure in (*MEASURES, *OFFICIAL)}
MEANINGS: dict[str, str] = {measure.name: measure.meaning for measure in MEASURES}
"""The meaning of each figure, by its name. `@k` stands for every k; a suffix `/r`, `/c` or `/f` (rare, common,
frequent) limits a figure to the categories of that frequency."""


def _columns(group: str) -> tuple[str, ...]:
    return tuple(measure.name for measure in MEASURES if measure.group == group)


AP_COLUMNS = _columns("detection")
CONSENSUS_COLUMNS = _columns("consensus")
TEXT_COLUMNS = _columns("text")
CLUSTER_COLUMNS = _columns("clusters")
WAY_COLUMNS = _columns("ways")
"""Not in tables and CSV files of records that do not have them: those of older code."""
FAULT_COLUMNS = _columns("faults")
COST_COLUMNS = _columns("cost")
ROLLOUT_COLUMNS = _columns("rollouts")
MASK_COLUMNS = _columns("mask")
"""Neither these nor those of rollouts are in CSV files of runs that have none."""
CATEGORY_COLUMNS = tuple(measure.name for measure in MEASURES if measure.per_category)
"""The figures that are shown of each category."""
FREQUENCY_COLUMNS = tuple(
    f"{measure.name}/{group}"
    for measure in MEASURES
    if measure.per_category and measure.source
    for group in FREQUENCIES
)


NONE: Mapping[str, Measure] = {}


def find_measure(name: str, further: Mapping[str, Measure] = NONE) -> Measure:
    """Finds the measure of a figure such as "coverage@8", "recall/r" or "AP_gain". further: those of other packages.
    Raises KeyError where there is none."""
    if name in further:
        return further[name]
    general = re.sub(r"@\d+", "@k", name.partition("/")[0])
    return _BY_NAME.get(general) or _BY_NAME[general.removesuffix(GAIN)]


def heading(name: str, further: Mapping[str, Measure] = NONE) -> str:
    """Returns the heading of a figure's column: the measure's heading with what the name adds to it (k, frequency,
    gain). further: see `find_measure`."""
    if name in further:
        return further[name].heading
    base, slash, frequency = name.partition("/")
    measure = find_measure(base)
    text = measure.heading
    if at := re.search(r"@\d+", base):
        text = text.replace("@k", at.group())
    if base.endswith(GAIN) and measure.name != base:
        text += GAIN.replace("_", " ")
    return text + slash + frequency


def axis_label(name: str) -> str:
    """Returns the name of a measure for an axis or the title of a panel."""
    measure = find_measure(name)
    return measure.axis or measure.heading


def diversity_columns(samples: int) -> tuple[str, ...]:
    """Lists the columns about what the K samples find and how they differ; `samples` is K."""
    return tuple(_at(name, samples) for name in _columns("diversity"))


def figure_names(samples: int, further: Iterable[str] = ()) -> list[str]:
    """Lists every figure that a hypothesis may name, in the order of the tables; `samples` is K. further: names of
    other packages' measures."""
    per_category = category_figures(samples)
    of_images = [*TEXT_COLUMNS, *WAY_COLUMNS, *_columns("mentioned")]
    columns = [*AP_COLUMNS, *diversity_columns(samples), *FAULT_COLUMNS]
    more = [name for name in per_category if name not in columns]
    by_frequency = [f"{name}/{group}" for name in per_category if not _of_k(name, samples) for group in FREQUENCIES]
    of_training = [*COST_COLUMNS, *_columns("log cost"), *MASK_COLUMNS, *ROLLOUT_COLUMNS]
    return [*columns, *more, *of_images, *CONSENSUS_COLUMNS, *by_frequency, *of_training, *further]


def gain_names(samples: int) -> list[str]:
    """Lists the gains (figures of a chain's last stage minus those of fine-tuning) that a hypothesis may name."""
    return [f"{name}{GAIN}" for name in (*AP_COLUMNS, *diversity_columns(samples))]


def about_boxes(name: str, further: Mapping[str, Measure] = NONE) -> bool:
    """Tells whether a figure is undefined where the task has no boxes."""
    return find_measure(name, further).needs_boxes


def direction(name: str, further: Mapping[str, Measure] = NONE) -> int:
    """Returns +1 where a larger figure is better, -1 where a smaller one is, and 0 where that depends."""
    return find_measure(name, further).direction


def category_figures(samples: int) -> dict[str, str]:
    """Maps the names of figures in tables to their names in `aggregate.category_figures`. Tables show the normalised
    name diversity (1 for a uniform choice of the name)."""
    averaged = [measure for measure in MEASURES if measure.source]
    same = [measure for measure in averaged if measure.source == measure.name]
    ends = [_at(measure.name, samples) for measure in same if measure.group != "no table"]
    curves = [_at(measure.name, k) for measure in same if "@k" in measure.name for k in range(1, samples + 1)]
    renamed = {measure.name: measure.source for measure in averaged if measure.source != measure.name}
    return {name: name for name in (*ends, *curves)} | renamed


def _at(name: str, k: int) -> str:
    return name.replace("@k", f"@{k}")


def _of_k(name: str, samples: int) -> bool:
    """Tells whether a figure is a point of a curve over k; such figures are not split by frequency."""
    return "@" in name and name not in ("coverage@1", f"coverage@{samples}")
