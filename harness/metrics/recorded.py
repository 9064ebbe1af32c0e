"""Measures that a record has and no table shows: of official evaluators, of the log of training, of the probe."""

from __future__ import annotations

from harness.metrics.measure import HIGHER, LOWER, NEITHER, Measure

OFFICIAL: tuple[Measure, ...] = (
    Measure("AP75", "AP75", HIGHER, "official", "AP at IoU 0.75 alone."),
    Measure("APs", "APs", HIGHER, "official", "AP over small objects alone."),
    Measure("APm", "APm", HIGHER, "official", "AP over objects of medium size alone."),
    Measure("APl", "APl", HIGHER, "official", "AP over large objects alone."),
    Measure("AR", "AR", HIGHER, "official", "Average recall over the same IoU thresholds and categories as AP."),
    Measure("ARs", "ARs", HIGHER, "official", "Average recall of small objects."),
    Measure("ARm", "ARm", HIGHER, "official", "Average recall of objects of medium size."),
    Measure("ARl", "ARl", HIGHER, "official", "Average recall of large objects."),
    Measure("AR@k", "AR@k", HIGHER, "official", "Average recall of at most k detections an image."),
    Measure("ARs@k", "ARs@k", HIGHER, "official", "Average recall of small objects, at most k detections an image."),
    Measure("ARm@k", "ARm@k", HIGHER, "official", "Average recall of objects of medium size, likewise."),
    Measure("ARl@k", "ARl@k", HIGHER, "official", "Average recall of large objects, likewise."),
    Measure("lenient_rate", "lenient rate", LOWER, "reading", "Share of the mentions that were read leniently."),
)
"""Measures that a record has besides and that no table shows: of official evaluators, and of how answers were read."""

TRAINING: tuple[Measure, ...] = (
    Measure(
        *("heldout_nll", "held-out NLL (nats per token)", LOWER, "training"),
        "Mean negative log probability of the held-out targets, measured with each evaluation.",
    ),
    Measure("entropy", "entropy (nats)", NEITHER, "training", "Mean entropy of the next token of targets or rollouts."),
    Measure("p_y", "probability of the label", HIGHER, "training", "Mean probability of the batch's labels."),
    Measure("selected", "selected share", NEITHER, "training", "Share of the tokens that the mask selects."),
    Measure("reward", "mean reward of the samples", HIGHER, "training", "Mean reward of the rollouts."),
    Measure(
        *("filtered", "groups without spread", NEITHER, "training"),
        "Share of the images of a rollout whose samples all have the same reward.",
    ),
    Measure("objects", "objects per sample", NEITHER, "training", "Mean number of mentions in a rollout."),
    Measure("duplicates", "duplicates per sample", LOWER, "training", "Mean number of repeated mentions in a rollout."),
)
"""Measures of the training log that figures show, in this order."""

PROBE: tuple[Measure, ...] = (
    Measure("entropy", "entropy, all tokens (nats)", NEITHER, "probe", "Mean entropy over the targets."),
    Measure("p_y", "probability of the label, all tokens", HIGHER, "probe", "Mean probability of targets' tokens."),
    Measure(
        *("recall", "recall", HIGHER, "probe", "As in the tables, over the images of the probe."),
        source="recall",
    ),
    Measure("name_entropy", "entropy, names (nats)", NEITHER, "probe", "Mean entropy where a name's token is due."),
    Measure("name_p_y", "probability of the label, names", HIGHER, "probe", "Mean probability of names' tokens."),
    Measure(
        *("name_diversity", "name diversity", HIGHER, "probe", "As in the tables, over the images of the probe."),
        source="normalised_name_diversity",
    ),
)
"""Measures of the probe that figures show, in this order."""
