"""Scores of models that read images and prompts once are those of the straightforward way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from harness import registry
from harness.inference import tree_queries
from harness.inference.confidence import MentionScore, score
from harness.protocols import Adapter, EncodesImages, ReadsPrompts
from harness.sequence import JsonFormat
from harness.sequence.targets import members
from harness.types import Example, Parsed, Projection, TokenTrees
from model_zoo.vlm.families import FAMILIES
from tests.support import plain_scores, small


def emitted(adapter: Adapter, seed: int = 3) -> tuple[list[Example], list[tuple[int, ...]], list[tuple[float, ...]]]:
    """Different answers to some images, with a decoding grammar: a random model has something to say then. Where the
    format has no grammar, or the model ends at once, targets, whose log-probabilities are not known."""
    examples = list(small.benchmark().split("val")[:5])
    log_probs: dict[tuple[int, tuple[int, ...]], tuple[float, ...]] = {}
    if not isinstance(adapter.codec.form, JsonFormat):
        answers = adapter.generate(examples, [0.0, 1.0, 1.0], seed, 40, grammar=True)
        log_probs = {(i, s.tokens): s.log_probs for i, samples in enumerate(answers) for s in samples}
    if any(len(tokens) > 1 for _, tokens in log_probs):
        return [examples[i] for i, _ in log_probs], [tokens for _, tokens in log_probs], list(log_probs.values())
    targets = [tokens for example in examples for tokens in members(example, adapter.codec, "random", 0, 0, 2)]
    return [example for example in examples for _ in range(2)], targets, []


def _built(name: str, **settings: object) -> Adapter:
    torch.manual_seed(0)
    adapter = registry.model(name, small.benchmark().categories, settings)
    assert isinstance(adapter, Adapter)
    adapter.model.eval()
    return adapter


MODELS: dict[str, Callable[[], Adapter]] = {
    "open_flamingo": small.fitted_in_double,
    **{
        f"open_flamingo_hf {family}": partial(_built, "open_flamingo_hf", language=f"toy-{family}")
        for family in ("gpt_neox", "llama", "mpt", "opt")
    },
    "pix2seq": partial(_built, "pix2seq"),
    **{f"vlm {family}": partial(_built, "vlm", family=family) for family in FAMILIES},
}
TREES = [name for name in MODELS if not name.startswith("vlm")]


class Answers(NamedTuple):
    """What `emitted` gives, and the model that it comes from."""

    adapter: Adapter
    examples: list[Example]
    sequences: list[tuple[int, ...]]
    parsed: list[Parsed]
    log_probs: list[tuple[float, ...]]


@cache
def answers(name: str) -> Answers:
    adapter = MODELS[name]()
    examples, sequences, log_probs = emitted(adapter)
    parsed = [adapter.codec.decode(t, e.width, e.height) for t, e in zip(sequences, examples, strict=True)]
    return Answers(adapter, examples, sequences, parsed, log_probs)


@cache
def plain(name: str) -> list[list[MentionScore]]:
    """Scores in the straightforward way."""
    adapter, examples, sequences, parsed, _ = answers(name)
    return plain_scores.score(adapter, examples, sequences, parsed)


@pytest.mark.parametrize("positions", [64, 8192])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_straightforward_way(
    name: str, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_queries, "POSITIONS", positions)
    adapter, examples, sequences, parsed, log_probs = answers(name)
    expected = plain(name)
    for known_before in (None, log_probs or None):
        scores = score(adapter, examples, sequences, parsed, log_probs=known_before)
        assert [len(of_image) for of_image in scores] == [len(of_image.mentions) for of_image in parsed]
        for of_image, others in zip(scores, expected, strict=True):
            for a, b in zip(of_image, others, strict=True):
                # Float32: one sequence at a time, the straightforward way differs as much from itself.
                assert (a.name, a.category) == pytest.approx((b.name, b.category), rel=1e-4, abs=1e-11)
                assert (a.name, a.category) == pytest.approx((b.name, b.category), rel=0, abs=2e-6)
                assert a.locations == pytest.approx(b.locations, rel=1e-4, abs=1e-7)
    assert sum(len(of_image) for of_image in expected) > 1


@pytest.mark.parametrize("name", TREES)
def test_an_image_is_encoded_once_and_what_stands_before_names_is_read_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, examples, sequences, parsed, _ = answers(name)
    assert isinstance(adapter, EncodesImages)
    assert adapter.reads_trees
    images: list[int] = []
    read: list[TokenTrees] = []
    encode, own_read = adapter.encode, adapter.read

    def counted(pixels: Tensor) -> Tensor:
        images.append(len(pixels))
        return encode(pixels)

    def watched(encoded: Tensor, tokens: TokenTrees) -> Projection:
        read.append(tokens)
        return own_read(encoded, tokens)

    monkeypatch.setattr(adapter, "encode", counted)
    monkeypatch.setattr(adapter, "read", watched)
    score(adapter, examples, sequences, parsed)
    assert images == [len({example.image_id for example in examples})]
    (trees,) = read
    # At most the prompt and the sequence, and for each other name of a mention its tokens.
    names = adapter.codec.name_ids
    most = sum(len(adapter.codec.prompt(e)) + len(t) for e, t in zip(examples, sequences, strict=True)) + sum(
        len(names[other])
        for answer in parsed
        for mention in answer.mentions
        for other in adapter.codec.names_of[mention.category_id or 0]
    )
    assert int(trees.sees.diagonal(dim1=1, dim2=2).sum()) == trees.tokens.numel()
    assert int((trees.tokens != adapter.codec.tokens.pad).sum()) <= most


@pytest.mark.parametrize("family", FAMILIES)
def test_which_families_read_trees_after_a_prompt(family: str) -> None:
    adapter = answers(f"vlm {family}").adapter
    assert isinstance(adapter, ReadsPrompts)
    assert adapter.follows_trees == (family in ("paligemma", "qwen2_5_vl", "qwen3_vl"))


@pytest.mark.parametrize("family", ["paligemma", "florence2"])
def test_an_image_and_its_prompt_are_read_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of sequences about it; every row that follows is as long as what is said, and no longer."""
    adapter, examples, sequences, parsed, log_probs = answers(f"vlm {family}")
    assert isinstance(adapter, ReadsPrompts)
    read: list[int] = []
    followed: list[tuple[int, int]] = []
    read_prompts = adapter.read_prompts

    def watched(pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Any]:
        read.append(len(pixels))
        first, follow = read_prompts(pixels, prompts)

        def counted(images: Tensor, tokens: Tensor | TokenTrees) -> Tensor:
            plain = tokens.tokens if isinstance(tokens, TokenTrees) else tokens
            followed.append((len(plain), plain.shape[1]))
            return follow(images, tokens)

        return first, counted

    monkeypatch.setattr(adapter, "read_prompts", watched)
    score(adapter, examples, sequences, parsed, log_probs=log_probs or None)
    assert read == [len({example.image_id for example in examples})]
    longest = max(len(ids) for ids in adapter.codec.name_ids.values())
    if adapter.follows_trees:
        assert sum(rows for rows, _ in followed) <= len(sequences)
    else:
        assert max(length for _, length in followed) <= max(map(len, sequences)) + longest
