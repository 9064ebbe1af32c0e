"""The error codebook as a language model applies it: what it is told, what it answers, and how far it agrees.

The paper of nSFT lets a language model find the errors (its G) and does not check it. Here every error is known exactly
(harness.metrics.diagnosis.codebook), so that the two can be compared. Pure: nobody is asked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics.diagnosis.codebook import KINDS, MENTION_KINDS, Kind, SampleErrors
from harness.types import Box, Example, Parsed

LONGEST = 2000
"""Characters that a question or a reply may have."""
MOST_OBJECTS = 200

INSTRUCTION = """\
You check the answers of an object detector. You are given the true objects of an image and the mentions of an answer,
both numbered, with boxes as x, y, width, height in pixels. List every error of the answer, by this codebook:

classification  a mention with IoU of at least 0.5 with a true object of another category
localisation    a mention with IoU between 0.1 and 0.5 with a true object of its category
wrong_name      as classification, but no category has the name
duplicate       a mention with IoU of at least 0.5 with a true object of its category that another mention has taken
background      a mention with IoU of at most 0.1 with any true object
both            any other wrong mention
missed          a true object that no mention is about
miscount        a category that is mentioned more or less often than the image has it
malformed       the answer has entries that could not be read
truncated       the answer has no end

Any name of a category is right, and so is any order. Answer with JSON alone:
{"errors": [{"kind": "...", "mention": 1, "object": 2, "question": "...", "reply": "...",
             "objects": [{"name": "...", "box": [x, y, width, height]}], "ends": false}]}

mention: the number of the wrong mention; null for missed, miscount, malformed and truncated.
object: the number of the true object that it is about; null where there is none.
question, reply: a short question about the error, and the right reply.
objects: what should have been listed instead, from the place of the error on. ends: whether the list ends after it.
"""

Error = tuple[Kind, int | None]
"""What is compared: the kind with the mention it is about, or of `missed` the object; None for errors of a whole
answer."""


@dataclass(frozen=True, slots=True)
class JudgedError:
    """One error as a language model gives it. mention, object: indices, 0 first. objects: what it says is right."""

    kind: Kind
    mention: int | None
    object: int | None
    question: str
    reply: str
    objects: tuple[tuple[str, Box], ...]
    ends: bool

    @property
    def compared(self) -> Error:
        return self.kind, self.object if self.kind == "missed" else self.mention


# ---- what it is told -----------------------------------------------------------------------------------------------


def describe_answer(example: Example, parsed: Parsed, names: Mapping[int, Sequence[str]]) -> str:
    """Writes down what there is in the image and what the answer says; names: of each category id, its own first."""
    objects = [f"{' / '.join(names[item.category_id])} {_box(item.box)}" for item in example.instances]
    mentions = [f"{mention.name} {_box(mention.box)}" for mention in parsed.mentions]
    excused = ", ".join(names[index][0] for index in sorted(example.not_exhaustive) if index in names)
    lines = [
        f"Image: {example.width} x {example.height} pixels.",
        *_numbered("True objects", objects),
        *([f"Not all objects are annotated of: {excused}. More of them are no errors."] if excused else []),
        *_numbered("Mentions", mentions),
        f"Entries that could not be read: {parsed.malformed}.",
        "The answer has no end." if parsed.truncated else "The answer has an end.",
    ]
    return "\n".join(lines)


def _numbered(title: str, lines: Sequence[str]) -> list[str]:
    return (
        [f"{title}:", *(f"{number}. {line}" for number, line in enumerate(lines, 1))] if lines else [f"{title}: none."]
    )


def _box(box: Box) -> str:
    return f"[{box.x:.0f}, {box.y:.0f}, {box.w:.0f}, {box.h:.0f}]"


# ---- what it answers -----------------------------------------------------------------------------------------------


def read_errors(text: str, mentions: int, objects: int) -> tuple[list[JudgedError], int]:
    """Reads the errors of an answer about so many mentions and true objects, and counts what was no error by the
    codebook's rules; a text without such JSON counts once."""
    try:
        listed = json.loads(text[text.index("{") : text.rindex("}") + 1])["errors"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return [], 1
    if not isinstance(listed, list):
        return [], 1
    errors = [_error(item, mentions, objects) for item in listed]
    valid = [error for error in errors if error is not None]
    return valid, len(errors) - len(valid)


def _error(item: Any, mentions: int, objects: int) -> JudgedError | None:
    """None where it is not of the form that was asked for."""
    if not isinstance(item, dict) or item.get("kind") not in KINDS:
        return None
    kind: Kind = item["kind"]
    about_mention, about_object = _index(item.get("mention"), mentions), _index(item.get("object"), objects)
    if (kind in MENTION_KINDS) != (about_mention is not None) or (kind == "missed" and about_object is None):
        return None
    question, reply = _text(item.get("question")), _text(item.get("reply"))
    if question is None or reply is None:
        return None
    right, ends = item.get("objects"), item.get("ends")
    if not isinstance(right, list) or len(right) > MOST_OBJECTS or not isinstance(ends, bool):
        return None
    read = [_object(entry) for entry in right]
    whole = tuple(entry for entry in read if entry is not None)
    if len(whole) < len(read):
        return None
    return JudgedError(kind, about_mention, about_object, question, reply, whole, ends)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST else None


def _index(number: Any, size: int) -> int | None:
    """A number from 1 on as an index; None for anything else."""
    counts = isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= size
    return number - 1 if counts else None


def _object(entry: Any) -> tuple[str, Box] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    sides = entry.get("box")
    if not isinstance(sides, list) or len(sides) != 4 or not all(map(_is_number, sides)):
        return None
    return entry["name"], Box(*map(float, sides))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- how far it agrees ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one kind of error, over all answers: how often it is there, how often it was judged to be, and how often both
    say it of the same mention (missed: object; else: answer)."""

    kind: Kind
    exact: int
    judged: int
    both: int

    @property
    def precision(self) -> float:
        """Share of the judged errors that there are; nan without any."""
        return self.both / self.judged if self.judged else math.nan

    @property
    def recall(self) -> float:
        """Share of the errors that were found; nan without any."""
        return self.both / self.exact if self.exact else math.nan


def exact_errors(errors: SampleErrors) -> set[Error]:
    """The codebook's errors of one answer, as they are compared."""
    exact: set[Error] = {(m.kind, index) for index, m in enumerate(errors.mentions) if m.kind is not None}
    exact |= {("missed", index) for index in errors.missed}
    whole: dict[Kind, bool] = {
        "miscount": bool(errors.miscounts),
        "malformed": bool(errors.malformed),
        "truncated": errors.truncated,
    }
    return exact | {(kind, None) for kind, there in whole.items() if there}


def agreement(answers: Iterable[tuple[set[Error], set[Error]]]) -> list[Agreement]:
    """Compares the exact and the judged errors of each answer; one line for each kind of error."""
    pairs = list(answers)

    def count(sets: Iterable[set[Error]], kind: Kind) -> int:
        return sum(error[0] == kind for errors in sets for error in errors)

    return [
        Agreement(
            kind,
            exact=count((exact for exact, _ in pairs), kind),
            judged=count((judged for _, judged in pairs), kind),
            both=count((exact & judged for exact, judged in pairs), kind),
        )
        for kind in KINDS
    ]
