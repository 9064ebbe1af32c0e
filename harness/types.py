"""Frozen values that the packages exchange. Nothing here reads a file or imports a model library.

Boxes are LVIS boxes: `x, y, w, h` in pixels, origin top left, `x + w` and `y + h` being edges (not pixels).

Shape legend (used in this file and wherever tensors appear):
    B batch   L tokens   V vocabulary   N target positions of a batch (B x L, flattened)
    K samples per image   I images   C categories   T IoU thresholds   R bootstrap replicates
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # evaluation works on these values too, and has no use for torch
    import torch
    from torch import Tensor

IGNORED_LABEL = -100
"""Label of a position that is no target (prompt, padding), as in torch's cross_entropy."""

Frequency = Literal["r", "c", "f"]
Role = Literal["base", "trained", "oracle"]


@dataclass(frozen=True, slots=True)
class Box:
    """`x, y, w, h` in pixels."""

    x: float
    y: float
    w: float
    h: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Returns `x0, y0, x1, y1`."""
        return self.x, self.y, self.x + self.w, self.y + self.h


@dataclass(frozen=True, slots=True)
class Category:
    """An LVIS category. `names[0]` is its main name, the others are synonyms; all are equally valid."""

    id: int
    names: tuple[str, ...]
    frequency: Frequency | None

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object. `id` is the annotation id (unique in its file)."""

    id: int
    category_id: int
    box: Box


@dataclass(frozen=True, slots=True)
class Example:
    """One image with its objects and its federated fields.

    `negative`: categories verified to be absent. `not_exhaustive`: categories that are present but not
    annotated exhaustively: an unmatched mention of one is neither right nor wrong.

    `asked`: the categories that the prompt names, in its order, if it asks about these only (see
    harness.sequence.prompts); None for an open prompt. The other fields are then limited to these categories.

    `captions`: texts that people wrote about it, each on one line; empty in most data.

    `expert`: the expert of a mixture that is asked (harness.sequence.experts); None for other models.
    """

    image_id: int
    path: Path
    width: int
    height: int
    instances: tuple[Instance, ...]
    negative: frozenset[int] = frozenset()
    not_exhaustive: frozenset[int] = frozenset()
    asked: tuple[int, ...] | None = None
    captions: tuple[str, ...] = ()
    expert: int | None = None

    @property
    def key(self) -> tuple[int, ...]:
        """Returns the key of a question in its split: the image, and the categories that it asks about."""
        return self.image_id, *(self.asked or ())


@dataclass(frozen=True, slots=True)
class Mention:
    """One object in a sequence. `category_id` is None where the vocabulary has no such name.

    Token positions in the sequence: its name is `[name_start, name_end)`, its box `[box_start, box_end)`. Which of
    them comes first depends on the model family.
    """

    name: str
    category_id: int | None
    box: Box
    name_start: int = 0
    name_end: int = 0
    box_start: int = 0
    box_end: int = 0

    def moved(self, by: int) -> Mention:
        """Returns the same mention, so many tokens later."""
        name, box = (self.name_start, self.name_end), (self.box_start, self.box_end)
        return Mention(self.name, self.category_id, self.box, *(position + by for position in (*name, *box)))


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a sequence says. `malformed` counts the entries that could not be read; `truncated`: no end token; `lenient`
    counts the mentions that are not quite in the model's format, and were read all the same."""

    mentions: tuple[Mention, ...]
    malformed: int
    truncated: bool
    lenient: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One emitted sequence: target token ids (no prompt, no padding; the end token if it was reached) and
    the log-probability of each under the raw model (temperature 1, no grammar), in nats. `expert`: the expert of a
    mixture that gave it (harness.sequence.experts); None for other models."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """One row of an LVIS results file."""

    image_id: int
    category_id: int
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Detections:
    """D rows of a results file as columns: what evaluation works on (millions of rows fit).

    image_id, category_id  [D] int64
    boxes                  [D, 4] float64, `x, y, w, h` in pixels
    scores                 [D] float64
    """

    image_id: NDArray[np.int64]
    category_id: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Detections:
        """Returns these rows, in this order (an index array, a mask or a slice)."""
        return Detections(self.image_id[rows], self.category_id[rows], self.boxes[rows], self.scores[rows])

    @classmethod
    def of(cls, detections: Iterable[Detection]) -> Detections:
        """Makes columns from single rows, in the same order."""
        rows = list(detections)
        boxes = [(row.box.x, row.box.y, row.box.w, row.box.h) for row in rows]
        return cls(
            np.array([row.image_id for row in rows], dtype=np.int64),
            np.array([row.category_id for row in rows], dtype=np.int64),
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
            np.array([row.score for row in rows], dtype=np.float64),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Official figures by their official names ("AP", "AP50", "APr", "AR@300", ...) and AP by category id.

    An undefined figure is None, never -1 or 0.
    """

    metrics: Mapping[str, float | None]
    per_category: Mapping[int, float | None]
    engine: str
    version: str


