"""Refilled batches: what is generated while rows end and others begin beside them is what is generated in batches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.evaluation.generation import generate, split_into_batches
from harness.inference import decoding
from harness.inference.precision import choose_numbers
from harness.protocols import DrawSettings, Refills
from harness.suite.schema import SampleSettings
from harness.types import Example, Sample
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.flamingo.toy import OpenFlamingo
from model_zoo.pix2seq import Pix2Seq
from tests.support import small

HEAT = (0.0, 1.0, 1.0)
IMAGES, AT_ONCE, TOKENS = 7, 2, 14
KINDS = ("tiny", "pix2seq", "toy-gpt_neox", "toy-llama", "toy-mpt", "toy-opt")


@cache
def adapter_of(kind: str) -> Any:
    """With random weights."""
    categories = small.benchmark().categories
    torch.manual_seed(0)
    if kind == "pix2seq":
        adapter: Any = Pix2Seq(categories, {"width": 32, "layers": 2})
    elif kind == "tiny":
        adapter = OpenFlamingo(categories, {"weights": "random"})
    else:
        adapter = OpenFlamingoHf(categories, {"language": kind})
    adapter.model.eval()
    return adapter


@pytest.fixture
def _ending(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Every token of every row ends it with probability 0.15, by the row's own random numbers."""
    choose, end = decoding._choose, adapter_of(kind).codec.tokens.end

    def choose_or_end(logits: Tensor, temperatures: Tensor, noise: Tensor) -> Tensor:
        return torch.where(noise < 0.15, end, choose(logits, temperatures, noise))

    monkeypatch.setattr(decoding, "_choose", choose_or_end)


def examples() -> tuple[Example, ...]:
    return small.train_examples(IMAGES)


def assert_same(actual: list[list[Sample]], expected: list[list[Sample]], tolerance: float = 1e-5) -> None:
    assert [[s.tokens for s in of_image] for of_image in actual] == [
        [s.tokens for s in of_image] for of_image in expected
    ]
    flat = [
        torch.tensor([p for of_image in answers for s in of_image for p in s.log_probs])
        for answers in (actual, expected)
    ]
    torch.testing.assert_close(*flat, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("_ending")
def test_refilled_answers_are_those_of_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_of(kind)
    refilling: object = adapter
    assert isinstance(refilling, Refills)
    assert refilling.refills
    plain = adapter.generate(examples(), HEAT, 3, TOKENS)
    lengths = {len(sample.tokens) for of_image in plain for sample in of_image}
    assert len(lengths) > 4  # some end early, some late
    joined = count_joining(monkeypatch)
    assert_same(adapter.generate_queue(examples(), HEAT, DrawSettings(3, TOKENS), AT_ONCE), plain)
    assert len(joined) > 1
    assert max(joined) > 0  # beside others that had come further


def count_joining(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on: how many rows there were each time that others joined them."""
    joined: list[int] = []
    enter = decoding._Rows.enter

    def counted(self: Any, images: int) -> Any:
        joined.append(self.width)
        return enter(self, images)

    monkeypatch.setattr(decoding._Rows, "enter", counted)
    return joined


def test_an_evaluation_in_bf16_refills_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU in float32 a row is the same to the bit in any batch, which it is not beside rows of other lengths."""
    settings, adapter = SampleSettings(samples=2, max_tokens=TOKENS, batch_images=2), adapter_of("tiny")
    assert [len(batch) for batch in split_into_batches(adapter, examples(), settings)] == [2, 2, 2, 1]
    asked: list[tuple[int, int]] = []
    queue = adapter.generate_queue

    def counted(batch: Any, temperatures: Any, drawn: DrawSettings, images: int) -> Any:
        asked.append((len(batch), images))
        return queue(batch, temperatures, drawn, images)

    monkeypatch.setattr(adapter, "generate_queue", counted)
    with choose_numbers(torch.device("cpu"), "bf16").autocast():
        answers = generate(adapter, examples(), 1.0, settings, 3)
        halves = split_into_batches(adapter, examples(), settings, processes=2)
    assert asked == [(IMAGES, 2)]
    assert [len(of_image) for of_image in answers] == [3] * IMAGES
    assert [len(half) for half in halves] == [4, 3]
    generate(adapter, examples()[:2], 1.0, settings, 3)
    assert len(asked) == 1


def test_queues_take_prompts_of_several_lengths() -> None:
    """Those of one length begin together; every row has come to another length than its neighbours anyway."""
    adapter = Pix2Seq(small.benchmark().categories, {"width": 32, "layers": 2})
    questions = examples()
    named = [
        replace(example, asked=tuple(c.id for c in small.benchmark().categories[: 1 + place % 3]))
        for place, example in enumerate(questions)
    ]
    adapter.codec = CodecOfQuestions(adapter.codec)  # type: ignore[assignment]
    plain = adapter.generate(named, HEAT, 3, TOKENS)
    assert_same(adapter.generate_queue(named, HEAT, DrawSettings(3, TOKENS), AT_ONCE), plain)


class CodecOfQuestions:
    """A codec whose prompt is as much longer as it asks about more."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def prompt(self, example: Example) -> tuple[int, ...]:
        return (*self._codec.tokens.prompt, *[self._codec.tokens.separator] * len(example.asked or ()))
