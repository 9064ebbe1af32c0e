"""Samples autoregressively from any adapter that returns the next token's logits, with reproducible random numbers.

Each sample has a separate random stream, made from the seed, the image (with the categories in its prompt) and the
sample's index, so that samples of an image depend neither on its neighbours in the batch nor on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.inference.constraint import make_masks
from harness.protocols import DrawSettings
from harness.sequence import Codec
from harness.sequence.experts import ExpertRows
from harness.types import Example, Sample

Step = Callable[[Tensor], Tensor]
"""Takes new tokens [rows, n] and returns raw logits [rows, V] of the token that follows them."""
Keep = Callable[[Tensor], None]
"""Continues with these rows only (indices into the current ones)."""
Add = Callable[[Sequence[Example], Tensor], Tensor]
"""Reads more images and their prompts [rows, n], as rows after those there are -> raw logits [rows, V]."""


class Steps(NamedTuple):
    """The functions by which a model generates some rows. `close` is called when all have ended, or on an error.
    `add`: where rows that begin may stand beside rows that have come further."""

    step: Step
    keep: Keep | None = None
    close: Callable[[], None] = lambda: None
    add: Add | None = None


Begin = Callable[[Sequence[Example], int], Steps]
"""Starts the generation for these images, each with so many neighbouring rows."""
SHRINK_BELOW = 0.8
"""Share of unfinished rows below which finished rows are dropped; each drop copies the caches."""
LOOK_EVERY = 8
"""Tokens between two checks for ended rows, where a check makes the host wait for the device."""


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
    """Generates one sample per temperature for each example: all that an adapter's `generate` has to do, except for
    `begin`.

    Examples whose prompts have equally many tokens share a batch, so that no prompt is padded and each example gets
    the same samples as alone.
    """
    by_place: dict[int, list[Sample]] = {}
    for places in _by_length([codec.prompt(example) for example in examples]):
        of_length = [examples[place] for place in places]
        rows = _Rows.of(codec, of_length, temperatures, DrawSettings(seed, max_tokens, grammar), device)
        by_place |= dict(zip(places, _decode(begin, rows, len(of_length)), strict=True))
    return [by_place[place] for place in range(len(examples))]


@torch.inference_mode()
def sample_queue(
    begin: Begin,
    codec: Codec,
    examples: Sequence[Example],
    temperatures: Sequence[float],
    settings: DrawSettings,
    images: int,
    device: torch.device | str = "cpu",
) -> list[list[Sample]]:
    """What `sample_all` returns, of any number of examples: at most so many images are decoded at once, and the next
    ones follow as soon as there is room for all their rows. Needs `Steps.add`.
    """
    places = sorted(range(len(examples)), key=lambda place: len(codec.prompt(examples[place])))
    rows = _Rows.of(codec, [examples[place] for place in places], temperatures, settings, device)
    by_place = dict(zip(places, _decode(begin, rows, images), strict=True))
    return [by_place[place] for place in range(len(examples))]


def _by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups the positions of prompts by their length."""
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(place)
    return list(groups.values())


def uniforms(examples: Sequence[Example], samples: int, length: int, seed: int) -> Tensor:
    """Returns uniform numbers in [0, 1) [I * K, length], float64; a row depends on (seed, image, question, sample)
    only."""
    rows = [
        np.random.default_rng([seed, example.image_id, sample, *(example.asked or ())]).random(length)
        for example in examples
        for sample in range(samples)
    ]
    return torch.from_numpy(np.stack(rows))


def sample(
    step: Step,
    codec: Codec,
    examples: Sequence[Example],
    temperatures: Tensor,
    noise: Tensor,
    grammar: bool = False,
    keep: Keep | None = None,
) -> list[Sample]:
    """Samples one sequence per row until its end token or `noise.shape[1]` tokens.

    temperatures [rows]: 0 is greedy. noise [rows, length]: a token is the inverse of the cumulative distribution at
    this number. Log-probabilities are of the raw model: temperature 1, no grammar. With `keep`, rows that have ended
    are removed from the computation once they are many. examples: those whose prompts the rows begin with, equally
    many neighbouring rows each; all prompts have one length.
    """
    rows = _Rows(codec, examples, temperatures, noise, grammar)
    answers = _decode(lambda examples, samples: Steps(step, keep), rows, len(examples))
    return [sample for of_image in answers for sample in of_image]


