"""Checks `generate`: what it returns, that it depends on the right inputs, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.conformance.subject import (
    MAX_TOKENS,
    NotApplicableError,
    Subject,
    apart,
    as_adapter,
    require,
    target_log_probs,
)
from harness.errors import ConfigError
from harness.types import Example, Sample

MIXED = (0.0, 1.0, 1.0, 1.0)
"""Temperatures: greedy beside three samples."""
SAMPLES = 8


def answers(subject: Subject, temperatures: tuple[float, ...] = MIXED, seed: int = 0) -> list[list[Sample]]:
    return subject.predictor.generate(subject.few, temperatures, seed, MAX_TOKENS)


def generate(subject: Subject) -> None:
    """One list for each picture, one sample for each temperature; nothing follows the end token."""
    end, drawn = subject.codec.tokens.end, answers(subject)
    shape = [len(of_image) for of_image in drawn]
    expected = [len(MIXED)] * len(subject.few)
    require(shape == expected, f"expected {expected} samples for the pictures, got {shape}")
    for sample in (sample for of_image in drawn for sample in of_image):
        require(
            len(sample.tokens) == len(sample.log_probs),
            f"expected a log-probability for each of {len(sample.tokens)} tokens, got {len(sample.log_probs)}",
        )
        ended = sample.tokens[-1:] == (end,) or len(sample.tokens) == MAX_TOKENS
        require(
            ended and end not in sample.tokens[:-1],
            f"expected tokens up to the end token {end} or {MAX_TOKENS} of them, got {sample.tokens}",
        )
        wrong = [value for value in sample.log_probs if not -torch.inf < value <= 1e-6]
        require(not wrong, f"expected finite log-probabilities of at most 0, got {wrong}")


def limit(subject: Subject) -> None:
    """No sample is longer than `max_tokens`."""
    as_adapter(subject.predictor)
    lengths = [len(s.tokens) for of_image in subject.predictor.generate(subject.few, MIXED, 0, 2) for s in of_image]
    require(max(lengths) <= 2, f"expected at most max_tokens = 2 tokens, got {max(lengths)}")


def greedy(subject: Subject) -> None:
    """At temperature 0 there is one answer, whatever the seed."""
    one, other = ([s.tokens for of_image in answers(subject, (0.0, 0.0), seed) for s in of_image] for seed in (0, 1))
    require(
        one == other and one[::2] == one[1::2],
        "expected one greedy answer for each picture, got several; temperature 0 has no random numbers",
    )


def most_probable(subject: Subject) -> None:
    """Each token of the greedy answer is the most probable one."""
    adapter, device = subject.adapter, subject.accelerator.device
    for example, (sample,) in zip(subject.few, answers(subject, (0.0,)), strict=True):
        (table,) = target_log_probs(adapter, [example], [sample.tokens], device)
        lost = float((table.max(-1).values - table[range(len(sample.tokens)), sample.tokens]).max())
        require(
            lost <= subject.tolerance, f"expected the most probable tokens, got one that is {lost:.3g} nats below it"
        )


def samples(subject: Subject) -> None:
    """At temperature 1, K samples of a picture differ."""
    as_adapter(subject.predictor)
    different = [len({s.tokens for s in of_image}) for of_image in answers(subject, (1.0,) * SAMPLES)]
    require(
        max(different) > 1,
        f"expected {SAMPLES} samples at temperature 1 to differ, got one answer for each picture; each sample needs "
        "random numbers of its own (see harness.inference.decoding.uniforms)",
    )


def seed(subject: Subject) -> None:
    """The same seed gives the same samples; another one gives others."""
    first = answers(subject)
    require(
        answers(subject) == first,
        "expected the same samples from the same seed, got others; no random number may come from elsewhere "
        "(see harness.inference.decoding.uniforms)",
    )
    if subject.is_adapter:
        require(answers(subject, seed=1) != first, "expected other samples from another seed, got the same")


def neighbours(subject: Subject) -> None:
    """A picture gets the same samples alone, beside others, and at another place in the batch."""
    in_batch = answers(subject)
    backwards = subject.predictor.generate(subject.few[::-1], MIXED, 0, MAX_TOKENS)[::-1]
    for example, beside, other in zip(subject.few, in_batch, backwards, strict=True):
        (alone,) = subject.predictor.generate([example], MIXED, 0, MAX_TOKENS)
        for where, drawn in (("beside others", beside), ("at another place in the batch", other)):
            require(
                [s.tokens for s in drawn] == [s.tokens for s in alone],
                f"image {example.image_id}: expected the same samples alone and {where}, got others; the random "
                "numbers must depend on the seed and the image (see harness.inference.decoding.uniforms)",
            )


def log_probs(subject: Subject) -> None:
    """The log-probabilities of what is generated are those of one forward pass over all its tokens."""
    adapter, device = subject.adapter, subject.accelerator.device
    for example, samples_of_image in zip(subject.few, answers(subject), strict=True):
        for sample in samples_of_image:
            (table,) = target_log_probs(adapter, [example], [sample.tokens], device)
            expected = table[range(len(sample.tokens)), sample.tokens]
            error = apart(torch.tensor(sample.log_probs), expected)
            require(
                error <= subject.tolerance,
                f"expected the log-probabilities of `logits` within {subject.tolerance}, got {error:.3g}: "
                "either the cache of `generate` does not do what a whole pass does, or `logits` looks ahead, or "
                "the log-probabilities are not the raw model's",
            )


def asked(subject: Subject) -> None:
    """What is generated where the prompt names categories follows that prompt, whatever its neighbours' lengths."""
    adapter = subject.adapter
    ids = [category.id for category in subject.categories]
    questions = [replace(example, asked=tuple(ids[:count])) for count, example in enumerate(subject.few[:2], 1)]
    try:
        for question in questions:
            adapter.codec.prompt(question)
    except ConfigError as error:
        raise NotApplicableError(str(error)) from None
    drawn = adapter.generate(questions, (1.0,), 0, MAX_TOKENS)
    for question, (sample, *_) in zip(questions, drawn, strict=True):
        named, opened = (_missed(subject, one, sample) for one in (question, replace(question, asked=None)))
        require(
            named <= max(opened, subject.tolerance),
            f"expected an answer to a prompt that names categories, got log-probabilities that are {named:.3g} from "
            f"those after it and {opened:.3g} from those after the open prompt; let `generate` begin with "
            "codec.prompt(example) (see harness.inference.decoding.sample_all)",
        )


def _missed(subject: Subject, example: Example, sample: Sample) -> float:
    """Measures how far its log-probabilities are from those of a whole pass after this example's prompt."""
    (table,) = target_log_probs(subject.adapter, [example], [sample.tokens], subject.accelerator.device)
    return apart(torch.tensor(sample.log_probs), table[range(len(sample.tokens)), sample.tokens])
