"""Turns the errors of a sampled sequence into corrective questions and answers (nSFT; Zhu et al., CVPR 2025). Pure.

In the paper a language model compares the rejected answer with the right one and writes the corrections. Here they
follow exactly from ground truth: every error of harness.metrics.diagnosis.codebook is corrected by one of several
templates, drawn from a seed. Each template has two forms:

in words   a question and a reply, for people and for models that read text
in tokens  `context` and `answer`, for every vocabulary, even one of names and locations only

Without words, the question "what should you have said here?" is the image with the model's answer before its mistake:
the context is read (teacher-forced) without loss, and the answer, which is right from there on, has a loss. So
corrections begin in the states that sampling leads the model into, and the mistakes in a context are not learnt. An
answer is one of

instead      the right object in place of the wrong one: the one that was meant, else the next remaining one;
             the end token if there is none. Nothing after it has a loss, so that no early end is learnt
onwards      all remaining objects, and the end token
of_category  the remaining objects of the miscounted category, from before its first mention on
afresh       without context: the whole image, a member of its equivalence set

The codec writes them in the format of the model family: a context is the common beginning of a list of its objects
that ends there and one that goes on; the answer has the tokens that close or continue the list.

Remaining objects are the instances that the context has neither verified nor mentioned wrongly: repeating those would
teach duplicates. Order and names in answers follow the targets that the model is trained on (see
harness.sequence.targets), so that corrections do not add diversity by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from harness.metrics.diagnosis.codebook import Kind, SampleErrors
from harness.protocols import Correction, Targets, Tokens
from harness.sequence import Codec
from harness.sequence.targets import objects
from harness.types import Box, Example, Instance, Mention, Parsed

Objects = list[tuple[str, Box]]


CORRECTORS = {
    "templates": "harness.training.stages.corrections:Templates",
    "language_model": "harness.training.stages.language_corrector:LanguageModel",
}


class Templates:
    """Makes one correction for each error: one for all missed objects, and one for all malformed entries."""

    def __init__(self, codec: Codec, targets: Targets) -> None:
        self._codec, self._targets = codec, targets

    def __call__(
        self, example: Example, parsed: Parsed, errors: SampleErrors, rng: np.random.Generator, /
    ) -> list[Correction]:
        case = Case(self._codec, self._targets, example, parsed.mentions, errors, rng)
        return [_correction(case, error) for error in _errors(case)]


def _correction(case: Case, error: _Error) -> Correction:
    templates = TEMPLATES[error.kind]
    template = templates[int(case.rng.integers(len(templates)))]
    context, answer = template.form(case, error)
    fields = case.fields(error)
    return Correction(error.kind, context, answer, template.question.format(**fields), template.reply.format(**fields))


@dataclass(frozen=True, slots=True)
class _Error:
    """An error. cut: number of mentions before it; about: index of the instance it is about."""

    kind: Kind
    cut: int
    mention: Mention | None = None
    about: int | None = None
    category_id: int | None = None
    claimed: int = 0


def _errors(case: Case) -> Iterator[_Error]:
    mentions, errors = case.mentions, case.errors
    for position, (mention, outcome) in enumerate(zip(mentions, errors.mentions, strict=True)):
        if outcome.kind is not None:
            yield _Error(outcome.kind, position, mention, outcome.instance)
    if errors.missed:
        yield _Error("missed", len(mentions))
    for wrong in errors.miscounts:
        places = [position for position, mention in enumerate(mentions) if mention.category_id == wrong.category_id]
        yield _Error(
            "miscount", min(places, default=len(mentions)), category_id=wrong.category_id, claimed=wrong.claimed
        )
    if errors.malformed:
        yield _Error("malformed", case.before_malformed())
    if errors.truncated:
        yield _Error("truncated", len(mentions))


@dataclass(frozen=True, slots=True)
class Case:
    """A sample with its errors, and the means to make right answers about its image."""

    codec: Codec
    targets: Targets
    example: Example
    mentions: Sequence[Mention]
    errors: SampleErrors
    rng: np.random.Generator

    def before(self, cut: int) -> tuple[Objects, list[Instance]]:
        """Returns the first `cut` mentions, up to the first unknown name (whose tokens are not stored), and the
        instances that they leave."""
        cut = min(cut, self._known())
        return [(mention.name, mention.box) for mention in self.mentions[:cut]], self.left(cut)

    def before_malformed(self) -> int:
        """Counts the mentions before the first malformed entry: those at the positions that they would have without
        it."""
        listed, _ = self.before(len(self.mentions))
        width, height = self.example.width, self.example.height
        alone = self.codec.decode(self.encode(listed), width, height).mentions
        moved = (k for k, (a, b) in enumerate(zip(self.mentions, alone, strict=False)) if a.name_end != b.name_end)
        return next(moved, len(listed))

    def _known(self) -> int:
        """Counts the mentions before the first unknown name."""
        unknown = (position for position, mention in enumerate(self.mentions) if mention.category_id is None)
        return next(unknown, len(self.mentions))

    def left(self, cut: int) -> list[Instance]:
        dealt_with = {mention.instance for mention in self.errors.mentions[:cut]}
        return [item for index, item in enumerate(self.example.instances) if index not in dealt_with]

    def objects(self, instances: Sequence[Instance]) -> Objects:
        """Returns objects in the order and with the names of a target."""
        return objects(replace(self.example, instances=tuple(instances)), self.codec, self.targets, self.rng)

    def encode(self, listed: Objects) -> Tokens:
        return self.codec.encode(listed, self.example.width, self.example.height)

    def begun(self, listed: Objects) -> Tokens:
        """Returns the tokens with which a list of these begins, whether it ends after them or goes on."""
        ended, going_on = self.encode(listed), self.encode([*listed, self._any])
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ended, going_on, strict=False)))
        return ended[:same]

    @property
    def _any(self) -> tuple[str, Box]:
        """Returns an arbitrary object."""
        return next(iter(self.codec.name_ids)), Box(0, 0, self.example.width, self.example.height)

    def fields(self, error: _Error) -> dict[str, object]:
        """Returns the fields that templates may use; see TEMPLATES."""
        of_category = [item for item in self.example.instances if item.category_id == error.category_id]
        values: dict[str, object] = {
            "heard": self._spelt([(mention.name, mention.box) for mention in self.mentions]),
            "missing": self._spelt(self.objects(self.left(len(self.mentions)))),
            "all": self._spelt(self.objects(self.example.instances)),
            "these": self._spelt(self.objects(of_category)),
            "count": len(of_category),
            "claimed": error.claimed,
        }
        if error.category_id is not None:
            values["category"] = self.codec.names_of[error.category_id][0]
        if error.mention is not None:
            name, box = error.mention.name, error.mention.box
            values |= {"name": name, "place": self._place(box), "said": self._spelt([(name, box)])}
        if error.about is not None:
            values["object"] = self._spelt(self.objects([self.example.instances[error.about]]))
        return values

    def _spelt(self, listed: Objects) -> str:
        return " ; ".join(f"{name} {self._place(box)}" for name, box in listed) or "nothing"

    def _place(self, box: Box) -> str:
        """Writes a box in the format's way."""
        tokens = self.encode([(self._any[0], box)])
        (entry,) = self.codec.form.entries(tokens[:-1], False)
        assert entry is not None
        return self.codec.text(tokens[entry.box_start : entry.box_end])