@dataclass(frozen=True, slots=True)
class Projection:
    """Logits that have not been multiplied out: `hidden @ weight.T`.

    hidden  [..., D]  states after the model's last normalisation
    weight  [V, D]    the output embedding (a parameter: it is differentiated too)

    N x V logits are the largest tensor of a fine-tuning step; whoever takes a Projection need not hold them.
    """

    hidden: Tensor
    weight: Tensor

    def take(self, rows: Tensor) -> Projection:
        """Returns the positions [N] that a mask over hidden's leading dimensions selects."""
        return Projection(self.hidden[rows], self.weight)


@dataclass(frozen=True, slots=True)
class TokenTrees:
    """Rows of tokens that form trees: beginnings that several sequences share occur once.

    tokens  [R, L]     the prompt first, each token after the one that it follows, padding last
    places  [R, L]     the number of tokens before each in its sequence
    sees    [R, L, L]  bool: whether token i attends to token j, which is i or an earlier token of its sequence
    """

    tokens: Tensor
    places: Tensor
    sees: Tensor

    def after(self, count: int) -> TokenTrees:
        """Returns all but the first tokens of each, so many."""
        return TokenTrees(self.tokens[:, count:], self.places[:, count:], self.sees[:, count:, count:])

    def to(self, device: torch.device) -> TokenTrees:
        """Returns the same trees on a device."""
        return TokenTrees(self.tokens.to(device), self.places.to(device), self.sees.to(device))


@dataclass(frozen=True, slots=True)
class Members:
    """The sets of the S sequences of a batch: sequences of one image are members of one set.

    set         [S]  int64: the set (image) that a sequence belongs to
    sampled     [S]  bool: drawn from the model itself, so no target: it adds to no cross-entropy
    cost        [S]  float: 1 - F-score of its mentions against the image's instances, in [0, 1]
    correction  [S]  bool: the answer of a correction (harness.training.stages.corrections); None: there is none among
    them
    """

    set: Tensor
    sampled: Tensor
    cost: Tensor
    correction: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """Data about the N positions of sequences that the model drew, beside the labels.

    advantage  [N]  that of the position's sequence
    before     [N]  log-probability of the label when the updates of the step began; None: it is now
    reference  [N]  log-probability of the label under a frozen model, or None
    """

    advantage: Tensor
    before: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Target positions of a batch, flattened.

    logits   [N, V]  any float dtype, or a Projection; objectives compute in float32 (float64 stays float64)
    labels   [N]     int64; IGNORED_LABEL where the position is no target
    group    [N]     int64 or None: which of S sequences a position belongs to (sequence-level objectives)
    members          what is known about those sequences (sequence-level objectives), or None
    selected [N]     bool or None: positions that a frozen reference model selected (SED-SFT `mask: base`)
    weight   [N]     float or None: what a position's loss is multiplied with (1 by default); counts stay as they are
    rated            what reinforcement learning knows about the positions, or None
    reference        what a frozen model says at the same positions, as `logits`, or None
    """

    logits: Tensor | Projection
    labels: Tensor
    group: Tensor | None = None
    members: Members | None = None
    selected: Tensor | None = None
    weight: Tensor | None = None
    rated: Rated | None = None
    reference: Tensor | Projection | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """The facts about a model before it is built: one entry of its module's CARDS.

    CARDS is a list of dicts of literals, one for each configuration worth a line in `detmodes list models`, the first
    for the default settings. It is read without importing the module, whose libraries may not be installed.

    settings     what to write in a suite file for it
    parameters   of the whole model, within 10%; None if it has none
    coordinates  how many bins or pixels, in which order
    licence      of the code and of the weights
    weights      where they come from
    """

    settings: Mapping[str, object]
    parameters: int | None
    coordinates: str
    licence: str
    weights: str


Unit = Literal["tokens", "sets", "corrections"]


@dataclass(frozen=True, slots=True)
class Term:
    """One additive part of a loss: `weight * sum / count`.

    sum: scalar tensor with gradient; count: number of `unit`s summed over (target positions, equivalence sets of at
    least two members, or positions of corrections, which are no targets). Sums and counts are kept apart so that
    accumulation and data parallelism can reduce each globally before dividing. A count never depends on the model.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0
    unit: Unit = "tokens"


@dataclass(frozen=True, slots=True)
class LossOutput:
    """`terms` by name, and `stats`: detached scalars `name -> (sum, count)` for the training log.

    selected [N] bool or None: where a selective objective's penalty acted.
    """

    terms: Mapping[str, Term]
    stats: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    selected: Tensor | None = None

    def mean(self) -> Tensor:
        """Returns the scalar sum over terms of weight * sum / count; a term without a count contributes 0."""
        first, *rest = (term.weight * term.sum / term.count.clamp(min=1) for term in self.terms.values())
        return sum(rest, start=first)
