"""Experts of a mixture: their tokens, and which of them a sample comes from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from harness.errors import ConfigError
from harness.sequence.experts import ExpertRows, asked_of, expert_tokens
from harness.types import Sample
from tests.support.tiny import codec_of, example_of


def test_tokens_stand_in_the_middle_of_equal_parts_of_the_locations() -> None:
    locations = tuple(range(5, 70))
    assert expert_tokens(locations, 3) == (15, 37, 59)  # 5 + 65/6, 5 + 65/2, 5 + 65 * 5/6, rounded down
    assert expert_tokens(locations, 1) == ()
    assert expert_tokens((7, 8), 2) == (7, 8)
    with pytest.raises(ConfigError, match="experts: expected at most the model's 2 locations, got 3"):
        expert_tokens((7, 8), 3)


def test_the_token_ends_the_prompt() -> None:
    codec, example = codec_of(("sofa", "couch"), bins=4), example_of(1)
    assert codec.prompt(replace(example, expert=1)) == codec.prompt(example)  # no mixture
    codec.experts = (5, 7)
    prompts = [codec.prompt(replace(example, expert=expert)) for expert in (None, 0, 1)]
    assert prompts == [(*codec.tokens.prompt, token) for token in (5, 5, 7)]


def test_greedy_asks_every_expert_and_a_sample_one() -> None:
    rows = ExpertRows.of(3, [example_of(1), example_of(2)], [0.0, 1.0, 0.5], seed=4)
    assert rows.sample == [0, 0, 0, 1, 2, 3, 3, 3, 4, 5]
    assert rows.expert[:3] == rows.expert[5:8] == [0, 1, 2]


def test_samples_come_from_every_expert_equally_often() -> None:
    rows = ExpertRows.of(3, [example_of(image_id) for image_id in range(150)], [1.0] * 6, seed=0)
    counts = Counter(rows.expert)  # 900 draws: 300 of each, standard deviation 14
    assert all(abs(counts[expert] - 300) < 60 for expert in range(3))
    at_once = [len(set(rows.expert[start : start + 6])) for start in range(0, 900, 6)]
    assert max(at_once) == 3  # nor the same one for all samples of an image


def test_an_expert_depends_on_seed_image_and_sample_alone() -> None:
    def drawn(seed: int, images: list[int], asked: tuple[int, ...] | None = None) -> list[int]:
        return ExpertRows.of(5, [replace(example_of(i), asked=asked) for i in images], [1.0] * 9, seed).expert

    assert drawn(0, [3]) == drawn(0, [8, 3])[9:] == drawn(0, [3], asked=(1,))
    assert len({tuple(drawn(*key)) for key in ((0, [3]), (1, [3]), (0, [4]))}) == 3


def test_the_likeliest_row_of_a_sample_answers() -> None:
    rows = ExpertRows(sample=[0, 0, 0, 1], expert=[0, 1, 2, 1])
    emitted = [Sample((1, 2), (-1.0, -1.5)), Sample((3,), (-0.5,)), Sample((4,), (-0.5,)), Sample((5,), (-9.0,))]
    assert rows.answers(emitted) == [Sample((3,), (-0.5,), 1), Sample((5,), (-9.0,), 1)]  # the first of equals


def test_an_answer_is_asked_about_with_its_expert() -> None:
    example = example_of(1)
    assert asked_of(example, Sample((), ())) is example
    assert asked_of(example, Sample((), (), 2)) == replace(example, expert=2)