# ---- in tokens: (context, answer) ----------------------------------------------------------------------------------


def _instead(case: Case, error: _Error) -> tuple[Tokens, Tokens]:
    listed, left = case.before(error.cut)
    if error.about is not None and (meant := case.example.instances[error.about]) in left:
        return followed(case, listed, case.objects([meant]), ends=False)
    return followed(case, listed, case.objects(left)[:1], ends=len(left) <= 1)


def _onwards(case: Case, error: _Error) -> tuple[Tokens, Tokens]:
    listed, left = case.before(error.cut)
    return followed(case, listed, case.objects(left), ends=True)


def _of_category(case: Case, error: _Error) -> tuple[Tokens, Tokens]:
    listed, left = case.before(error.cut)
    of_category = [item for item in left if item.category_id == error.category_id]
    return followed(case, listed, case.objects(of_category or left), ends=not of_category)


def _afresh(case: Case, _: _Error) -> tuple[Tokens, Tokens]:
    return (), case.encode(case.objects(case.example.instances))


def followed(case: Case, listed: Objects, right: Objects, ends: bool) -> tuple[Tokens, Tokens]:
    """Returns context and answer: the listed objects, and the right ones after them; `ends`: nothing follows."""
    context = case.begun(listed)
    whole = case.encode(listed + right) if ends else case.begun(listed + right)
    return context, whole[len(context) :]


