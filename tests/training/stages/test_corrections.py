"""What corrections teach is right, in every vocabulary; and other packages can bring their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError
from harness.metrics.diagnosis.codebook import KINDS, sample_errors
from harness.protocols import Correction, Targets
from harness.sequence import (
    Codec,
    CoordinateSpace,
    JsonFormat,
    NameVocabulary,
    TokenFormat,
    TokenizerTokens,
    vocabulary_names,
)
from harness.sequence.targets import target
from harness.training.stages.corrections import TEMPLATES, Templates
from harness.types import Box, Example, Instance, Parsed
from tests.metrics.builders import BOXES, CATEGORIES, OBJECTS, XYWH, example
from tests.sequence.formats.families import FAMILIES
from tests.support.tiny import PieceTokens

NAMES = vocabulary_names(CATEGORIES)  # sofa, couch; bed; cup, mug, glass
SPACE = CoordinateSpace(65)
"""A bin for each pixel edge of the 64 x 64 images."""
CODEC = Codec(CATEGORIES, NameVocabulary(NAMES, SPACE.bins), SPACE)
PIECES = Codec(CATEGORIES, PieceTokens(NAMES, SPACE.bins, split=lambda name: [name[:2], name[2:]]), SPACE)
"""Two tokens a name."""
A, B, FAR, POOR = (0, 0, 10, 10), (30, 0, 10, 10), (50, 50, 10, 10), (0, 0, 10, 4)
IMAGE = example([(5, A), (7, B)], negative=[8])
SEPARATOR, END = CODEC.tokens.separator, CODEC.tokens.end


def encoded(*objects: tuple[str, XYWH], codec: Codec = CODEC) -> tuple[int, ...]:
    """Tokens with the end."""
    return codec.encode([(name, Box(*xywh)) for name, xywh in objects], 64, 64)


def unknown(xywh: XYWH) -> tuple[int, ...]:
    """The tokens of "sofa bed" with a box: two names in one, which no category has."""
    return (*CODEC.name_ids["sofa"], *encoded(("bed", xywh))[:-1])


def corrections(
    image: Example, tokens: tuple[int, ...], seed: int = 0, targets: Targets = "canonical", codec: Codec = CODEC
) -> list[Correction]:
    parsed = codec.decode(tokens, 64, 64)
    ((errors,),) = sample_errors([image], [[parsed]])
    return list(Templates(codec, targets)(image, parsed, errors, np.random.default_rng(seed)))


def every(image: Example, tokens: tuple[int, ...], kind: str) -> dict[str, Correction]:
    """What each template of a kind makes of a sample, by its question; all of them are drawn."""
    drawn = [c for seed in range(40) for c in corrections(image, tokens, seed) if c.kind == kind]
    return {c.question: c for c in drawn}


def forms(image: Example, tokens: tuple[int, ...], kind: str) -> set[tuple[str, str]]:
    """Their contexts and answers as text."""
    return {(CODEC.text(c.context), CODEC.text(c.answer)) for c in every(image, tokens, kind).values()}


SOFA = "sofa <loc0> <loc0> <loc10> <loc10>"
BED = "bed <loc0> <loc30> <loc10> <loc40>"
EVERYTHING = ("", f"{SOFA} ; {BED} <end>")


# ---- by hand -----------------------------------------------------------------------------------------------------


def test_there_are_several_templates_for_every_kind_of_error() -> None:
    assert set(TEMPLATES) == set(KINDS)
    assert min(len({(t.question, t.reply) for t in templates}) for templates in TEMPLATES.values()) >= 3


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("classification", encoded(("bed", A))[:-1]),
        ("localisation", encoded(("couch", POOR))[:-1]),
        ("wrong_name", unknown(A)),
    ],
)
def test_the_right_object_in_place_of_the_wrong_one(kind: str, wrong: tuple[int, ...]) -> None:
    first = (*wrong, SEPARATOR, *encoded(("bed", B)))  # the error, then what is right
    assert forms(IMAGE, first, kind) == {("", SOFA), EVERYTHING}
    last = (*encoded(("bed", B))[:-1], SEPARATOR, *wrong, END)
    assert forms(IMAGE, last, kind) == {(BED, f"; {SOFA}"), (BED, f"; {SOFA} <end>")}


@pytest.mark.parametrize(
    ("kind", "wrong"), [("duplicate", ("couch", A)), ("background", ("cup", FAR)), ("both", ("cup", POOR))]
)
def test_what_should_not_be_there_gives_way_to_what_is_left_or_the_end(kind: str, wrong: tuple[str, XYWH]) -> None:
    early, late = encoded(("sofa", A), wrong, ("bed", B)), encoded(("sofa", A), ("bed", B), wrong)
    assert forms(IMAGE, early, kind) == {(SOFA, f"; {BED} <end>")}
    assert forms(IMAGE, late, kind) == {(f"{SOFA} ; {BED}", "<end>")}
    more = example([(5, A), (7, B), (7, (0, 50, 10, 10))], negative=[8])
    third = "bed <loc50> <loc0> <loc60> <loc10>"
    assert forms(more, early, kind) == {(SOFA, f"; {BED}"), (SOFA, f"; {BED} ; {third} <end>")}


def test_missed_objects_follow_what_was_said() -> None:
    assert forms(IMAGE, encoded(("sofa", A)), "missed") == {(SOFA, f"; {BED} <end>"), EVERYTHING}
    assert forms(IMAGE, encoded(), "missed") == {EVERYTHING}
    # An object that was said wrongly is not said again.
    poor = "couch <loc0> <loc0> <loc4> <loc10>"
    assert forms(IMAGE, encoded(("couch", POOR)), "missed") == {(poor, f"; {BED} <end>"), EVERYTHING}


def test_a_miscounted_category_in_its_right_number() -> None:
    image = example([(5, A), (5, FAR), (7, B)], negative=[8])
    both = f"{SOFA} ; sofa <loc50> <loc50> <loc60> <loc60>"
    everything = ("", f"{SOFA} ; {BED} ; sofa <loc50> <loc50> <loc60> <loc60> <end>")  # reading order
    assert forms(image, encoded(("bed", B), ("couch", A)), "miscount") == {(BED, f"; {both}"), everything}
    # Never said: what was said goes on.
    assert forms(IMAGE, encoded(("sofa", A)), "miscount") == {(SOFA, f"; {BED}"), EVERYTHING}
    # Not there at all: what is left instead.
    assert forms(IMAGE, encoded(("sofa", A), ("bed", B), ("cup", FAR)), "miscount") == {
        (f"{SOFA} ; {BED}", "<end>"),
        EVERYTHING,
    }


def test_what_cannot_be_read_and_what_does_not_end() -> None:
    garbled = (*encoded(("sofa", A))[:-1], SEPARATOR, 7, 7, SEPARATOR, *encoded(("bed", B)))
    assert forms(IMAGE, garbled, "malformed") == {EVERYTHING, (SOFA, f"; {BED} <end>")}
    late = (*encoded(("sofa", A), ("bed", B))[:-1], SEPARATOR, 7, 7, END)
    assert forms(IMAGE, late, "malformed") == {EVERYTHING, (f"{SOFA} ; {BED}", "<end>")}
    assert forms(IMAGE, (7, 7, SEPARATOR, *encoded(("sofa", A))), "malformed") == {EVERYTHING}
    assert forms(IMAGE, encoded(("sofa", A))[:-1], "truncated") == {EVERYTHING, (SOFA, f"; {BED} <end>")}
    assert forms(IMAGE, encoded(("sofa", A), ("bed", B))[:-1], "truncated") == {
        EVERYTHING,
        (f"{SOFA} ; {BED}", "<end>"),
    }


def test_a_context_stops_before_a_name_whose_tokens_are_not_known() -> None:
    tokens = (*encoded(("sofa", A))[:-1], SEPARATOR, *unknown(FAR), SEPARATOR, *encoded(("cup", FAR)))
    assert {context for context, _ in forms(IMAGE, tokens, "missed")} == {SOFA, ""}


def test_in_words() -> None:
    corrections = every(IMAGE, encoded(("bed", A), ("bed", B), codec=CODEC), "classification")
    bed = "bed <loc0> <loc0> <loc10> <loc10>"
    assert {question: c.reply for question, c in corrections.items()} == {
        "What is the object at <loc0> <loc0> <loc10> <loc10>?": f"{SOFA}.",
        f"Is there {bed}?": f"No, it is {SOFA}.",
        f"You said: {bed} ; {BED}. Is the category of {bed} right?": f"No, it should be {SOFA}.",
    }
    corrections = every(IMAGE, encoded(("sofa", A)), "missed")
    assert {question: c.reply for question, c in corrections.items()} == {
        f"You said: {SOFA}. What is missing?": f"{BED}.",
        f"Is this everything: {SOFA}?": f"No, there is also {BED}.",
        "What is in the image?": f"{SOFA} ; {BED}.",
    }
    corrections = every(IMAGE, encoded(("sofa", A), ("sofa", A), ("bed", B)), "miscount")
    assert {question: c.reply for question, c in corrections.items()} == {
        "How many objects of the category sofa are there?": "1.",
        "You named 2 of the category sofa. Which are there?": f"{SOFA}.",
        "You named 2 of the category sofa. What is in the image?": f"{SOFA} ; {BED}.",
    }


# ---- random samples ------------------------------------------------------------------------------------------------

ENTRIES = st.one_of(
    st.tuples(st.sampled_from(NAMES), BOXES).map(lambda item: encoded(item)[:-1]),
    BOXES.map(unknown),
    st.just((7, 7)),  # two locations: malformed
)
EMITTED = st.tuples(st.lists(ENTRIES, max_size=4), st.booleans())


def tokens_of(entries: list[tuple[int, ...]], ended: bool) -> tuple[int, ...]:
    joined = [token for entry in entries for token in (SEPARATOR, *entry)][1:]
    return (*joined, END) if ended else tuple(joined)


@settings(max_examples=120)
@given(OBJECTS, EMITTED, st.integers(0, 99), st.sampled_from(["canonical", "random"]))
def test_what_an_answer_says_is_right_and_makes_nothing_twice(
    objects: list[tuple[int, XYWH]], emitted: tuple[list[tuple[int, ...]], bool], seed: int, targets: Targets
) -> None:
    image = example(objects, negative=[8])
    tokens = tokens_of(*emitted)
    rejected = CODEC.decode(tokens, 64, 64)
    ((errors,),) = sample_errors([image], [[rejected]])
    made = corrections(image, tokens, seed, targets)
    shared = ("missed", "malformed")  # one correction for all of them
    counts = Counter(errors.kinds)
    assert Counter(c.kind for c in made) == {kind: 1 if kind in shared else n for kind, n in counts.items()}
    for correction in made:
        before = CODEC.decode((*correction.context, END), 64, 64)
        whole = CODEC.decode((*correction.context, *correction.answer), 64, 64)
        assert whole.malformed == before.malformed == 0
        assert [(m.name, m.box) for m in before.mentions] == [
            (m.name, m.box) for m in rejected.mentions[: len(before.mentions)]
        ]
        answered = whole.mentions[len(before.mentions) :]
        assert len(whole.mentions) > len(before.mentions) or correction.answer == (END,)
        dealt_with = {item.instance for item in errors.mentions[: len(before.mentions)]}
        left = Counter((o.category_id, o.box) for i, o in enumerate(image.instances) if i not in dealt_with)
        right = Counter((item.category_id, item.box) for item in answered)
        assert right <= left if whole.truncated else right == left
        ((sample,),) = sample_errors([image], [[whole]])
        assert [item.kind for item in sample.mentions[len(before.mentions) :]] == [None] * len(answered)


@settings(max_examples=60)
@given(OBJECTS, EMITTED, st.integers(0, 99))
def test_order_and_names_are_those_of_the_targets(
    objects: list[tuple[int, XYWH]], emitted: tuple[list[tuple[int, ...]], bool], seed: int
) -> None:
    image = example(objects, negative=[8])
    canonical = CODEC.decode(target(image, CODEC, "canonical"), 64, 64).mentions
    order = [(m.name, m.box) for m in canonical]
    for correction in corrections(image, tokens_of(*emitted), seed):
        answer = correction.answer[1:] if correction.answer[0] == SEPARATOR else correction.answer
        places = [(m.name, m.box) for m in CODEC.decode(answer, 64, 64).mentions]
        rest = iter(order)
        assert all(place in rest for place in places)  # a subsequence


def test_random_targets_use_every_name_and_order() -> None:
    drawn = {
        c.answer for seed in range(60) for c in corrections(IMAGE, encoded(), seed, "random") if c.kind == "missed"
    }
    assert drawn == {encoded((name, A), ("bed", B)) for name in ("sofa", "couch")} | {
        encoded(("bed", B), (name, A)) for name in ("sofa", "couch")
    }


@settings(max_examples=30)
@given(OBJECTS, EMITTED, st.integers(0, 99))
def test_they_depend_on_the_seed_alone(
    objects: list[tuple[int, XYWH]], emitted: tuple[list[tuple[int, ...]], bool], seed: int
) -> None:
    image, tokens = example(objects), tokens_of(*emitted)
    assert corrections(image, tokens, seed, "random") == corrections(image, tokens, seed, "random")


def test_a_right_answer_needs_none() -> None:
    assert corrections(IMAGE, encoded(("bed", B), ("couch", A))) == []


def test_names_of_several_tokens() -> None:
    tokens = encoded(("couch", A), codec=PIECES)
    for seed in range(10):
        (missed, miscount) = corrections(IMAGE, tokens, seed, codec=PIECES)
        assert miscount.kind == "miscount"
        if missed.context:
            assert missed.context == tokens[:-1]
            assert PIECES.text(missed.answer) == f"; {BED} <end>"


# ---- other formats -------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 640, 480
GRID = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 3), st.integers(1, 3))
PLACES = GRID.map(lambda cell: Box(80 * cell[0], 60 * cell[1], 80.0 * cell[2], 60.0 * cell[3]))
"""Edges on a grid that every space has, far enough apart to be told from each other."""
SCENES = st.lists(st.tuples(st.sampled_from([1, 2, 3]), PLACES), max_size=3, unique_by=lambda item: item[1])
SAID = st.lists(st.tuples(st.sampled_from(["sofa", "couch", "sofa_bed", "cat's_eye"]), PLACES), max_size=3)


def scene(objects: Sequence[tuple[int, Box]]) -> Example:
    instances = tuple(Instance(index, category, box) for index, (category, box) in enumerate(objects))
    return Example(1, Path("image.png"), WIDTH, HEIGHT, instances, frozenset({1, 2, 3} - {c for c, _ in objects}))


def corrected(codec: Codec, image: Example, tokens: Sequence[int], seed: int, targets: Targets) -> list[Correction]:
    parsed = codec.decode(tokens, WIDTH, HEIGHT)
    ((errors,),) = sample_errors([image], [[parsed]])
    return Templates(codec, targets)(image, parsed, errors, np.random.default_rng(seed))


def read(codec: Codec, tokens: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The names and numbers of a beginning of an answer, closed as far as it needs to be."""
    form = codec.form
    assert isinstance(form, TokenFormat | JsonFormat)
    ends = [()] if codec.tokens.end in tokens else [(*form.closing[n:], codec.tokens.end) for n in range(4)]
    readings = [codec.decode((*tokens, *end), WIDTH, HEIGHT) for end in ends]
    whole = next(parsed for parsed in readings if not parsed.malformed)
    assert not whole.truncated
    return [(mention.name, codec.space.quantise(mention.box, WIDTH, HEIGHT)) for mention in whole.mentions]


