"""Codes the errors of sampled sequences: one code for each wrong mention, and counts of what whole samples lack.

The codes of mentions are the kinds of harness.metrics.diagnosis.tide, by its constants and in its order of tests, and
one more:

    localisation    wrong place: 0.1 <= IoU <= 0.5 with an object of its category
    classification  wrong category: IoU >= 0.5 with an object of another category
    wrong_name      wrong name for the right object: the same, with a name that no category has
    duplicate       IoU >= 0.5 with an object of its category, which another mention has verified
    background      invented object: IoU <= 0.1 with any
    both            all others: near an object of another category, on none

Agrees with `tide.break_down_errors` under LVIS: what is neither right nor wrong there has no code here (unmatched
mentions of a category that is not annotated exhaustively in the image, duplicates among them, or that nobody looked for
in it), and the same objects are missed. So it does under COCO, where every category was looked for. It must differ in
this:

- Mentions are matched as they are everywhere for samples (`matching.verify`: most pairs, then best IoU), detections by
  score, each to the best that is free. With equal scores greed may leave a pair unmatched that `verify` finds, or
  match others; never more.
- A name that no category has makes no detection, so TIDE does not see it. Here it is `wrong_name` on an object (which
  is then not missed, as with `classification`), else `background` or `both`.
- Detections are capped, and under LVIS those without area left out; here all mentions of a sample count, and K
  samples of an image are K answers.
- Under COCO a category with a crowd region in the image is not annotated exhaustively there, so that all its unmatched
  mentions are neither right nor wrong; TIDE excuses those on the region alone.

Shape legend: I images, C categories, n instances, K samples per image, M mentions, w wrong counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from harness.metrics.diagnosis import tide
from harness.metrics.diagnosis.tide import CLASSIFICATION, DUPLICATE, LOCALISATION, NO_ERROR
from harness.metrics.samples.matching import Verification, iou_matrix, verify
from harness.metrics.samples.mentions import Answers, Flags, Floats, Integers, Truth, answers_of, truth_of
from harness.types import Category, Example, Parsed

MentionKind = Literal["classification", "localisation", "both", "duplicate", "background", "wrong_name"]
SampleKind = Literal["missed", "miscount", "malformed", "truncated"]
MENTION_KINDS: tuple[MentionKind, ...] = get_args(MentionKind)
Kind = MentionKind | SampleKind
KINDS: tuple[Kind, ...] = (*MENTION_KINDS, *get_args(SampleKind))
WRONG_NAME = MENTION_KINDS.index("wrong_name")

EXPLAINED = (CLASSIFICATION, LOCALISATION, WRONG_NAME)
"""Errors about an object that is not counted as missed, because a mention refers to it, though wrongly."""


@dataclass(frozen=True, slots=True)
class Miscounts:
    """Categories that a sample mentions more or less often than the image has them, columns [w], by image and sample.

    Leaves out categories that are not annotated exhaustively in the image, or were not looked for in it.
    """

    image: Integers
    sample: Integers
    category: Integers
    claimed: Integers
    there: Integers


@dataclass(frozen=True, slots=True)
class ErrorCodes:
    """Errors of K samples of each of I images. Malformed entries and missing ends are in Answers already.

    kind    [M]     index into MENTION_KINDS, or NO_ERROR
    about   [M]     the instance that a classification, localisation, duplicate or wrong_name is about: of those it
                    is confused with the closest, the first of equals; else -1
    missed  [n, K]  which instances a sample neither verifies nor refers to wrongly (EXPLAINED)
    """

    kind: Integers
    about: Integers
    missed: Flags
    miscounts: Miscounts


def error_codes(truth: Truth, answers: Answers, verification: Verification) -> ErrorCodes:
    """Codes the errors of samples that were matched with `verify`."""
    kind, about = _of_mentions(truth, answers, verification)
    mentions = answers.mentions
    missed = np.ones((len(truth.image), answers.samples), dtype=np.bool_)
    verifies, explains = verification.instance >= 0, np.isin(kind, EXPLAINED)
    missed[verification.instance[verifies], mentions.sample[verifies]] = False
    missed[about[explains], mentions.sample[explains]] = False
    return ErrorCodes(kind, about, missed, _miscounts(truth, answers))


def counts_by_category(truth: Truth, answers: Answers, codes: ErrorCodes) -> dict[Kind, Integers]:
    """Counts how often each of KINDS occurs by category, each [C + 1].

    A mention counts for the category that it names, a wrong_name and a missed object for the object's category, a
    miscount for the category whose number is wrong. The last entry belongs to no category: unknown names on no
    object, malformed entries, missing ends.
    """
    nowhere = truth.categories
    of_object = np.append(truth.category, nowhere)[np.where(codes.kind == WRONG_NAME, codes.about, -1)]
    of_mention = np.where(answers.mentions.category >= 0, answers.mentions.category, of_object)
    lost = np.broadcast_to(truth.category[:, None], codes.missed.shape)[codes.missed]
    where: dict[Kind, Integers] = {
        **{name: of_mention[codes.kind == code] for code, name in enumerate(MENTION_KINDS)},
        "missed": lost,
        "miscount": codes.miscounts.category,
        "malformed": np.full(int(answers.malformed.sum()), nowhere),
        "truncated": np.full(int(answers.truncated.sum()), nowhere),
    }
    return {name: np.bincount(categories, minlength=nowhere + 1) for name, categories in where.items()}


def _of_mentions(truth: Truth, answers: Answers, verification: Verification) -> tuple[Integers, Integers]:
    """Computes `kind` and `about` of ErrorCodes."""
    mentions = answers.mentions
    kind, about = np.full(len(mentions), NO_ERROR), np.full(len(mentions), -1)
    looked_for = _looked_for(truth, mentions.image * truth.categories + mentions.category) | verification.unknown
    wrong = np.flatnonzero((verification.instance < 0) & ~verification.neutral & looked_for)
    for rows in np.split(wrong, np.flatnonzero(np.diff(mentions.image[wrong])) + 1):
        if len(rows):
            first, last = (int(np.searchsorted(truth.image, mentions.image[rows[0]], s)) for s in ("left", "right"))
            iou = iou_matrix(mentions.boxes[rows], truth.boxes[first:last])
            same_category = mentions.category[rows][:, None] == truth.category[first:last]
            kind[rows], which = _kinds(iou, same_category)
            about[rows[which >= 0]] = first + which[which >= 0]
    kind[(kind == CLASSIFICATION) & verification.unknown] = WRONG_NAME
    return kind, about


def _kinds(iou: Floats, same_category: Flags) -> tuple[Integers, Integers]:
    """Classifies wrong mentions as TIDE does, and returns which object each is about, duplicates included; see
    `classify_errors`."""
    kind, which = tide.classify_errors(iou, same_category)
    again = kind == DUPLICATE
    if again.any():
        which[again] = np.where(same_category, iou, 0.0)[again].argmax(axis=1)
    return kind, which


def _looked_for(truth: Truth, pair: Integers) -> Flags:
    """Flags the (image, category) pairs that are annotated or verified to be absent; `pair`: image * C + category."""
    judged = np.concatenate([truth.image * truth.categories + truth.category, truth.negative])
    return np.asarray(np.isin(pair, judged))


def _miscounts(truth: Truth, answers: Answers) -> Miscounts:
    mentions, k, c = answers.mentions, answers.samples, max(truth.categories, 1)
    named = mentions.category >= 0
    claimed = ((mentions.image * k + mentions.sample) * c + mentions.category)[named]
    there = (((truth.image * k)[:, None] + np.arange(k)) * c + truth.category[:, None]).ravel()
    keys, place = np.unique(np.concatenate([claimed, there]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(keys)) for part in np.split(place, [len(claimed)])]
    image, sample, category = keys // (k * c), keys // c % k, keys % c
    pair = image * c + category
    decided = _looked_for(truth, pair) & ~np.isin(pair, truth.not_exhaustive)
    wrong = (counts[0] != counts[1]) & decided
    return Miscounts(image[wrong], sample[wrong], category[wrong], counts[0][wrong], counts[1][wrong])


# ---- one sample at a time ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MentionFound:
    """The outcome of one mention. `kind`: None where it is no error. `instance`: index into the example's instances
    of the one that the mention verifies or is about (see ErrorCodes); None where there is none."""

    kind: MentionKind | None
    instance: int | None


@dataclass(frozen=True, slots=True)
class Miscount:
    """The number of times that a sample mentions a category, and the number of its instances in the image."""

    category_id: int
    claimed: int
    there: int


@dataclass(frozen=True, slots=True)
class SampleErrors:
    """The errors of one sample of an image. `mentions`: one for each, in order; `missed`: indices into the example's
    instances."""

    mentions: tuple[MentionFound, ...]
    missed: tuple[int, ...]
    miscounts: tuple[Miscount, ...]
    malformed: int
    truncated: bool

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Lists the kinds of all errors: those of the mentions in order, then those of the sample. Empty for a member
        of the equivalence set."""
        wrong = [mention.kind for mention in self.mentions if mention.kind is not None]
        missed = ["missed"] * len(self.missed) + ["miscount"] * len(self.miscounts)
        rest = ["malformed"] * self.malformed + ["truncated"] * self.truncated
        return (*wrong, *missed, *rest)  # type: ignore[arg-type]


