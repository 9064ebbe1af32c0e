"""Sampling: the right distribution, reproducible per image, and raw log-probabilities whatever shapes the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.inference.decoding import _choose, uniforms
from harness.sequence import Codec
from harness.types import Sample
from tests.support.tiny import TableAdapter, codec_of, example_of, pieces_of, random_tables, table

CODEC = codec_of(("sofa", "couch"), ("sofa_bed",), bins=4)
TOKENS = pieces_of(CODEC)
HEAT = (0.0, 1.0, 1.0, 0.5)


def fluent_tables(count: int, seed: int, end: float = 0.08) -> Tensor:
    """Random tables whose rows end the sequence with this probability, so that lengths vary."""
    tables = random_tables(count, TOKENS.size, seed, spread=1.5)
    tables[..., TOKENS.end] = 0.0
    tables *= (1 - end) / tables.sum(-1, keepdim=True)
    tables[..., TOKENS.end] = end
    return tables


def adapter_of(seed: int = 0, shrink: bool = True, codec: Codec = CODEC) -> TableAdapter:
    return TableAdapter(codec, fluent_tables(5, seed), shrink)


def assert_same(a: list[Sample], b: list[Sample]) -> None:
    assert [sample.tokens for sample in a] == [sample.tokens for sample in b]
    for one, other in zip(a, b, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-6)


# ---- what an image gets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grammar", [False, True])
def test_an_image_gets_the_same_alone_in_any_batch_and_in_any_order(grammar: bool) -> None:
    adapter, examples = adapter_of(), [example_of(image_id) for image_id in (3, 14, 15, 92, 65, 35, 8)]
    joint = adapter.generate(examples, HEAT, seed=1, max_tokens=20, grammar=grammar)
    backwards = adapter.generate(examples[::-1], HEAT, seed=1, max_tokens=20, grammar=grammar)[::-1]
    for index, example in enumerate(examples):
        alone = adapter.generate([example], HEAT, seed=1, max_tokens=20, grammar=grammar)[0]
        assert_same(alone, joint[index])
        assert_same(alone, backwards[index])


@pytest.mark.parametrize("grammar", [False, True])
def test_dropping_finished_rows_changes_nothing(grammar: bool) -> None:
    examples = [example_of(image_id) for image_id in range(20)]
    shrinking, whole = adapter_of(), adapter_of(shrink=False)
    shrunk = shrinking.generate(examples, HEAT, seed=2, max_tokens=20, grammar=grammar)
    for of_image, same in zip(shrunk, whole.generate(examples, HEAT, 2, 20, grammar), strict=True):
        assert_same(of_image, same)
    assert len(shrinking.shrinks) > 1
    assert shrinking.shrinks == sorted(shrinking.shrinks, reverse=True)
    assert whole.shrinks == []


def test_seed_image_and_sample_each_make_a_stream_of_their_own() -> None:
    first, second = example_of(1), example_of(2)
    numbers = uniforms([first, second], samples=2, length=3, seed=5)
    assert numbers.shape == (4, 3)
    assert numbers.dtype == torch.float64
    assert len(set(numbers.flatten().tolist())) == 12
    assert ((numbers >= 0) & (numbers < 1)).all()
    torch.testing.assert_close(uniforms([second], 2, 3, seed=5), numbers[2:], rtol=0, atol=0)
    torch.testing.assert_close(uniforms([second], 1, 2, seed=5), numbers[2:3, :2], rtol=0, atol=0)
    assert not torch.equal(uniforms([first, second], 2, 3, seed=6), numbers)


def test_a_sample_does_not_depend_on_how_many_are_drawn() -> None:
    few = adapter_of().generate([example_of(4)], [0.0, 1.0], seed=3, max_tokens=20)[0]
    many = adapter_of().generate([example_of(4)], [0.0, *[1.0] * 6], seed=3, max_tokens=20)[0]
    assert_same(few, many[:2])
    assert len({sample.tokens for sample in many[1:]}) > 1


# ---- the distribution ------------------------------------------------------------------------------------------


def test_greedy_follows_the_arg_max() -> None:
    adapter = TableAdapter(CODEC, random_tables(5, TOKENS.size, seed=4, spread=2.0))
    for image_id in range(5):
        (greedy,) = adapter.generate([example_of(image_id)], [0.0], seed=0, max_tokens=12)[0]
        expected: list[int] = []
        current = TOKENS.begin
        while len(expected) < 12 and current != TOKENS.end:
            current = int(adapter.model[0][image_id, current].argmax())
            expected.append(current)
        assert list(greedy.tokens) == expected


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_choose_is_the_inverse_of_the_cumulative_distribution(temperature: float) -> None:
    # Numbers at the middles of N equal strata: each token is drawn N * p times, up to one at each of its two ends.
    n, logits = 10_000, torch.tensor([0.3, -1.0, 2.0, 0.0, -torch.inf, 1.0])
    noise = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = _choose(logits.expand(n, -1), torch.full((n,), temperature), noise)
    expected = n * (logits.double() / temperature).softmax(-1)
    assert (drawn.bincount(minlength=6) - expected).abs().max() <= 1.0
    assert drawn.bincount(minlength=6)[4] == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_softmax(temperature: float) -> None:
    """From seeds to tokens: Pearson's chi-square over 4,000 images, which exceeds 27.9 once in 1,000 for 9 degrees."""
    logits = torch.linspace(-1.0, 1.5, 10)
    examples = [example_of(image_id) for image_id in range(4000)]
    noise = uniforms(examples, samples=1, length=1, seed=0)[:, 0]
    drawn = _choose(logits.expand(4000, -1), torch.full((4000,), temperature), noise).bincount(minlength=10)
    expected = 4000 * (logits.double() / temperature).softmax(-1)
    assert float(((drawn - expected) ** 2 / expected).sum()) < 27.9


