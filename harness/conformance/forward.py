"""Checks of `pixels`, `logits` and `hidden`."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from harness.conformance.subject import NotApplicableError, Subject, apart, as_adapter, require, target_log_probs
from harness.inference.padding import target_batch
from harness.protocols import HiddenStates
from harness.types import Example

SHAPES = ((64, 64), (97, 40), (40, 97))
"""Width and height of pictures that go into one batch."""


def pixels(subject: Subject) -> None:
    """Pictures of any size become one float32 tensor on the CPU, each independent of the others."""
    adapter = subject.adapter
    examples = [_picture(subject, index, *size) for index, size in enumerate(SHAPES)]
    tensor = adapter.pixels(examples)
    got = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
    fits = tensor.ndim == 4 and len(tensor) == len(examples) and tensor.shape[1] == 3
    require(
        fits and tensor.dtype == torch.float32 and tensor.device.type == "cpu",
        f"expected [{len(examples)}, 3, H, W] float32 on cpu, got {got}",
    )
    require(bool(tensor.isfinite().all()), "expected finite numbers")
    for index, example in enumerate(examples):
        same = torch.equal(adapter.pixels([example])[0], tensor[index])
        require(same, "expected the same pixels for a picture alone and in a batch")


def _picture(subject: Subject, index: int, width: int, height: int) -> Example:
    """Draws a gradient without objects."""
    path = subject.folder / f"{index}.png"
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
    return Example(10**6 + index, path, width, height, ())


def logits(subject: Subject) -> None:
    """A distribution over the whole vocabulary for every token of the batch, and the same one each time."""
    adapter, device = subject.adapter, subject.accelerator.device
    first, again = (_all_logits(subject) for _ in range(2))
    rows, length, size = len(subject.few), _tokens(subject).shape[1], adapter.codec.tokens.size
    fits = first.shape[:2] == (rows, length) and first.shape[2] >= size
    require(fits, f"expected logits [{rows}, {length}, {size} or more], got {tuple(first.shape)}")
    require(bool(first.isfinite().all()), f"expected finite logits on {device}")
    require(torch.equal(first, again), "expected the same logits each time in eval mode; is something random in it?")


def _tokens(subject: Subject) -> Tensor:
    targets = [subject.target(example) for example in subject.few]
    return target_batch(targets, subject.codec).inputs.to(subject.accelerator.device)


@torch.inference_mode()
def _all_logits(subject: Subject) -> Tensor:
    adapter = subject.adapter
    return adapter.logits(adapter.pixels(subject.few).to(subject.accelerator.device), _tokens(subject))


@torch.inference_mode()
def hidden(subject: Subject) -> None:
    """hidden() times the output embedding is logits()."""
    adapter = as_adapter(subject.predictor)
    if not isinstance(adapter, HiddenStates):
        raise NotApplicableError("no hidden(): it is optional")
    pixels = adapter.pixels(subject.few).to(subject.accelerator.device)
    projection = adapter.hidden(pixels, _tokens(subject))
    product = (projection.hidden @ projection.weight.T).float().log_softmax(-1)
    error = apart(product, _all_logits(subject).float().log_softmax(-1))
    require(
        error <= subject.tolerance,
        f"expected the log-probabilities of `logits` within {subject.tolerance}, got {error:.3g}; the output "
        "embedding must have no bias, and scaling or capping of logits has no place in it",
    )


def padding(subject: Subject) -> None:
    """A row has the same log-probabilities alone and padded beside a longer one."""
    pair = subject.short_and_long
    targets = [subject.target(example) for example in pair]
    require(len(targets[0]) < len(targets[1]), f"expected targets of two lengths, got {len(targets[0])} for both")
    _same(
        subject,
        target_log_probs(subject.adapter, pair, targets, subject.accelerator.device)[0],
        target_log_probs(subject.adapter, pair[:1], targets[:1], subject.accelerator.device)[0],
        "alone and beside a longer one; padding stands on the right, nothing before it may see it",
    )


def batch(subject: Subject) -> None:
    """A row has the same log-probabilities alone and wherever it stands in a batch."""
    adapter, device, few = subject.adapter, subject.accelerator.device, subject.few
    tokens = subject.target(few[0])  # the same for all pictures: no row is padded
    forwards = target_log_probs(adapter, few, [tokens] * len(few), device)
    backwards = target_log_probs(adapter, few[::-1], [tokens] * len(few), device)[::-1]
    for example, there, back in zip(few, forwards, backwards, strict=True):
        (alone,) = target_log_probs(adapter, [example], [tokens], device)
        _same(subject, there, alone, "alone and in a batch")
        _same(subject, back, alone, "alone and at another place in the batch")


def rows(subject: Subject) -> None:
    """Neighbouring rows of one picture, which is given once, have the log-probabilities of rows with a picture each."""
    adapter, device, pair = subject.adapter, subject.accelerator.device, subject.few[:2]
    targets = [subject.target(example) for example in (*pair, *pair)]  # both for each picture
    each = [example for example in pair for _ in pair]
    expected = target_log_probs(adapter, each, targets, device)
    for actual, wanted in zip(target_log_probs(adapter, pair, targets, device), expected, strict=True):
        _same(subject, actual, wanted, "with a picture each and with one that serves its neighbours too")


def _same(subject: Subject, actual: Tensor, expected: Tensor, where: str) -> None:
    error = apart(actual, expected)
    require(
        error <= subject.tolerance,
        f"expected the log-probabilities of a row within {subject.tolerance} of each other {where}; got {error:.3g}",
    )
