"""Scores against numbers derived by hand, and against an independent sum over a known distribution."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from harness.inference import tree_queries
from harness.inference.confidence import MentionScore, score
from harness.protocols import Adapter
from harness.sequence import Codec, CoordinateSpace, JsonFormat, TokenFormat, TokenizerTokens
from harness.types import Box, Category, Example, Parsed
from tests.support import plain_scores
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