def restored(codec: Codec, numbers: Sequence[int]) -> Box:
    box = codec.space.restore(numbers, WIDTH, HEIGHT)
    assert box is not None
    return box


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(SCENES, SAID, st.integers(0, 99), st.integers(0, 99), st.sampled_from(["canonical", "random"]))
def test_answers_are_right_in_every_format(
    family: str, objects: list[tuple[int, Box]], emitted: list[tuple[str, Box]], lost: int, seed: int, targets: Targets
) -> None:
    """Whatever was said, with or without a token lost: context and answer together are a list as the codec writes it,
    of what was said first and then of objects that are there, each of them once."""
    codec, image = FAMILIES[family](), scene(objects)
    tokens = list(codec.encode(emitted, WIDTH, HEIGHT))
    del tokens[lost : lost + 1]
    rejected = codec.decode(tokens, WIDTH, HEIGHT)
    ((errors,),) = sample_errors([image], [[rejected]])
    order = read(codec, target(image, codec, "canonical"))
    for made in corrected(codec, image, tokens, seed, targets):
        before, whole = read(codec, made.context), read(codec, (*made.context, *made.answer))
        heard = [(m.name, codec.space.quantise(m.box, WIDTH, HEIGHT)) for m in rejected.mentions]
        assert before == heard[: len(before)] == whole[: len(before)]
        written = codec.encode([(name, restored(codec, numbers)) for name, numbers in whole], WIDTH, HEIGHT)
        assert written[: len(made.context) + len(made.answer)] == (*made.context, *made.answer)
        answered = whole[len(before) :]
        dealt_with = {item.instance for item in errors.mentions[: len(before)]}
        left = Counter(
            (item.category_id, codec.space.quantise(item.box, WIDTH, HEIGHT))
            for index, item in enumerate(image.instances)
            if index not in dealt_with
        )
        right = Counter((codec.category_of[name], numbers) for name, numbers in answered)
        assert right == left if codec.tokens.end in made.answer else right <= left
        if targets == "canonical":
            rest = iter(order)
            assert all(item in rest for item in answered)


