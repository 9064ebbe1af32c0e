"""What is watched in training is what the tables measure, on the probe's images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.evaluation.evaluate import measure
from harness.evaluation.probe import probe
from harness.evaluation.scored_samples import EvaluationSettings
from harness.inference.padding import target_batch
from harness.sequence.targets import target
from harness.types import IGNORED_LABEL, Example
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small


def images() -> tuple[Example, ...]:
    return small.benchmark().split("val")


def test_samples_are_measured_as_everywhere() -> None:
    """On the whole validation split the probe gives the figures of an evaluation."""
    adapter, benchmark = small.fitted(), small.benchmark()
    settings = small.SAMPLE.model_copy(update={"max_tokens": 30, "grammar": True})
    measured = probe(adapter, images(), benchmark.categories, settings, seed=3)
    info = measure(adapter, benchmark, EvaluationSettings(settings, seed=3), step=0, heldout_nll=None).info
    assert measured["recall"] == info.diversity["recall"]
    assert measured["name_diversity"] == info.diversity["normalised_name_diversity"]
    shipped = OpenFlamingo(benchmark.categories, {})  # the fitted one knows four images, none of these
    assert probe(shipped, images(), benchmark.categories, settings, seed=3)["recall"] > 0


def test_entropy_and_probability_of_the_label_by_their_definitions() -> None:
    adapter = small.fitted()
    sequences = [target(example, adapter.codec, "canonical") for example in images()]
    batch = target_batch(sequences, adapter.codec)
    with torch.no_grad():
        p = adapter.logits(adapter.pixels(images()), batch.inputs).double().softmax(-1).numpy()
    labels, kinds = batch.labels.numpy(), batch.kinds.numpy()
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
    of_label = np.take_along_axis(p, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    everywhere, names = labels != IGNORED_LABEL, kinds == 0
    measured = probe(adapter, images(), small.benchmark().categories, small.SAMPLE, seed=0)
    assert measured["entropy"] == pytest.approx(entropy[everywhere].mean(), rel=1e-4)
    assert measured["p_y"] == pytest.approx(of_label[everywhere].mean(), rel=1e-4)
    assert measured["name_entropy"] == pytest.approx(entropy[names].mean(), rel=1e-4)
    assert measured["name_p_y"] == pytest.approx(of_label[names].mean(), rel=1e-4)


def test_it_depends_on_the_seed_alone() -> None:
    adapter, categories = small.fitted(), small.benchmark().categories
    settings = small.SAMPLE.model_copy(update={"max_tokens": 30})
    first, again, other = (probe(adapter, images(), categories, settings, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["entropy"] == other["entropy"]  # teacher-forced: nothing is drawn
    assert first["recall"] != other["recall"]
