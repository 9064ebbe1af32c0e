"""Autoregressive sampling for any adapter that can say what comes next. Owns the random numbers.

Each sample has its own stream, made from the seed, the image (and what is asked about it) and the sample's index, so
that what an image gets depends neither on its neighbours in the batch nor on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.inference.constraint import GrammarMasks
from harness.sequence import Codec
from harness.types import Example, Sample

Step = Callable[[Tensor], Tensor]
"""New tokens [rows, n] -> raw logits [rows, V] of the token that follows them."""
Keep = Callable[[Tensor], None]
"""Goes on with these rows alone (indices into the current ones)."""


class Steps(NamedTuple):
    """How a model goes through some rows. `close` is called when they have all ended, or something failed."""

    step: Step
    keep: Keep | None = None
    close: Callable[[], None] = lambda: None


Begin = Callable[[Sequence[Example], int], Steps]
"""Reads these images, each of which has so many neighbouring rows."""
SHRINK_BELOW = 0.8
"""Finished rows are dropped when fewer than this share is unfinished: each drop copies the caches."""
LOOK_EVERY = 8
"""Tokens between two looks at which rows have ended, where looking makes the host wait for the device."""


@torch.inference_mode()
def sample_all(
    begin: Begin,
    codec: Codec,
    examples: Sequence[Example],
    temperatures: Sequence[float],
    seed: int,
    max_tokens: int,
    grammar: bool = False,
    device: torch.device | str = "cpu",
) -> list[list[Sample]]:
    """For each example one sample per temperature: all that an adapter's `generate` has to do, but for `begin`.

    Examples whose prompts have equally many tokens go together, so that no prompt is padded: each gets what it gets
    alone.
    """
    by_place: dict[int, list[Sample]] = {}
    for places in _by_length([codec.prompt(example) for example in examples]):
        of_length = [examples[place] for place in places]
        heat = torch.tensor(list(temperatures) * len(of_length), device=device)
        noise = uniforms(of_length, len(temperatures), max_tokens, seed).to(device)
        steps = begin(of_length, len(temperatures))
        try:
            flat = sample(steps.step, codec, heat, noise, grammar, steps.keep, of_length)
        finally:
            steps.close()
        for position, place in enumerate(places):
            by_place[place] = flat[position * len(temperatures) :][: len(temperatures)]
    return [by_place[place] for place in range(len(examples))]


def _by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The places of prompts of one length, for each length."""
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(place)
    return list(groups.values())


def uniforms(examples: Sequence[Example], samples: int, length: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1) [I * K, length], float64; a row depends on (seed, image, question, sample) alone."""
    rows = [
        np.random.default_rng([seed, example.image_id, sample, *(example.asked or ())]).random(length)
        for example in examples
        for sample in range(samples)
    ]
    return torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def sample(
    step: Step,
    codec: Codec,
    temperatures: Tensor,
    noise: Tensor,
    grammar: bool = False,
    keep: Keep | None = None,
    examples: Sequence[Example] | None = None,
) -> list[Sample]:
    """Samples one sequence per row until its end token or `noise.shape[1]` tokens.

    temperatures [rows]: 0 is greedy. noise [rows, length]: a token is the inverse of the cumulative
    distribution at this number. Log-probabilities are of the raw model: temperature 1, no grammar. With
    `keep`, rows that have ended are taken out of the computation once they are many. examples: whose prompts the rows
    begin with, equally many neighbouring rows each; all prompts have one length. None: the open prompt.
    """
    rows, length = noise.shape
    device = temperatures.device
    emitted = torch.full((rows, length), codec.tokens.pad, device=device)
    scores = torch.zeros(rows, length, device=device)
    masks = GrammarMasks(codec, rows) if grammar else None
    active = torch.arange(rows, device=device)  # the rows that `step` still sees, finished ones among them
    unfinished = torch.ones(rows, dtype=torch.bool, device=device)
    prompts = [codec.tokens.prompt] if examples is None else [codec.prompt(example) for example in examples]
    tokens = torch.tensor(prompts, device=device).repeat_interleave(rows // len(prompts), dim=0)
    # Looking at what was chosen makes the host wait for the device: on a GPU that is done now and then.
    look_every = 1 if device.type == "cpu" or grammar else LOOK_EVERY
    drawn = bool((temperatures > 0).any())
    for position in range(length):
        raw = step(tokens).float()
        logits = raw if masks is None else masks.apply(raw, active.tolist())
        chosen = _choose(logits, temperatures[active], noise[active, position]) if drawn else logits.argmax(-1)
        chosen = torch.where(unfinished, chosen, codec.tokens.pad)
        emitted[active, position] = chosen
        scores[active, position] = raw.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        unfinished = unfinished & (chosen != codec.tokens.end)
        if (position + 1) % look_every == 0:
            left = int(unfinished.sum())
            if not left:
                break
            if masks is not None:
                masks.advance(active[unfinished].tolist(), chosen[unfinished].tolist())
            if keep is not None and left < SHRINK_BELOW * len(active):
                rest = unfinished.nonzero()[:, 0]
                keep(rest)
                active, chosen, unfinished = active[rest], chosen[rest], unfinished[rest]
        tokens = chosen[:, None]
    return _split(emitted.tolist(), scores.tolist(), codec.tokens.end)


def _choose(logits: Tensor, temperatures: Tensor, noise: Tensor) -> Tensor:
    """Inverse-transform sampling per row; the arg max where the temperature is 0. The sums are taken in float64, so
    that a token is another one only where its number lies on a border."""
    hot = temperatures > 0
    # In place and not divided by their sum: these are the largest tensors of a step.
    weights = logits.double().div_(torch.where(hot, temperatures, 1.0)[:, None])
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    cumulative = torch.cumsum(weights, -1, out=weights)
    # The last cumulative sum may fall short of 1 by rounding: scale the number, never index past the end.
    target = noise.to(cumulative)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return torch.where(hot, drawn, logits.argmax(-1))


def _split(tokens: list[list[int]], scores: list[list[float]], end: int) -> list[Sample]:
    """Cut every row after its first end token."""
    lengths = [row.index(end) + 1 if end in row else len(row) for row in tokens]
    return [Sample(tuple(row[:n]), tuple(score[:n])) for row, score, n in zip(tokens, scores, lengths, strict=True)]