SOFA_BED, EYE = Box(64, 48, 320, 240), Box(0, 0, 640, 480)
IN_WORDS = {
    "paligemma": "<loc102> <loc102> <loc614> <loc614>",
    "florence": "<loc100> <loc100> <loc599> <loc599>",
    "kosmos": "<loc99> <loc627>",
    "qwen": "64, 48, 386, 286",
    "qwen3": "100, 100, 600, 600",
}
CONTEXTS = {
    "paligemma": ("<loc0102><loc0102><loc0614><loc0614> sofa bed", " ; <loc0000><loc0000><loc1023><loc1023> cat's eye"),
    "florence": ("sofa bed<loc_100><loc_100><loc_599><loc_599>", "cat's eye<loc_0><loc_0><loc_999><loc_999>"),
    "kosmos": (
        "<phrase> sofa bed</phrase><object><patch_index_0099><patch_index_0627></object>",
        "<phrase> cat's eye</phrase><object><patch_index_0000><patch_index_1023></object>",
    ),
    "qwen": (
        '[{"bbox_2d": [64, 48, 386, 286], "label": "sofa bed"}',
        ', {"bbox_2d": [0, 0, 644, 476], "label": "cat\'s eye"}]',
    ),
    "qwen3": (
        '[{"bbox_2d": [100, 100, 600, 600], "label": "sofa bed"}',
        ', {"bbox_2d": [0, 0, 1000, 1000], "label": "cat\'s eye"}]',
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_by_hand_in_every_format(family: str) -> None:
    """A sofa bed was named and an eye was not. A tokenizer may join the mark that closes an object with what follows
    it: then the context ends before that mark, and the answer begins with it."""
    codec, image = FAMILIES[family](), scene([(2, SOFA_BED), (3, EYE)])
    said_ = codec.encode([("sofa_bed", SOFA_BED)], WIDTH, HEIGHT)
    drawn = [made for seed in range(20) for made in corrected(codec, image, said_, seed, "canonical")]
    (missed,) = {(m.context, m.answer, m.question, m.reply) for m in drawn if m.question.startswith("Is this")}
    context, answer, question, reply = missed
    assert isinstance(codec.tokens, TokenizerTokens)
    begun, going_on = CONTEXTS[family]
    assert answer[-1] == codec.tokens.end
    assert codec.tokens.decode_text((*context, *answer[:-1])) == begun + going_on
    assert begun.startswith(codec.tokens.decode_text(context))
    assert len(begun) - len(codec.tokens.decode_text(context)) <= len('"}')
    assert question == f"Is this everything: sofa_bed {IN_WORDS[family]}?"
    assert reply.startswith("No, there is also cat's_eye ")


# ---- a corrector of one's own --------------------------------------------------------------------------------------

PLUGIN = """
from harness.training.stages.corrections import Correction


def make(codec, targets):
    def corrector(example, parsed, errors, rng):
        question = f"What of {', '.join(errors.kinds)} can you put right?"
        answer = codec.encode([(codec.names_of[i.category_id][0], i.box) for i in example.instances], 64, 64)
        return [Correction(errors.kinds[0], (), answer, question, targets)]

    return corrector
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's, as an installer leaves it."""
    (tmp_path / "my_corrector.py").write_text(PLUGIN)
    metadata = tmp_path / "my_corrector-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-corrector\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[detmodes.correctors]\nmine = my_corrector:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_another_package_can_bring_its_own() -> None:
    corrector = registry.corrector("mine", CODEC, "random")
    parsed = CODEC.decode(encoded(("bed", A)), 64, 64)
    ((errors,),) = sample_errors([IMAGE], [[parsed]])
    (made,) = corrector(IMAGE, parsed, errors, np.random.default_rng(0))
    assert made.question.startswith("What of classification, missed, miscount")
    assert (made.kind, CODEC.text(made.answer), made.reply) == ("classification", EVERYTHING[1], "random")


def test_the_shipped_one_and_names_that_nobody_has() -> None:
    assert isinstance(registry.corrector("templates", CODEC, "canonical"), Templates)
    assert registry.names("corrector")["templates"] == "harness.training.stages.corrections:Templates"
    with pytest.raises(ConfigError, match=r"unknown corrector 'template', did you mean 'templates'\?"):
        registry.corrector("template", CODEC, "canonical")


def test_an_empty_sample_of_an_empty_image() -> None:
    ((errors,),) = sample_errors([example([])], [[Parsed((), 0, False)]])
    assert Templates(CODEC, "canonical")(example([]), Parsed((), 0, False), errors, np.random.default_rng(0)) == []