# ---- the loop --------------------------------------------------------------------------------------------------------


def _decode(begin: Begin, rows: _Rows, images: int) -> list[list[Sample]]:
    """Samples all rows, those of at most so many images at a time; the first ones have prompts of one length."""
    entered, prompts = rows.enter(images)
    steps = begin(entered, rows.samples)
    try:
        raw = steps.step(prompts)
        while True:
            tokens = rows.choose(raw)
            room = 0
            if rows.is_look_due():
                left = rows.look()
                if not left and not rows.waiting:
                    break
                room = images - -(-left // rows.samples) if rows.waiting and left < SHRINK_BELOW * rows.width else 0
                if steps.keep is not None and (left < SHRINK_BELOW * rows.width or rows.is_overdue()):
                    steps.keep(rest := rows.drop())
                    tokens = tokens[rest]
            parts = [steps.step(tokens[:, None])] if len(tokens) else []
            if room:
                assert steps.add is not None
                parts.append(steps.add(*rows.enter(room)))
            raw = parts[0] if len(parts) == 1 else torch.cat(parts)
    finally:
        steps.close()
    return rows.samples_by_image()


class _Rows:
    """Rows of some images, equally many neighbours each: what they have emitted, which the model sees now, and what
    waits.

    Shape legend: R rows   A rows that the model sees, ended ones among them   N tokens at most   V vocabulary
    """

    def __init__(
        self,
        codec: Codec,
        examples: Sequence[Example],
        temperatures: Tensor,
        noise: Tensor,
        grammar: bool,
        experts: ExpertRows | None = None,
    ) -> None:
        """temperatures [R], noise [R, N]: as `sample` has them. experts: of the rows, where a mixture answers."""
        rows, self._length = noise.shape
        device = temperatures.device
        self._codec, self._examples, self._temperatures, self._noise = codec, examples, temperatures, noise
        self._experts = experts
        self.samples = rows // max(len(examples), 1)
        # What a row emits when it has ended goes into one more column.
        self._emitted = torch.full((rows, self._length + 1), codec.tokens.pad, device=device)
        self._scores = torch.zeros(rows, self._length + 1, device=device)
        self._masks = make_masks(codec, rows, device) if grammar else None
        self._drawn = bool((temperatures > 0).any())
        self._entered = 0  # images
        self._active = torch.zeros(0, dtype=torch.long, device=device)  # [A]
        self._count = torch.zeros(0, dtype=torch.long, device=device)  # [A] tokens of each, as if none had ended
        self._unfinished = torch.zeros(0, dtype=torch.bool, device=device)  # [A]
        # Reading the chosen tokens makes the host wait for the device, so a GPU does it only now and then.
        waits = device.type == "cpu" or (self._masks is not None and self._masks.waits)
        self._every = 1 if waits else LOOK_EVERY
        self._since = 0  # tokens since the last look
        self._oldest = 0  # tokens of the row that the model has seen for longest

    @classmethod
    def of(
        cls,
        codec: Codec,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        settings: DrawSettings,
        device: torch.device | str,
    ) -> _Rows:
        """One row of each example for each temperature; of a mixture, one for each expert where that is 0."""
        heat = torch.tensor(list(temperatures) * len(examples), device=device)
        noise = uniforms(examples, len(temperatures), settings.max_tokens, settings.seed).to(device)
        if not codec.experts:
            return cls(codec, examples, heat, noise, settings.grammar)
        experts = ExpertRows.of(len(codec.experts), examples, temperatures, settings.seed)
        return cls(codec, examples, heat[experts.sample], noise[experts.sample], settings.grammar, experts)

    @property
    def waiting(self) -> int:
        """Images of which no row has begun."""
        return len(self._examples) - self._entered

    @property
    def width(self) -> int:
        """A."""
        return len(self._active)

    def enter(self, images: int) -> tuple[Sequence[Example], Tensor]:
        """Lets the rows of the next images begin, at most so many, whose prompts have one length: the images, and the
        prompt of each row."""
        coming = self._examples[self._entered : self._entered + images]
        prompts = [self._codec.prompt(example) for example in coming]
        alike = list(takewhile(lambda prompt: len(prompt) == len(prompts[0]), prompts))
        device, first, rows = self._active.device, self._entered * self.samples, len(alike) * self.samples
        self._active = torch.cat([self._active, torch.arange(first, first + rows, device=device)])
        self._count = torch.cat([self._count, torch.zeros(rows, dtype=torch.long, device=device)])
        self._unfinished = torch.cat([self._unfinished, torch.ones(rows, dtype=torch.bool, device=device)])
        self._entered += len(alike)
        tokens = torch.tensor(alike, device=device).repeat_interleave(self.samples, dim=0)
        if self._experts is not None:
            experts = self._experts.expert[first : first + rows]
            tokens[:, -1] = torch.tensor([self._codec.experts[expert] for expert in experts], device=device)
        return coming[: len(alike)], tokens

    def choose(self, raw: Tensor) -> Tensor:
        """The next token [A] of each row, from raw logits [A, V]; padding where it has ended."""
        raw = raw.float()
        logits = raw if self._masks is None else self._masks.apply(raw, self._active)
        pad, active, unfinished = self._codec.tokens.pad, self._active, self._unfinished
        if self._drawn:
            numbers = self._noise[active, self._count.clamp(max=self._length - 1)]
            chosen = _choose(logits, self._temperatures[active], numbers)
        else:
            chosen = logits.argmax(-1)
        chosen = torch.where(unfinished, chosen, pad)
        column = torch.where(unfinished, self._count, self._length)
        self._emitted[active, column] = chosen
        self._scores[active, column] = raw.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        self._count = self._count + 1
        self._unfinished = unfinished & (chosen != self._codec.tokens.end) & (self._count < self._length)
        if self._masks is not None and self._masks.waits:
            self._masks.advance(active[self._unfinished], chosen[self._unfinished])
        elif self._masks is not None:  # rows that have ended too, whose masks do not matter: choosing rows waits
            self._masks.advance(active, chosen)
        self._since, self._oldest = self._since + 1, self._oldest + 1
        return chosen

    def is_look_due(self) -> bool:
        """Whether it is time to see which rows have ended: some certainly has when it has N tokens."""
        return self._since >= self._every or self._oldest >= self._length

    def look(self) -> int:
        """How many rows have not ended; waits for the device."""
        self._since = 0
        return int(self._unfinished.sum())

    def is_overdue(self) -> bool:
        """Whether a row that has ended would go beyond what the model can read."""
        return self._oldest >= self._length

    def drop(self) -> Tensor:
        """Leaves the rows alone that have not ended; their places among those before."""
        rest = self._unfinished.nonzero()[:, 0]
        self._active, self._count, self._unfinished = self._active[rest], self._count[rest], self._unfinished[rest]
        self._oldest = int(self._count.max()) if len(rest) else 0
        return rest

    def samples_by_image(self) -> list[list[Sample]]:
        """What each row has emitted; of a mixture, the answer of each sample."""
        n = self._length
        flat = _split(self._emitted[:, :n].tolist(), self._scores[:, :n].tolist(), self._codec.tokens.end)
        answers = flat if self._experts is None else self._experts.answers(flat)
        samples = len(answers) // max(len(self._examples), 1)
        return [answers[start : start + samples] for start in range(0, len(answers), samples)]


def _choose(logits: Tensor, temperatures: Tensor, noise: Tensor) -> Tensor:
    """Samples each row by inverse transform; takes the arg max where the temperature is 0. The sums are in float64,
    so that rounding changes a token only where its number lies on a border."""
    hot = temperatures > 0
    # In place and not normalised: these are the largest tensors of a step.
    weights = logits.double().div_(torch.where(hot, temperatures, 1.0)[:, None])
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    cumulative = torch.cumsum(weights, -1, out=weights)
    # The last cumulative sum may fall short of 1 by rounding: scale the number, never index past the end.
    target = noise.to(cumulative)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return torch.where(hot, drawn, logits.argmax(-1))


def _split(tokens: list[list[int]], scores: list[list[float]], end: int) -> list[Sample]:
    """Cuts every row after its first end token."""
    lengths = [row.index(end) + 1 if end in row else len(row) for row in tokens]
    return [Sample(tuple(row[:n]), tuple(score[:n])) for row, score, n in zip(tokens, scores, lengths, strict=True)]
