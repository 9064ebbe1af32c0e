"""How much a suite asks for, from its own targets: lengths in tokens of what is trained on, answered and scored. Pure.

In: examples of a split and a codec. Out: numbers for harness.run.cost.arithmetic. Where a split is large, a fixed
sample of its images speaks for all. Nothing is known yet of what a model will answer: its answers are taken to be as
long as the targets that it is trained on, cut off at `sample.max_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.generation import QUEUE
from harness.inference.decoding import LOOK_EVERY, SHRINK_BELOW
from harness.inference.tree_queries import PAIRS, POSITIONS
from harness.run.cost.arithmetic import Decoded, Passed
from harness.sequence import Codec
from harness.sequence.targets import fewer_objects, members
from harness.suite.schema import SampleSettings
from harness.suite.train_settings import Train
from harness.types import Example

SAMPLE = 2000
"""Images that speak for a split."""
Lengths = NDArray[np.int64]


def sampled(examples: Sequence[Example], number: int = SAMPLE) -> Sequence[Example]:
    """So many of them, in their order: the same each time."""
    if len(examples) <= number:
        return examples
    places = np.sort(np.random.default_rng(0).permutation(len(examples))[:number])
    return [examples[place] for place in places]


@dataclass(frozen=True, slots=True)
class Texts:
    """Of images: tokens of the prompt, of one target of each, and of the answers that are scored.

    asked   positions of the tree by which an answer is scored (0: nothing is asked about it), prompt included
    outputs positions of it that logits are made of
    """

    prompt: Lengths
    target: Lengths
    asked: Lengths
    outputs: Lengths


def texts_of(
    examples: Sequence[Example], codec: Codec, plan: Train, score: str = "constant", trees: bool = True
) -> Texts:
    """score: what mentions are scored by. trees: whether a model reads the names of a category as one tree."""
    rows = []
    for example in examples:
        limit = plan.max_objects
        shown = example if limit is None else fewer_objects(example, limit.number, limit.drop, 0, 0)
        tokens = members(shown, codec, plan.targets, 0, 0, 1)[0]
        prompt = len(codec.prompt(example))
        rows.append((prompt, len(tokens), *_asked(codec, shown, tokens, prompt, score, trees)))
    return Texts(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def _asked(
    codec: Codec, example: Example, tokens: Sequence[int], prompt: int, score: str, trees: bool
) -> tuple[int, int]:
    """Positions and outputs of what is asked to score this answer (see harness.inference.confidence)."""
    if score == "constant" or not codec.boxed:
        return 0, 0
    mentions = codec.decode(tokens, example.width, example.height).mentions
    ended = [item for item in mentions if item.name in codec.prefix_names]
    outputs, branches, last = len(ended), [0], max((item.name_end for item in ended), default=0)
    for item in mentions if score == "category" else ():
        names = () if item.category_id is None else codec.names_of[item.category_id]
        others = [len(codec.name_ids[name]) for name in names if name != item.name]
        branches += [length - 1 for length in others]
        outputs += sum(others)
        last = max(last, 0 if item.category_id is None else item.name_start)
    if not outputs:
        return 0, 0
    trunk = prompt + last
    return (trunk + sum(branches) if trees else trunk * len(branches)), outputs


def trained_on(texts: Texts, plan: Train, draws: int, seed: int = 0) -> tuple[Passed, int]:
    """What passes the network in one step, and the positions of the largest micro-batch: from batches drawn from these
    rows, padded as they are in training."""
    rng = np.random.default_rng(seed)
    lengths = texts.prompt + texts.target - 1
    positions = pairs = outputs = passes = largest = 0
    for _ in range(draws):
        batch = rng.integers(len(lengths), size=plan.batch_size)
        outputs += int(texts.target[batch].sum())
        for part in _micro_batches(lengths[batch], plan):
            longest = int(part.max())
            positions += len(part) * longest
            pairs += len(part) * longest**2
            largest = max(largest, len(part) * longest)
            passes += 1
    step = Passed(
        images=plan.batch_size / plan.set_size,
        rows=plan.batch_size,
        positions=positions / draws,
        pairs=pairs / draws,
        outputs=outputs / draws,
        passes=passes / draws,
    )
    return step, largest


def _micro_batches(lengths: Lengths, plan: Train) -> list[Lengths]:
    if plan.micro_tokens is None:
        size = plan.micro_batch or plan.batch_size
        return [lengths[start : start + size] for start in range(0, len(lengths), size)]
    parts: list[Lengths] = []
    ordered, start = np.sort(lengths), 0
    for stop in range(1, len(ordered) + 1):
        if stop == len(ordered) or ordered[stop] * (stop + 1 - start) > plan.micro_tokens:
            parts.append(ordered[start:stop])
            start = stop
    return parts


def cut(texts: Texts, sample: SampleSettings) -> Lengths:
    """Tokens of an answer to each image."""
    return np.minimum(texts.target, sample.max_tokens)


def answered(texts: Texts, sample: SampleSettings, *, on_gpu: bool, refilled: bool) -> list[Decoded]:
    """What is generated batch by batch: for each image the greedy answer and K samples, all as long as its target.

    on_gpu: images are encoded together there, and the host looks now and then which rows have ended. refilled: rows of
    the next images take the places of those that have ended (harness.evaluation.generation).
    """
    lengths = cut(texts, sample)
    size = sample.batch_images * (QUEUE if refilled else 1)
    return [
        decoded(
            lengths[start : start + size],
            int(texts.prompt[start]),
            1 + sample.samples,
            at_once=sample.batch_images,
            look_every=LOOK_EVERY if on_gpu else 1,
            one_by_one=not on_gpu,
        )
        for start in range(0, len(lengths), size)
    ]


def decoded(
    lengths: Lengths, prompt: int, rows: int, *, at_once: int, look_every: int = 1, one_by_one: bool = False
) -> Decoded:
    """What generating `rows` answers of each of these lengths takes, as harness.inference.decoding goes about it.

    at_once: images whose rows are decoded together; the others follow as soon as there is room for all their rows.
    look_every: tokens between two looks at which rows have ended. one_by_one: each image is encoded in its own pass.
    """
    entered = min(at_once, len(lengths))
    left = np.repeat(lengths[:entered], rows)  # tokens that each row has still to give
    given = np.zeros_like(left)
    steps = row_steps = cached = 0
    begins = 1
    while len(left):
        steps, row_steps = steps + 1, row_steps + len(left)
        cached += len(left) * (prompt + int(given.max()))  # shorter caches are padded
        left, given = left - 1, given + 1
        if steps % look_every and (left > 0).any():
            continue
        going, waiting = int((left > 0).sum()), len(lengths) - entered
        if going >= SHRINK_BELOW * len(left):
            continue
        left, given = left[left > 0], given[left > 0]
        room = min(waiting, at_once - -(-going // rows))
        if room:
            left = np.concatenate([left, np.repeat(lengths[entered : entered + room], rows)])
            given = np.concatenate([given, np.zeros(room * rows, dtype=given.dtype)])
            entered, begins = entered + room, begins + 1
    images = len(lengths)
    encodings = images if one_by_one else begins
    return Decoded(images, images * rows, prompt, steps, row_steps, cached, begins, encodings)


def scored(texts: Texts, images: int, rows: int, at_once: int) -> Passed:
    """What passes the network to score `rows` answers of each of so many images, `together` images at a time: trees of
    a size go together, so that little is padded."""
    asked = texts.asked[texts.asked > 0]
    if not len(asked):
        return Passed(0, 0, 0, 0, 0, 0)
    share = len(asked) / len(texts.asked)
    answers, square = images * rows * share, float((asked**2).mean())
    positions, pairs = answers * float(asked.mean()), answers * square
    at_least = images / at_once  # each batch has its own
    passes = max(at_least, positions / POSITIONS, pairs / PAIRS)
    return Passed(
        images * share, answers, positions, pairs, answers * float(texts.outputs[texts.asked > 0].mean()), passes
    )


def forced(texts: Texts, chunk: int) -> Passed:
    """What passes the network where targets are read without a gradient, `chunk` rows at a time."""
    lengths = texts.prompt + texts.target - 1
    parts = [lengths[start : start + chunk] for start in range(0, len(lengths), chunk)]
    padded = [(len(part), int(part.max())) for part in parts]
    positions = sum(rows * longest for rows, longest in padded)
    return Passed(
        len(lengths), len(lengths), positions, sum(rows * longest**2 for rows, longest in padded), positions, len(parts)
    )
