"""What corrections teach is right, by hand and for random samples; and other packages can bring their own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError
from harness.metrics.diagnosis.codebook import KINDS, sample_errors
from harness.protocols import Targets
from harness.sequence.targets import target
from harness.training.stages.corrections import TEMPLATES, Templates
from harness.types import Parsed
from tests.metrics.builders import BOXES, OBJECTS, XYWH, example
from tests.training.stages.nsft.sequences import (
    BED,
    CODEC,
    END,
    EVERYTHING,
    FAR,
    IMAGE,
    NAMES,
    PIECES,
    POOR,
    SEPARATOR,
    SOFA,
    A,
    B,
    corrections,
    encoded,
    every,
    forms,
    unknown,
)

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


# ---- a corrector of one's own --------------------------------------------------------------------------------------


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
