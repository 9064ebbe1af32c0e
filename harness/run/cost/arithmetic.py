"""What passes through a network costs: FLOP, bytes moved, operations asked for. Pure.

A multiplication and an addition are 2 FLOP. Of a matrix with n numbers a position costs 2 n forward, 2 n for its
gradient if something that trains stands before it or in it, and 2 n for the matrix's own if it trains; attention of one
position to k others costs 4 k w a layer (scores, and the sum of values) forward and twice that backward.

Shape legend: L tokens of a row   V vocabulary   D width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.inference.outline import NetworkPart, NetworkShape

TRAFFIC, TRAFFIC_OF_OTHERS = 24, 6
"""Numbers that a layer reads and writes, beside its matrices, for each of a position's `width`: normalisations,
residual sums, the activation of four times the width. A convolution has an input, an output, a
normalisation and an activation of its own width."""
OPERATIONS = {4: 5.0, 2: 7.0}
"""Small operations for each module that tokens pass (itself, sums, rotations, caches, the casts of autocast), by the
bytes of a number: counted by torch's dispatcher in decoding steps of OpenFlamingo, Qwen and PaliGemma, views left out.
Image encoders take 0.6 of them."""
ENCODER = 0.6
HEAD_OPERATIONS = 30.0
"""Of choosing a token, or of a chunk of the loss."""
TREE_OPERATIONS, ANSWER_OPERATIONS = 0.4, 22.0
"""Of each position that is read to score, and of each answer: these are parsed, and trees made, in Python."""
CHOICE_BYTES = 90
"""Moved for each logit that a token is drawn from: softmax and cumulative sum in float64, log-softmax in float32."""
STATE_BYTES = 28
"""Moved for each number that trains when AdamW updates it: weight, gradient and two moments read, three of them
written, in float32."""


@dataclass(frozen=True, slots=True)
class Cost:
    """flops; moved: bytes of tensors that are made anew; operations: asked for one after the other; streamed: bytes of
    tensors that stay, read or changed in place (weights, moments, keys and values)."""

    flops: float = 0.0
    moved: float = 0.0
    operations: float = 0.0
    streamed: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self.amounts, other.amounts, strict=True)))

    def __mul__(self, times: float) -> Cost:
        return Cost(*(amount * times for amount in self.amounts))

    @property
    def amounts(self) -> tuple[float, float, float, float]:
        """In the order of the fields."""
        return self.flops, self.moved, self.operations, self.streamed


@dataclass(frozen=True, slots=True)
class Passed:
    """What goes through a network, in `passes` forward passes: images, rows of tokens, their positions (padding
    included), pairs of positions (the sum of L^2 over the rows), and outputs: positions that logits are made of."""

    images: float
    rows: float
    positions: float
    pairs: float
    outputs: float
    passes: float = 1.0

    def scaled(self, positions: float) -> Passed:
        """A pass of so many positions that is like these."""
        share = positions / self.positions
        return Passed(self.images * share, self.rows * share, positions, self.pairs * share, self.outputs * share)

    def read_again(self, times: int) -> Passed:
        """The same images, whose rows are read so many times."""
        rows, positions, pairs = (times * number for number in (self.rows, self.positions, self.pairs))
        return Passed(self.images, rows, positions, pairs, times * self.outputs, times * self.passes)

    def of_part(self, part: NetworkPart) -> float:
        """Positions that pass a part."""
        return part.positions * {"image": self.images, "row": self.rows, "token": self.positions}[part.per]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What is generated together. steps: tokens of the longest row. row_steps: of all rows that are still computed,
    summed over the steps; cached: positions in their caches, summed likewise. prompt: tokens of each row's. begins:
    passes in which prompts are read; encodings: and images encoded."""

    images: float
    rows: float
    prompt: float
    steps: float
    row_steps: float
    cached: float
    begins: float = 1
    encodings: float = 1


def forward(shape: NetworkShape, passed: Passed, number: int) -> Cost:
    """A forward pass. number: bytes of a number that is computed with."""
    parts = [_forward(part, passed, number) for part in shape.parts]
    head = Cost(
        2 * shape.head * passed.outputs,
        number * shape.vocabulary * passed.outputs,
        HEAD_OPERATIONS * passed.passes,
        number * shape.head * passed.passes,
    )
    return sum(parts, start=head)


