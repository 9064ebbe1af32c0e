"""The straightforward way to score mentions, which harness.inference.confidence is held against: one forward pass over
all sequences, and one more for the other names of each mention. All probabilities are raw.

A name is identified as soon as no other name continues its tokens; only where one does (`sofa` and
`sofa_bed`, by tokens) is the terminator, the probability that what ends a name follows, part of its probability: a
location or, in a format that has names last, a separator or the end. Name and box are given what stands before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.inference.confidence import MentionScore
from harness.inference.padding import target_batch
from harness.protocols import Adapter
from harness.sequence import Codec, Ids
from harness.types import Example, Mention, Parsed

CHUNK = 64


@torch.inference_mode()
def score(
    adapter: Adapter,
    examples: Sequence[Example],
    sequences: Sequence[tuple[int, ...]],
    parsed: Sequence[Parsed],
) -> list[list[MentionScore]]:
    """Scores of every mention of one sequence per example, from teacher-forced forward passes."""
    adapter.model.eval()
    scores: list[list[MentionScore]] = []
    device = next(adapter.model.parameters()).device
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        pixels = adapter.pixels(examples[rows]).to(device)
        prompts = [adapter.codec.prompt(example) for example in examples[rows]]
        pairs = list(zip(sequences[rows], parsed[rows], strict=True))
        log_p = _log_probs(adapter, pixels, [_with_room(*pair) for pair in pairs], prompts)
        for row, (tokens, mentions) in enumerate(pairs):
            asked = _Asked(adapter, pixels[row : row + 1], prompts[row])
            scores.append([_mention(asked, tokens, mention, log_p[row]) for mention in mentions.mentions])
    return scores


class _Asked(NamedTuple):
    """A model, an image [1, 3, H, W], and the prompt that it was asked with."""

    adapter: Adapter
    pixels: Tensor
    prompt: Ids


def _with_room(tokens: tuple[int, ...], parsed: Parsed) -> tuple[int, ...]:
    """The tokens, and one more where the last is of a name: it makes room for the distribution of what ends it."""
    open_name = any(mention.name_end == len(tokens) for mention in parsed.mentions)
    return (*tokens, tokens[-1]) if open_name else tokens


def _log_probs(
    adapter: Adapter, pixels: Tensor, sequences: Sequence[tuple[int, ...]], prompts: Sequence[Ids]
) -> list[Tensor]:
    """For each sequence [>= its length, V], position i being the distribution of target token i."""
    batch = target_batch(sequences, adapter.codec, prompts)
    before = [len(prompt) - 1 for prompt in prompts]
    logits = adapter.logits(pixels, batch.inputs.to(pixels.device)).float()
    log_p = logits[:, min(before) :].log_softmax(-1).cpu()
    return [log_p[row, place - min(before) :] for row, place in enumerate(before)]


def _mention(asked: _Asked, tokens: tuple[int, ...], mention: Mention, log_p: Tensor) -> MentionScore:
    """log_p [L, V] of the whole sequence."""
    codec = asked.adapter.codec
    box = sum(float(log_p[position, tokens[position]]) for position in range(mention.box_start, mention.box_end))
    ids = tokens[mention.name_start : mention.name_end]
    of_name = _name_log_prob(codec, ids, mention.name, log_p[mention.name_start :])
    if mention.category_id is None:
        return MentionScore(math.exp(of_name), None, math.exp(box))
    total = math.exp(of_name)
    slow = []
    for name in codec.names_of[mention.category_id]:
        if name == mention.name:
            continue
        if len(codec.name_ids[name]) == 1 and name not in codec.prefix_names:
            total += math.exp(float(log_p[mention.name_start, codec.name_ids[name][0]]))
        else:
            slow.append(name)
    total += _alternatives(asked, tokens[: mention.name_start], slow)
    return MentionScore(math.exp(of_name), total, math.exp(box))


def _alternatives(asked: _Asked, before: tuple[int, ...], names: Sequence[str]) -> float:
    """Sum of the probabilities of names that need a forward pass of their own."""
    if not names:
        return 0.0
    codec = asked.adapter.codec
    # The token after the name is only there to make room for its distribution.
    sequences = [(*before, *codec.name_ids[name], codec.tokens.end) for name in names]
    repeated = asked.pixels.expand(len(names), *asked.pixels.shape[1:])
    log_p = _log_probs(asked.adapter, repeated, sequences, [asked.prompt] * len(names))
    return sum(
        math.exp(_name_log_prob(codec, codec.name_ids[name], name, of_tokens[len(before) :]))
        for name, of_tokens in zip(names, log_p, strict=True)
    )


def _name_log_prob(codec: Codec, ids: Sequence[int], name: str, log_p: Tensor) -> float:
    """log P(name) in nats; log_p [>= len(ids) + 1, V] begins at the name's first token."""
    total = sum(float(log_p[position, token]) for position, token in enumerate(ids))
    if name in codec.prefix_names:
        total += float(log_p[len(ids), list(codec.form.terminators)].logsumexp(0))
    return total