def sample_errors(examples: Sequence[Example], parsed: Sequence[Sequence[Parsed]]) -> list[list[SampleErrors]]:
    """Returns the errors of each of K >= 1 samples of each of I examples."""
    named_ids = (mention.category_id for samples in parsed for sample in samples for mention in sample.mentions)
    mentioned = {category_id for category_id in named_ids if category_id is not None}
    annotated = {instance.category_id for example in examples for instance in example.instances}
    categories = [Category(index, (), None) for index in sorted(annotated | mentioned)]
    truth, answers = truth_of(examples, categories), answers_of(parsed, categories)
    verification = verify(truth, answers.mentions)
    codes = error_codes(truth, answers, verification)
    starts = _Starts.of(truth, answers, codes)
    instance = np.where(verification.instance >= 0, verification.instance, codes.about)
    ids = [category.id for category in categories]
    k = answers.samples
    return [
        [_one(answers, codes, instance, ids, starts, image, sample) for sample in range(k)]
        for image in range(len(examples))
    ]


@dataclass(frozen=True, slots=True)
class _Starts:
    """The first row of each image (instances) and of each sample (mentions, wrong counts), with one more entry for
    the end."""

    instances: Integers  # [I + 1]
    mentions: Integers  # [I * K + 1]
    miscounts: Integers  # [I * K + 1]

    @classmethod
    def of(cls, truth: Truth, answers: Answers, codes: ErrorCodes) -> _Starts:
        images, k = answers.malformed.shape
        of, wrong = answers.mentions, codes.miscounts
        sequences = np.arange(images * k + 1)
        return cls(
            np.searchsorted(truth.image, np.arange(images + 1)),
            np.searchsorted(of.image * k + of.sample, sequences),
            np.searchsorted(wrong.image * k + wrong.sample, sequences),
        )