def test_rows_have_temperatures_of_their_own() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.9]]).expand(3, -1)
    drawn = _choose(logits, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.999, 0.999, 0.0], dtype=torch.float64))
    assert drawn.tolist() == [1, 2, 0]


def test_extreme_numbers_never_choose_what_has_no_probability() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)
    noise = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert _choose(logits, torch.ones(2), noise).tolist() == [1, 2]


# ---- log-probabilities and ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grammar", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 3.0])
def test_log_probabilities_are_those_of_the_raw_model(temperature: float, grammar: bool) -> None:
    adapter = adapter_of(seed=6)
    examples = [example_of(image_id) for image_id in range(6)]
    answers = adapter.generate(examples, [temperature] * 3, seed=7, max_tokens=15, grammar=grammar)
    for example, of_image in zip(examples, answers, strict=True):
        raw = adapter.model[0][example.image_id % 5]  # log-probabilities already
        for sample in of_image:
            before = (TOKENS.begin, *sample.tokens[:-1])
            expected = [float(raw[a, b]) for a, b in zip(before, sample.tokens, strict=True)]
            assert sample.log_probs == pytest.approx(expected, abs=1e-5)


def test_nothing_follows_the_end() -> None:
    answers = adapter_of().generate([example_of(i) for i in range(30)], [1.0, 1.0], seed=0, max_tokens=40)
    samples = [sample for of_image in answers for sample in of_image]
    assert len({len(sample.tokens) for sample in samples}) > 3
    for sample in samples:
        assert len(sample.log_probs) == len(sample.tokens)
        assert TOKENS.end not in sample.tokens[:-1]
        assert sample.tokens[-1] == TOKENS.end or len(sample.tokens) == 40


def test_a_model_that_never_ends_is_cut_at_the_limit() -> None:
    couch = TOKENS["couch"]
    adapter = TableAdapter(CODEC, table(TOKENS.size, {TOKENS.begin: {couch: 1.0}, couch: {couch: 1.0}})[None])
    (sample,) = adapter.generate([example_of(0)], [1.0], seed=0, max_tokens=5)[0]
    assert sample.tokens == (couch,) * 5
    assert sample.log_probs == (0.0,) * 5


def test_an_empty_answer_is_the_end_alone() -> None:
    adapter = TableAdapter(CODEC, table(TOKENS.size, {TOKENS.begin: {TOKENS.end: 1.0}})[None])
    answers = adapter.generate([example_of(0), example_of(1)], [0.0, 1.0], seed=0, max_tokens=5)
    assert answers == [[Sample((TOKENS.end,), (0.0,))] * 2] * 2


# ---- grammar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [3, 7, 60])
def test_with_the_grammar_every_answer_can_be_read(max_tokens: int) -> None:
    """From a model that emits rubbish without it."""
    adapter, examples = adapter_of(seed=8), [example_of(image_id) for image_id in range(40)]
    read = {}
    for grammar in (False, True):
        answers = adapter.generate(examples, HEAT, 9, max_tokens, grammar)
        read[grammar] = [CODEC.decode(sample.tokens, 8, 8) for of_image in answers for sample in of_image]
    assert any(parsed.malformed for parsed in read[False])
    assert not any(parsed.malformed for parsed in read[True])
    mentions = [mention for parsed in read[True] for mention in parsed.mentions]
    assert {mention.name for mention in mentions} == (set(CODEC.category_of) if max_tokens >= 7 else set())
    assert any(parsed.truncated for parsed in read[True]) == (max_tokens < 60)
    assert any(not parsed.truncated for parsed in read[True])
