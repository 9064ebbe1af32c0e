"""What each figure means, in a sentence or two: the one place that says so to those who read the tables."""

from __future__ import annotations

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
    "peak_memory_mib": "Largest memory use in MiB: of the accelerator where there is one, else of the process.",
}
"""By the name of the figure. `@k` stands for every k; a suffix `/r`, `/c` or `/f` (rare, common, frequent) limits a
figure to the categories of that frequency."""
