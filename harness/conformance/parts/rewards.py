"""Checks of a reward: answers about rendered pictures whose worth, or its change, is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from harness import registry
from harness.conformance.subject import SHAPES, require
from harness.metrics.samples.mentions import Floats
from harness.metrics.samples.reward import REWARDS, rewards
from harness.protocols import Benchmark
from harness.types import Box, Example, Mention, Parsed

SAMPLES = 6
Answers = list[list[Parsed]]


@dataclass(frozen=True)
class RewardSubject:
    """A reward's name, and the pictures that answers are about; the last one has nothing in it."""

    name: str
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @cached_property
    def benchmark(self) -> Benchmark:
        return registry.benchmark("shapes", SHAPES, None)

    @cached_property
    def names(self) -> dict[int, tuple[str, ...]]:
        return {category.id: category.names for category in self.benchmark.categories}

    @cached_property
    def examples(self) -> list[Example]:
        *full, last = self.benchmark.split("train")[:12]
        return [*full, replace(last, instances=())]

    def pay(self, answers: Answers, examples: Sequence[Example] | None = None) -> Floats:
        return rewards(self.name, self.examples if examples is None else examples, answers)

    def right(self, example: Example) -> Parsed:
        """Returns a complete answer: every object once, in a random order, by random names of its category."""
        objects = [example.instances[place] for place in self.rng.permutation(len(example.instances))]
        mentions = [Mention(str(self.rng.choice(self.names[o.category_id])), o.category_id, o.box) for o in objects]
        return Parsed(tuple(mentions), malformed=0, truncated=False)

    def mixed(self) -> Answers:
        """Returns answers of every quality: objects left out, moved, repeated, made up, unreadable, without an end."""
        return [[self._worsened(self.right(example)) for _ in range(SAMPLES)] for example in self.examples]

    def _worsened(self, answer: Parsed) -> Parsed:
        mentions = [mention for mention in answer.mentions if self.rng.random() < 0.7]
        moved = [replace(mention, box=_moved(mention.box, self.rng)) for mention in mentions]
        mentions = [old if self.rng.random() < 0.5 else new for old, new in zip(mentions, moved, strict=True)]
        mentions += [mention for mention in mentions if self.rng.random() < 0.2]
        mentions += [Mention("no such name", None, Box(0, 0, 9, 9))] * int(self.rng.integers(2))
        return Parsed(tuple(mentions), malformed=int(self.rng.integers(3)), truncated=bool(self.rng.integers(2)))


def _moved(box: Box, rng: np.random.Generator) -> Box:
    return replace(box, x=box.x + float(rng.uniform(-3, 3)), w=max(1.0, box.w * float(rng.uniform(0.7, 1.3))))


def described(subject: RewardSubject) -> None:
    """Equation and source are one line each, as `detmodes list rewards` shows them."""
    for key in ("equation", "source"):
        text = getattr(REWARDS[subject.name], key)
        require(
            isinstance(text, str) and bool(text.strip()) and "\n" not in text, f"{key}: expected a line, got {text!r}"
        )


def in_range(subject: RewardSubject) -> None:
    """One number in [0, 1] for each sample of each picture, whatever the answers are."""
    empty = [[Parsed((), 0, False), Parsed((), 3, True)] for _ in subject.examples]
    for answers in (subject.mixed(), empty):
        got = subject.pay(answers)
        expected = (len(answers), len(answers[0]))
        require(got.shape == expected, f"expected {list(expected)} numbers, got {list(got.shape)}")
        require(
            bool(((got >= 0) & (got <= 1)).all()), f"expected numbers in [0, 1], got {got.min():g} to {got.max():g}"
        )


def complete(subject: RewardSubject) -> None:
    """A complete answer is paid 1, in any order and by any names; where nothing is to be found, an empty one is."""
    got = subject.pay([[subject.right(example) for _ in range(SAMPLES)] for example in subject.examples])
    require(bool(np.allclose(got, 1, atol=1e-9)), f"expected 1 for complete answers, got down to {got.min():g}")


def tells(subject: RewardSubject) -> None:
    """An answer that leaves out everything, and one that is wrong about everything, are paid less than 1."""
    full = [example for example in subject.examples if example.instances]
    wrong = [
        replace(subject.right(example), mentions=(Mention("no such name", None, Box(0, 0, 2, 2)),)) for example in full
    ]
    for what, answers in (("empty", [[Parsed((), 0, False)]] * len(full)), ("wrong", [[answer] for answer in wrong])):
        got = subject.pay(answers, full)
        require(bool((got < 1).all()), f"expected less than 1 for {what} answers, got {got.max():g}")


def permutation(subject: RewardSubject) -> None:
    """The order in which an answer lists its objects changes nothing, to the last bit."""
    answers = [[replace(a, mentions=_apart(a.mentions)) for a in of_image] for of_image in subject.mixed()]
    turned = [[replace(a, mentions=a.mentions[::-1]) for a in of_image] for of_image in answers]
    _require_same("in the reverse order", subject.pay(turned), subject.pay(answers))


def _apart(mentions: Sequence[Mention]) -> tuple[Mention, ...]:
    """Leaves out what competes for an object, of which the first is matched: one mention of each category."""
    return tuple({mention.category_id: mention for mention in mentions}.values())


def synonyms(subject: RewardSubject) -> None:
    """The names of a category are worth the same."""
    answers = subject.mixed()

    def renamed(mention: Mention) -> Mention:
        return mention if mention.category_id is None else replace(mention, name=subject.names[mention.category_id][-1])

    others = [[replace(a, mentions=tuple(map(renamed, a.mentions))) for a in of_image] for of_image in answers]
    _require_same("by other names", subject.pay(others), subject.pay(answers))


def independent(subject: RewardSubject) -> None:
    """What a sample is paid depends on its picture and itself, not on other samples and pictures."""
    answers = subject.mixed()
    in_batch = subject.pay(answers)
    for place, example in enumerate(subject.examples):
        alone = subject.pay([[answers[place][1]]], [example])
        _require_same("alone", alone[0], in_batch[place, 1:2])


CHECKS: dict[str, Callable[[RewardSubject], None]] = {
    check.__name__: check for check in (described, in_range, complete, tells, permutation, synonyms, independent)
}


def _require_same(what: str, got: Floats, expected: Floats) -> None:
    apart = float(np.abs(got - expected).max())
    require(apart == 0, f"expected the same {what}, it differs by up to {apart:g}")