def _forward(part: NetworkPart, passed: Passed, number: int) -> Cost:
    positions = passed.of_part(part)
    pairs = passed.pairs if part.keys is None else positions * part.keys
    traffic = TRAFFIC_OF_OTHERS if part.per == "image" and not part.layers else TRAFFIC
    return Cost(
        2 * part.matrices * positions + 4 * part.layers * part.width * pairs,
        number * traffic * part.breadth * positions,
        operations(part, number) * passed.passes,
        number * part.matrices * passed.passes,
    )


def operations(part: NetworkPart, number: int) -> float:
    """Small operations of a pass through a part."""
    return OPERATIONS[number] * part.calls * (1.0 if part.per == "token" else ENCODER)


def training(shape: NetworkShape, passed: Passed, number: int, *, recomputed: bool, chunk: int) -> Cost:
    """Forward and backward passes. recomputed: layers are computed again in the backward pass
    (`train.gradient_checkpointing`). chunk: outputs whose logits are multiplied out at once."""
    total = forward(shape, passed, number)
    for part, reached in gradients(shape):
        once = _forward(part, passed, number)
        weights = 2 * part.trained * passed.of_part(part)
        if reached:
            attention = once.flops - 2 * part.matrices * passed.of_part(part)
            again = once if recomputed else Cost()
            total += (
                Cost(once.flops + attention + weights, 2 * once.moved, 2 * once.operations, 2 * once.streamed) + again
            )
    # The loss keeps no logits: each chunk's gradient is computed with it, that of the output embedding added up.
    chunks = passed.passes * max(1.0, passed.outputs / max(passed.passes, 1) / chunk)
    added = Cost(4 * shape.head * passed.outputs, 0, HEAD_OPERATIONS * chunks, 12 * shape.head * chunks)
    return total + added


def scoring(shape: NetworkShape, passed: Passed, number: int) -> Cost:
    """Reading trees of answers and their alternatives."""
    return forward(shape, passed, number) + Cost(
        operations=TREE_OPERATIONS * passed.positions + ANSWER_OPERATIONS * passed.rows
    )


def gradients(shape: NetworkShape) -> Iterator[tuple[NetworkPart, bool]]:
    """Each part, and whether gradients pass through it: something that trains is in it or stands before it."""
    before = False
    for part in shape.parts:
        before = before or part.trained > 0 or (part.per == "token" and shape.learns_tokens)
        yield part, before


def update(trained: float, calls: float) -> Cost:
    """AdamW and clipping, for so many numbers that train. calls: modules that they are in."""
    return Cost(12 * trained, 0, 4 * calls, (STATE_BYTES + 8) * trained)


def decoding(shape: NetworkShape, decoded: Decoded, number: int) -> Cost:
    """Generation with a cache: images are encoded once, prompts read, then one token after the other."""
    prompts = decoded.images if shape.shares_prompt else decoded.rows
    begin = Passed(
        images=decoded.images,
        rows=decoded.images,  # the keys of an image serve all its rows
        positions=prompts * decoded.prompt,
        pairs=prompts * decoded.prompt**2,
        outputs=prompts * decoded.prompt,
        passes=decoded.begins,
    )
    of_images = sum(operations(part, number) for part in shape.parts if part.per == "image")
    total = forward(shape, begin, number) + Cost(operations=of_images * (decoded.encodings - decoded.begins))
    one_token = Passed(0, 0, decoded.row_steps, decoded.cached, decoded.row_steps, decoded.steps)
    for part in shape.of_tokens():
        caches = part.layers * part.cached * decoded.cached
        # A cache that grows is copied for every token: read and written, and then read. Keys that stay are read.
        read = 2 * part.layers * part.width * (part.keys or 0) * decoded.row_steps
        total += _forward(part, one_token, number) + Cost(moved=2 * number * caches, streamed=number * (caches + read))
    head = Cost(
        2 * shape.head * decoded.row_steps,
        CHOICE_BYTES * shape.vocabulary * decoded.row_steps,
        HEAD_OPERATIONS * decoded.steps,
        number * shape.head * decoded.steps,
    )
    return total + head
