"""The codebook as a language model applies it: what it is told, what is taken from its answer, how it agrees."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.diagnosis.codebook import KINDS, sample_errors
from harness.metrics.diagnosis.judged_errors import (
    INSTRUCTION,
    agreement,
    describe_answer,
    exact_errors,
    read_errors,
)
from harness.types import Box, Mention, Parsed
from tests.metrics.builders import CATEGORIES, example

NAMES = {category.id: category.names for category in CATEGORIES}
ERROR: dict[str, Any] = {
    "kind": "classification",
    "mention": 2,
    "object": 1,
    "question": "Is it a bed?",
    "reply": "No, a sofa.",
    "objects": [{"name": "sofa", "box": [0, 0, 10, 10]}],
    "ends": False,
}


def text_of(*errors: Any) -> str:
    return "Here:\n```json\n" + json.dumps({"errors": errors}) + "\n```"


def test_the_instruction_has_every_kind_of_error() -> None:
    assert all(f"\n{kind} " in INSTRUCTION for kind in KINDS)


def test_what_is_told() -> None:
    image = example([(5, (0, 0, 10, 10))], not_exhaustive=[7])
    parsed = Parsed((Mention("bed", 7, Box(1, 2, 3, 4)),), 2, True)
    assert describe_answer(image, parsed, NAMES).splitlines() == [
        "Image: 64 x 64 pixels.",
        "True objects:",
        f"1. {' / '.join(NAMES[5])} [0, 0, 10, 10]",
        f"Not all objects are annotated of: {NAMES[7][0]}. More of them are no errors.",
        "Mentions:",
        "1. bed [1, 2, 3, 4]",
        "Entries that could not be read: 2.",
        "The answer has no end.",
    ]
    assert "True objects: none." in describe_answer(example([]), Parsed((), 0, False), NAMES)


def test_an_answer_is_read_by_number_from_1() -> None:
    (error,), refused = read_errors(text_of(ERROR), 2, 1)
    assert (error.kind, error.mention, error.object, error.ends, refused) == ("classification", 1, 0, False, 0)
    assert error.objects == (("sofa", Box(0, 0, 10, 10)),)
    assert error.compared == ("classification", 1)
    (missed,), _ = read_errors(text_of({**ERROR, "kind": "missed", "mention": None}), 2, 1)
    assert missed.compared == ("missed", 0)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "wrong"},
        {"kind": []},
        {"mention": 3},
        {"mention": 0},
        {"mention": None},
        {"mention": True},
        {"mention": "2"},
        {"kind": "missed"},  # which is about no mention
        {"kind": "missed", "mention": None, "object": None},
        {"question": ""},
        {"reply": 3},
        {"reply": "x" * 2001},
        {"objects": {}},
        {"objects": [{"name": "sofa"}]},
        {"objects": [{"name": 5, "box": [0, 0, 10, 10]}]},
        {"objects": [{"name": "sofa", "box": [0, 0, 10]}]},
        {"objects": [{"name": "sofa", "box": [0, 0, 10, "10"]}]},
        {"objects": [{"name": "sofa", "box": [0, 0, 10, math.inf]}]},
        {"objects": [{"name": "sofa", "box": [0, 0, 1, 1]}] * 201},
        {"ends": None},
    ],
)
def test_what_has_not_the_form_is_left_out_and_counted(change: dict[str, Any]) -> None:
    errors, refused = read_errors(text_of({**ERROR, **change}, ERROR), 2, 1)
    assert ([error.mention for error in errors], refused) == ([1], 1)


@pytest.mark.parametrize(
    "text", ["", "no errors", "{", '{"errors": 3}', '{"mistakes": []}', "[" * 10**5, '{"errors": [1]}']
)
def test_what_cannot_be_read_is_no_error_of_anybody(text: str) -> None:
    assert read_errors(text, 2, 1) == ([], 1)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    read_errors(text, 2, 1)
    read_errors('{"errors": [' + text + "]}", 2, 1)


# ---- agreement -----------------------------------------------------------------------------------------------------


def test_exact_errors_of_an_answer() -> None:
    """A bed where the sofa is, nothing on the bed (missed), one unreadable entry; both counts are right but for sofas,
    of which there are none, and a bed too few elsewhere is one too many here: 1 bed said, 1 there."""
    image = example([(5, (0, 0, 10, 10)), (7, (30, 0, 10, 10))])
    parsed = Parsed((Mention("bed", 7, Box(0, 0, 10, 10)),), 1, False)
    ((errors,),) = sample_errors([image], [[parsed]])
    assert exact_errors(errors) == {("classification", 0), ("missed", 1), ("miscount", None), ("malformed", None)}


def test_agreement_by_hand() -> None:
    """Two answers. Duplicates: of mentions 1 and 2, judged of 2 and 3: one of two in both directions. Missed: judged
    only. No end: there, and not judged."""
    lines = agreement(
        [
            ({("duplicate", 1), ("duplicate", 2)}, {("duplicate", 2), ("duplicate", 3), ("missed", 0)}),
            ({("truncated", None)}, set()),
        ]
    )
    by_kind = {line.kind: (line.exact, line.judged, line.both) for line in lines}
    assert tuple(by_kind) == KINDS
    assert by_kind["duplicate"] == (2, 2, 1)
    assert by_kind["missed"] == (0, 1, 0)
    assert by_kind["truncated"] == (1, 0, 0)
    duplicate, missed, truncated = (
        next(line for line in lines if line.kind == kind) for kind in ("duplicate", "missed", "truncated")
    )
    assert (duplicate.precision, duplicate.recall) == (0.5, 0.5)
    assert missed.precision == 0
    assert math.isnan(missed.recall)
    assert math.isnan(truncated.precision)
    assert truncated.recall == 0
