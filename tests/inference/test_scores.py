"""Scores against numbers derived by hand, and against an independent sum over a known distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from harness import registry
from harness.inference import tree_queries
from harness.inference.confidence import MentionScore, score
from harness.protocols import Adapter, EncodesImages, ReadsPrompts
from harness.sequence import Codec, CoordinateSpace, JsonFormat, TokenFormat, TokenizerTokens
from harness.sequence.targets import members
from harness.types import Box, Category, Example, Parsed, Projection, TokenTrees
from model_zoo.vlm.families import FAMILIES
from tests.support import plain_scores, small
from tests.support.tiny import TableAdapter, codec_of, example_of, pieces_of, random_tables, table

CODEC = codec_of(("sofa", "couch"), ("sofa_bed",), ("lamp", "desk_lamp"), ("mug", "cup"), bins=3)
TOKENS = pieces_of(CODEC)
L0, L1, L2 = TOKENS.locations
SOFA, BED, COUCH, DESK, LAMP, SECOND_LAMP = (TOKENS[p] for p in ("sofa", "_bed", "couch", "desk", "lamp", "_lamp"))
BOX = Box(0, 0, 4, 4)  # 3 bins on 8 pixels: locations 0 0 1 1


def transitions() -> Tensor:
    """P(next | current); every other row is uniform over the vocabulary."""
    begin = {SOFA: 0.4, COUCH: 0.2, LAMP: 0.1, DESK: 0.25, TOKENS.end: 0.05}
    again = {SOFA: 0.1, COUCH: 0.7, LAMP: 0.2}
    return table(
        TOKENS.size,
        {
            TOKENS.begin: begin,
            TOKENS.separator: again,
            SOFA: {L0: 0.3, L1: 0.3, BED: 0.25, TOKENS.end: 0.15},
            DESK: {SECOND_LAMP: 0.6, TOKENS.end: 0.4},
            COUCH: {L0: 0.5, SOFA: 0.5},
            L0: {L0: 0.5, L1: 0.5},
            L1: {L1: 0.2, TOKENS.separator: 0.8},
        },
    )


def adapter_of(tables: Tensor, codec: Codec = CODEC) -> TableAdapter:
    return TableAdapter(codec, tables)


def scored(adapter: Adapter, tokens: tuple[int, ...], example: Example | None = None) -> list[MentionScore]:
    example = example or example_of(0)
    parsed = adapter.codec.decode(tokens, example.width, example.height)
    return score(adapter, [example], [tokens], [parsed])[0]


def first_score(name: str) -> MentionScore:
    return scored(adapter_of(transitions()[None]), CODEC.encode([(name, BOX)], 8, 8))[0]


def test_the_stand_in_is_an_adapter() -> None:
    assert isinstance(adapter_of(transitions()[None]), Adapter)


def test_names_by_hand() -> None:
    # sofa is continued by sofa_bed, so its terminator counts: 0.4 * (0.3 + 0.3). Nothing continues the others:
    # couch 0.2; sofa_bed 0.4 * 0.25; lamp 0.1; desk_lamp 0.25 * 0.6.
    expected = {"sofa": 0.24, "couch": 0.2, "sofa_bed": 0.1, "lamp": 0.1, "desk_lamp": 0.15}
    for name, probability in expected.items():
        assert first_score(name).name == pytest.approx(probability, abs=1e-6)


def test_a_category_is_the_sum_over_its_names_whichever_was_emitted() -> None:
    for name, probability in {"sofa": 0.44, "couch": 0.44, "sofa_bed": 0.1, "lamp": 0.25, "desk_lamp": 0.25}.items():
        assert first_score(name).category == pytest.approx(probability, abs=1e-6)


def test_locations_by_hand() -> None:
    # sofa -> L0 0.3, L0 -> L0 0.5, L0 -> L1 0.5, L1 -> L1 0.2.
    assert first_score("sofa").locations == pytest.approx(0.3 * 0.5 * 0.5 * 0.2, abs=1e-7)


def test_a_later_mention_is_scored_in_its_place() -> None:
    tokens = CODEC.encode([("sofa", BOX), ("couch", BOX)], 8, 8)
    first, second = scored(adapter_of(transitions()[None]), tokens)
    assert first.category == pytest.approx(0.44, abs=1e-6)
    # After the separator: couch 0.7, sofa 0.1 * 0.6.
    assert second.name == pytest.approx(0.7, abs=1e-6)
    assert second.category == pytest.approx(0.76, abs=1e-6)
    assert second.locations == pytest.approx(0.5 * 0.5 * 0.5 * 0.2, abs=1e-7)


def test_an_unknown_name_has_no_category() -> None:
    # couch sofa is no name: 0.2 * 0.5, and sofa -> L0 is 0.3 as before.
    tokens = (COUCH, SOFA, L0, L0, L1, L1, TOKENS.end)
    (mention,) = scored(adapter_of(transitions()[None]), tokens)
    assert mention.category is None
    assert mention.name == pytest.approx(0.1, abs=1e-6)
    assert mention.locations == pytest.approx(0.3 * 0.5 * 0.5 * 0.2, abs=1e-7)


def test_sources() -> None:
    mention = MentionScore(name=0.5, category=0.75, locations=0.25)
    scored_as = {source: mention.of(source) for source in ("category", "name", "sequence", "constant")}
    assert scored_as == {"category": 0.75, "name": 0.5, "sequence": 0.125, "constant": 1.0}
    assert MentionScore(0.5, None, 0.25).of("category") == 0.5


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sofa_bed", 1),  # no other name
        ("mug", 1),  # the other is one token that nothing continues: read off the same distribution
        ("sofa", 1),  # likewise couch
        ("couch", 2),  # sofa is one token, but its terminator stands after it
        ("lamp", 2),  # desk_lamp has a second token
    ],
)
def test_other_names_have_rows_of_their_own_only_where_they_are_needed(name: str, rows: int) -> None:
    """In one forward pass, whatever is asked."""
    adapter = adapter_of(transitions()[None])
    scored(adapter, CODEC.encode([(name, BOX)], 8, 8))
    assert adapter.forwards == [rows]


@pytest.mark.parametrize(
    ("source", "name", "forwards"),
    [
        ("constant", "sofa", []),
        ("sequence", "couch", []),  # what generation knows is enough
        ("name", "couch", []),
        ("name", "sofa", [1]),  # but for what ends a name
        ("category", "sofa_bed", []),  # the only name of its category
        ("category", "mug", [1]),
    ],
)
def test_the_model_is_asked_no_more_than_the_source_needs(source: str, name: str, forwards: list[int]) -> None:
    adapter, example = adapter_of(transitions()[None]), example_of(0)
    tokens = CODEC.encode([(name, BOX)], 8, 8)
    parsed = CODEC.decode(tokens, 8, 8)
    raw = transitions().log()
    log_probs = [float(raw[a, b]) for a, b in pairwise((TOKENS.begin, *tokens))]
    ((mention,),) = score(adapter, [example], [tokens], [parsed], source, [log_probs])
    assert adapter.forwards == forwards
    ((expected,),) = plain_scores.score(adapter, [example], [tokens], [parsed])
    assert mention.of(source) == pytest.approx(expected.of(source), abs=1e-6)
    assert (mention.category is None) == (source != "category")


def test_a_truncated_sequence_is_scored_alike() -> None:
    tokens = CODEC.encode([("couch", BOX)], 8, 8)
    adapter = adapter_of(transitions()[None])
    assert scored(adapter, tokens[:-1]) == scored(adapter, tokens)


def test_nothing_to_score() -> None:
    assert scored(adapter_of(transitions()[None]), (TOKENS.end,)) == []


# ---- other formats -----------------------------------------------------------------------------------------------

BOX_FIRST = Codec(CODEC.categories, TOKENS, CODEC.space, TokenFormat(TOKENS, name_first=False))


def box_first() -> Tensor:
    """P(next | current) of a model that says where before it says what."""
    return table(
        TOKENS.size,
        {
            TOKENS.begin: {L0: 0.9, TOKENS.end: 0.1},
            TOKENS.separator: {L0: 0.6, TOKENS.end: 0.4},
            L0: {L0: 0.5, L1: 0.5},
            L1: {L1: 0.2, SOFA: 0.3, COUCH: 0.4, LAMP: 0.1},
            SOFA: {BED: 0.25, TOKENS.separator: 0.3, TOKENS.end: 0.35, L0: 0.1},
        },
    )


def test_a_name_after_its_box_is_ended_by_a_separator_or_the_end() -> None:
    # L1 -> sofa 0.3, then a separator or the end 0.3 + 0.35, as sofa_bed continues it; couch 0.4 is continued by none.
    # The box: begin -> L0 0.9, L0 -> L0 0.5, L0 -> L1 0.5, L1 -> L1 0.2; after a separator 0.6 to begin with.
    tokens = BOX_FIRST.encode([("sofa", BOX), ("couch", BOX), ("sofa_bed", BOX)], 8, 8)
    sofa, couch, bed = scored(adapter_of(box_first()[None], BOX_FIRST), tokens)
    assert (sofa.name, sofa.category) == pytest.approx((0.3 * 0.65, 0.3 * 0.65 + 0.4), abs=1e-6)
    assert (couch.name, couch.category) == pytest.approx((0.4, 0.3 * 0.65 + 0.4), abs=1e-6)
    assert (bed.name, bed.category) == pytest.approx((0.3 * 0.25, 0.3 * 0.25), abs=1e-6)
    assert sofa.locations == pytest.approx(0.9 * 0.5 * 0.5 * 0.2, abs=1e-7)
    assert bed.locations == couch.locations == pytest.approx(0.6 * 0.5 * 0.5 * 0.2, abs=1e-7)


@pytest.mark.parametrize("name", ["sofa", "couch", "sofa_bed"])
def test_a_name_at_the_very_end_of_a_truncated_sequence_is_scored_alike(name: str) -> None:
    tokens = BOX_FIRST.encode([(name, BOX)], 8, 8)
    adapter = adapter_of(box_first()[None], BOX_FIRST)
    assert scored(adapter, tokens[:-1]) == scored(adapter, tokens)


def test_json_by_an_independent_product() -> None:
    """Byte by byte: a name is the product of its letters and, where another name continues it, of the quote."""
    tokens = TokenizerTokens(ByT5Tokenizer(extra_ids=0), prompt="<pad>", before="")
    categories = [Category(1, ("sofa", "couch"), None), Category(2, ("sofa_bed",), None)]
    codec = Codec(categories, tokens, CoordinateSpace(1001, "xyxy"), JsonFormat(tokens))
    tables = random_tables(1, tokens.size, seed=3)

    def product(text: str) -> float:
        ids = tokens.encode_text(text)
        return math.prod(float(tables[0, a, b]) for a, b in pairwise(ids))

    sequence = codec.encode([("couch", Box(0, 0, 4, 4)), ("sofa", Box(0, 0, 4, 4))], 8, 8)
    couch, sofa = scored(adapter_of(tables, codec), sequence)
    both = product('"couch') + product('"sofa"')  # each given the quote before it
    assert (couch.name, couch.category) == pytest.approx((product('"couch'), both), rel=1e-4)
    assert (sofa.name, sofa.category) == pytest.approx((product('"sofa"'), both), rel=1e-4)
    assert sofa.locations == pytest.approx(product("[0, 0, 500, 500"), rel=1e-4)


# ---- an independent sum over a random distribution ---------------------------------------------------------------


def probability(table_: Tensor, before: int, name: str) -> float:
    """P(name | the token before it), with its terminator where another name continues it; float64."""
    ids, total = CODEC.name_ids[name], 1.0
    for current, following in zip((before, *ids), ids, strict=False):
        total *= float(table_[current, following])
    if any(other != name and other.startswith(f"{name}_") for other in CODEC.category_of):
        total *= float(table_[ids[-1], list(TOKENS.locations)].sum())
    return total


@pytest.mark.parametrize("seed", range(5))
def test_random_distributions(seed: int) -> None:
    tables = random_tables(3, TOKENS.size, seed, spread=2.0)
    for image_id in range(3):
        of_category = {}
        for name, category in CODEC.category_of.items():
            tokens = CODEC.encode([("mug", BOX), (name, BOX)], 8, 8)
            mention = scored(adapter_of(tables), tokens, example_of(image_id))[1]
            here = {n: probability(tables[image_id], TOKENS.separator, n) for n in CODEC.names_of[category]}
            assert mention.name == pytest.approx(here[name], rel=1e-4)
            assert mention.category == pytest.approx(sum(here.values()), rel=1e-4)
            of_category[category] = sum(here.values())
        assert sum(of_category.values()) <= 1.0 + 1e-6


def test_names_of_a_certain_model_sum_to_one() -> None:
    # All mass on names, and after `sofa` on locations or _bed: nothing is lost or counted twice.
    rows = {
        TOKENS.begin: {SOFA: 0.5, LAMP: 0.2, DESK: 0.3},
        SOFA: {L0: 0.25, L1: 0.25, BED: 0.5},
        DESK: {SECOND_LAMP: 1.0},
    }
    adapter = adapter_of(table(TOKENS.size, rows)[None])
    categories = [
        scored(adapter, CODEC.encode([(name, BOX)], 8, 8))[0].category for name in ("couch", "sofa_bed", "lamp")
    ]
    assert categories == pytest.approx([0.25, 0.25, 0.5], abs=1e-6)


def test_images_and_lengths_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images of five kinds with answers of different length, three images at a time, score as one by one."""
    monkeypatch.setattr(tree_queries, "IMAGES", 3)
    adapter = adapter_of(random_tables(5, TOKENS.size, seed=9))
    examples = [example_of(image_id) for image_id in range(7)]
    names = ["couch", "lamp", "cup"]  # the first two need forward passes of their own
    sequences = [CODEC.encode([(names[k % 3], BOX) for k in range(image_id % 4)], 8, 8) for image_id in range(7)]
    parsed: list[Parsed] = [CODEC.decode(tokens, 8, 8) for tokens in sequences]
    joint = score(adapter, examples, sequences, parsed)
    for of_image, example, tokens in zip(joint, examples, sequences, strict=True):
        alone = scored(adapter, tokens, example)
        assert len(of_image) == len(alone) == example.image_id % 4
        for a, b in zip(of_image, alone, strict=True):
            assert (a.name, a.category, a.locations) == pytest.approx((b.name, b.category, b.locations), rel=1e-5)


def test_scoring_puts_the_model_into_eval_mode() -> None:
    adapter = adapter_of(transitions()[None])
    adapter.model.train()
    scored(adapter, (TOKENS.end,))
    assert not adapter.model.training
    assert not torch.is_inference_mode_enabled()


# ---- against the straightforward way, over models that read trees and models that read rows --------------------------


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
    "open_flamingo": small.fitted,
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