def _one(
    answers: Answers,
    codes: ErrorCodes,
    instance: Integers,
    category_ids: Sequence[int],
    starts: _Starts,
    image: int,
    sample: int,
) -> SampleErrors:
    """Returns the errors of one sample; `instance` [M]: the instance that each mention verifies or is about, or -1."""
    sequence, wrong = image * answers.samples + sample, codes.miscounts
    first, end = starts.instances[image : image + 2]
    mentions, counts = (slice(*bounds[sequence : sequence + 2]) for bounds in (starts.mentions, starts.miscounts))
    columns = (wrong.category[counts].tolist(), wrong.claimed[counts].tolist(), wrong.there[counts].tolist())
    return SampleErrors(
        mentions=tuple(
            MentionFound(None if kind == NO_ERROR else MENTION_KINDS[kind], None if about < 0 else about - int(first))
            for kind, about in zip(codes.kind[mentions].tolist(), instance[mentions].tolist(), strict=True)
        ),
        missed=tuple(np.flatnonzero(codes.missed[first:end, sample]).tolist()),
        miscounts=tuple(Miscount(category_ids[c], claimed, there) for c, claimed, there in zip(*columns, strict=True)),
        malformed=int(answers.malformed[image, sample]),
        truncated=bool(answers.truncated[image, sample]),
    )
