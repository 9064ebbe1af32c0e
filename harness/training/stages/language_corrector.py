"""A language model as the corrector of nSFT (the paper's G; Zhu et al., CVPR 2025): it is told the error codebook, what
there is in the image and what the model answered, and writes down the errors with what is right.

It reads words and numbers only, no picture, and is not told the exact errors. Which server is asked is the business of
the one who runs the program alone (harness.training.stages.chat). What it answers is checked: an error that is none by
the codebook's form, a name that the vocabulary lacks, a box outside of the image, or a list that the codec does not
read back as it was written is left out. What is left becomes the corrections.parquet of the cell, as with any
corrector, so that a run goes on without asking again.
"""

from __future__ import annotations

import numpy as np

from harness.errors import ConfigError
from harness.metrics.diagnosis.codebook import SampleErrors
from harness.metrics.diagnosis.judged_errors import INSTRUCTION, JudgedError, describe_answer, read_errors
from harness.protocols import Correction, Targets
from harness.sequence import Codec
from harness.training.stages.chat import ChatServer
from harness.training.stages.corrections import Case, Objects, followed
from harness.types import Example, Parsed


class LanguageModel:
    """One correction for each error that it names and puts right. Order and names are its own."""

    def __init__(self, codec: Codec, targets: Targets) -> None:
        self._codec, self._targets = codec, targets
        self._server = ChatServer.of()

    @staticmethod
    def unready() -> list[str]:
        """Lists what the environment lacks, before anything is computed."""
        try:
            ChatServer.of()
        except ConfigError as error:
            return list(error.problems)
        return []

    def __call__(
        self, example: Example, parsed: Parsed, errors: SampleErrors, rng: np.random.Generator, /
    ) -> list[Correction]:
        case = Case(self._codec, self._targets, example, parsed.mentions, errors, rng)
        answer = self._server.ask(INSTRUCTION, describe_answer(example, parsed, self._codec.names_of))
        judged, _ = read_errors(answer, len(parsed.mentions), len(example.instances))
        corrections = [correction_of(case, error) for error in judged]
        return [correction for correction in corrections if correction is not None]


def correction_of(case: Case, error: JudgedError) -> Correction | None:
    """Turns an error into tokens: what was said before it, and what is right from there on; None where the codec cannot
    write what the language model says, or there is nothing to learn."""
    right: Objects = list(error.objects)
    if (not right and not error.ends) or not writes(case, right):
        return None
    if error.kind == "malformed":
        cut = case.before_malformed()
    else:
        cut = len(case.mentions) if error.mention is None else error.mention
    before, _ = case.before(cut)
    context, answer = followed(case, before, right, error.ends)
    return Correction(error.kind, context, answer, error.question, error.reply)


def writes(case: Case, objects: Objects) -> bool:
    """Says whether the codec can write these objects so that it reads the same ones back: names of the vocabulary, and
    boxes with an area inside of the image."""
    codec, width, height = case.codec, case.example.width, case.example.height
    inside = all(
        box.w > 0 and box.h > 0 and box.x >= 0 and box.y >= 0 and box.x + box.w <= width and box.y + box.h <= height
        for _, box in objects
    )
    if not inside or not all(name in codec.category_of for name, _ in objects):
        return False
    read = codec.decode(codec.encode(objects, width, height), width, height)
    same = [mention.name for mention in read.mentions] == [name for name, _ in objects]
    return same and not read.malformed and not read.truncated
