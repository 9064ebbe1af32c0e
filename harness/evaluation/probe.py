"""Observes collapse as it happens: evaluates a few held-out images repeatedly during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.evaluation.answers import read_and_match
from harness.evaluation.evaluate import figure_tables
from harness.evaluation.generation import generate
from harness.inference.teacher_forcing import teacher_forced, with_likeliest
from harness.metrics.recorded import PROBE
from harness.metrics.samples import aggregate
from harness.metrics.samples.mentions import truth_of
from harness.metrics.stats import nan_to_none
from harness.protocols import Adapter
from harness.sequence import KINDS
from harness.sequence.targets import target
from harness.suite.schema import SampleSettings
from harness.types import Category, Example

NAME = KINDS.index("name")


def probe(
    adapter: Adapter,
    examples: Sequence[Example],
    categories: Sequence[Category],
    settings: SampleSettings,
    seed: int,
    asked: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """Measures the model on the probe images; None where a figure is undefined. asked: questions about these images,
    and perhaps about others; None: open prompts.

    entropy, p_y            mean over the target positions of the canonical sequences, teacher-forced: entropy of the
                            next token in nats, and probability of the label; of a mixture, under the expert that a
                            sequence is likeliest under
    name_entropy, name_p_y  the same over the positions of names
    name_diversity, recall  of K samples of each image, as in every table (harness.metrics.samples.aggregate)

    The samples use the same random numbers each time, so that only the model changes between two rows.
    """
    adapter.model.eval()
    truth = truth_of(examples, categories)
    shown = set(truth.image_ids.tolist())
    questions = [example for example in asked or examples if example.image_id in shown]
    emitted = generate(adapter, questions, settings.temperature, settings, seed)
    matched = read_and_match(
        adapter, questions, truth, categories, [samples[1:] for samples in emitted], settings.temperature
    )
    table, _ = figure_tables(truth, matched, categories, text=False)
    figures = aggregate.category_figures(table)
    sampled = {measure.name: measure.source for measure in PROBE if measure.source}
    means = {name: aggregate.mean_defined(figures[source])[0] for name, source in sampled.items()}
    return _teacher_forced(adapter, questions) | {name: nan_to_none(value) for name, value in means.items()}


def _teacher_forced(adapter: Adapter, examples: Sequence[Example]) -> dict[str, float | None]:
    sequences = [target(example, adapter.codec, "canonical") for example in examples]
    parts = []
    for forced in teacher_forced(adapter, with_likeliest(adapter, examples, sequences), sequences):
        log_p = forced.logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        label = log_p.gather(1, forced.labels[:, None])[:, 0].exp()
        parts.append(torch.stack([entropy, label, forced.kinds.to(label)]).double().cpu())
    entropy, label, kinds = torch.cat(parts, dim=1)
    names = kinds == NAME
    return {
        "entropy": float(entropy.mean()),
        "p_y": float(label.mean()),
        "name_entropy": nan_to_none(float(entropy[names].mean())),
        "name_p_y": nan_to_none(float(label[names].mean())),
    }