# ---- in words ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    question: str
    reply: str
    form: Callable[[Case, _Error], tuple[Tokens, Tokens]]


TEMPLATES: dict[Kind, tuple[Template, ...]] = {
    "classification": (
        Template("What is the object at {place}?", "{object}.", _instead),
        Template("Is there {said}?", "No, it is {object}.", _instead),
        Template("You said: {heard}. Is the category of {said} right?", "No, it should be {object}.", _onwards),
    ),
    "localisation": (
        Template("Where exactly is the object that you call {said}?", "{object}.", _instead),
        Template("Does the box of {said} fit?", "No, it should be {object}.", _instead),
        Template("You said: {heard}. Is the place of {said} right?", "No, it should be {object}.", _onwards),
    ),
    "wrong_name": (
        Template("What is the object at {place} called?", "{object}.", _instead),
        Template("Is {name} the name of a category?", "No, {said} should be {object}.", _instead),
        Template("You said: {heard}. Is the name in {said} right?", "No, it should be {object}.", _onwards),
    ),
    "duplicate": (
        Template("Is {said} an object of its own?", "No, it is {object} again.", _instead),
        Template("How many objects are meant by {said} and {object}?", "One.", _instead),
        Template("You said: {heard}. Which object is {said}?", "{object}, once more.", _onwards),
    ),
    "background": (
        Template("Is there {said}?", "No.", _instead),
        Template("Does {name} stand for an object at {place}?", "No, for none.", _instead),
        Template("You said: {heard}. Should {said} be in it?", "No, leave it out.", _onwards),
    ),
    "both": (
        Template("Is there {said}?", "No, neither the name nor the box is right.", _instead),
        Template("Does {name} stand for an object at {place}?", "No, for none.", _instead),
        Template("You said: {heard}. Should {said} be in it?", "No, leave it out.", _onwards),
    ),
    "missed": (
        Template("You said: {heard}. What is missing?", "{missing}.", _onwards),
        Template("Is this everything: {heard}?", "No, there is also {missing}.", _onwards),
        Template("What is in the image?", "{all}.", _afresh),
    ),
    "miscount": (
        Template("How many objects of the category {category} are there?", "{count}.", _of_category),
        Template("You named {claimed} of the category {category}. Which are there?", "{these}.", _of_category),
        Template("You named {claimed} of the category {category}. What is in the image?", "{all}.", _afresh),
    ),
    "malformed": (
        Template("Part of your answer cannot be read. What is in the image?", "{all}.", _afresh),
        Template("I could read: {heard}. What else is there?", "{missing}.", _onwards),
        Template("Name every object with its box. What is in the image?", "{all}.", _afresh),
    ),
    "truncated": (
        Template("You said: {heard}, and did not end. What is left?", "{missing}.", _onwards),
        Template("What is there beside {heard}?", "{missing}.", _onwards),
        Template("Come to an end this time. What is in the image?", "{all}.", _afresh),
    ),
}
"""For each kind of error. They may speak of

heard, missing, all          what the sample said, the objects that it left out, and all objects ("nothing" for none)
said, name, place            the wrong mention, its name, its box
object                       the object it is about (classification, localisation, wrong_name, duplicate)
category, claimed, count, these  a miscounted category: how often it was said and how often it is there, its objects
"""
