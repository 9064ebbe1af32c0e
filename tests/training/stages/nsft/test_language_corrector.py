"""A language model as corrector: what it says becomes tokens that the codec reads back, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.errors import ConfigError
from harness.metrics.diagnosis.codebook import sample_errors
from harness.protocols import Correction
from harness.suite.stage_settings import Nsft
from harness.training.stages.chat import ADDRESS, KEY, MODEL
from harness.training.stages.language_corrector import LanguageModel
from harness.training.stages.nsft import CORRECTIONS, problems
from harness.types import Box
from tests.support import small
from tests.support.chains import NSFT, TablesInMemory, chain_of, first_step, stage_of
from tests.support.chat import Conversation, chat_server
from tests.training.stages.nsft.sequences import CODEC, END, FAR, IMAGE, A, B, encoded

RIGHT = {"name": "couch", "box": list(A)}
ERROR: dict[str, Any] = {
    "kind": "background",
    "mention": 2,
    "object": None,
    "question": "Is there a cup?",
    "reply": "No, a couch.",
    "objects": [RIGHT],
    "ends": False,
}
ANSWER = encoded(("bed", B), ("cup", FAR))
"""Of an image with a sofa at A and a bed at B."""


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ADDRESS, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)


def use(there: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, there.address)
    monkeypatch.setenv(MODEL, "small")


def corrections(monkeypatch: pytest.MonkeyPatch, *errors: dict[str, Any]) -> list[Correction]:
    with chat_server(lambda question: json.dumps({"errors": errors})) as there:
        use(there, monkeypatch)
        parsed = CODEC.decode(ANSWER, 64, 64)
        ((exact,),) = sample_errors([IMAGE], [[parsed]])
        return list(LanguageModel(CODEC, "canonical")(IMAGE, parsed, exact, np.random.default_rng(0)))


def test_what_it_says_becomes_a_context_and_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before the wrong mention, then what it puts in its place, by the name that it chose; the end is
    learnt only where it says so."""
    going_on, ending = corrections(monkeypatch, ERROR, {**ERROR, "ends": True})
    for made in (going_on, ending):
        assert (made.kind, made.question, made.reply) == ("background", "Is there a cup?", "No, a couch.")
        read = CODEC.decode((*made.context, *made.answer), 64, 64)
        assert [(mention.name, mention.box) for mention in read.mentions] == [("bed", Box(*B)), ("couch", Box(*A))]
        assert CODEC.decode((*made.context, END), 64, 64).mentions[0].name == "bed"
    assert END not in going_on.answer
    assert ending.answer[-1] == END


def test_errors_of_the_whole_come_after_all_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = corrections(monkeypatch, {**ERROR, "kind": "missed", "mention": None, "object": 1, "ends": True})
    read = CODEC.decode((*made.context, *made.answer), 64, 64)
    assert [mention.name for mention in read.mentions] == ["bed", "cup", "couch"]


@pytest.mark.parametrize(
    "change",
    [
        {"objects": [{**RIGHT, "name": "settee"}]},  # no name of the vocabulary
        {"objects": [{**RIGHT, "box": [60, 0, 10, 10]}]},  # beyond the edge
        {"objects": [{**RIGHT, "box": [-1, 0, 10, 10]}]},
        {"objects": [{**RIGHT, "box": [0, 0, 0, 10]}]},
        {"objects": [RIGHT, {**RIGHT, "name": "settee"}]},
        {"objects": []},  # nothing to learn
        {"kind": "unkind"},
    ],
)
def test_what_the_codec_cannot_write_is_left_out(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = corrections(monkeypatch, {**ERROR, **change}, ERROR)
    assert len(made) == 1


def test_an_empty_list_may_teach_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = corrections(monkeypatch, {**ERROR, "objects": [], "ends": True})
    assert made.answer[-1] == END
    assert len(CODEC.decode((*made.context, *made.answer), 64, 64).mentions) == 1


# ---- in a stage ------------------------------------------------------------------------------------------------------


def test_the_stage_learns_from_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is corrected to one object in the corner; words and numbers are sent, and no picture."""
    name = next(iter(small.fresh().codec.category_of))
    right = {
        **ERROR,
        "kind": "truncated",
        "mention": None,
        "objects": [{"name": name, "box": [0, 0, 8, 8]}],
        "ends": True,
    }
    tables = TablesInMemory()
    stage = stage_of(chain_of({**NSFT, "corrector": "language_model"}))
    with chat_server(lambda question: json.dumps({"errors": [right]})) as there:
        use(there, monkeypatch)
        (rows,) = first_step(stage, small.fitted(), small.fitted_examples(), cache=tables).updates
    assert there.questions
    assert all(question.startswith("Image: ") and len(question) < 5000 for question in there.questions)
    table = tables.made[CORRECTIONS]
    assert set(table["kind"]) == {"truncated"}
    assert len(table) == len(there.questions)
    assert any(row.correction for row in rows)


def test_a_server_that_is_not_named_is_told_before_the_first_stage() -> None:
    """Neither a suite nor a record can name it: there is no such setting."""
    reported = problems(Nsft(name="nsft", corrector="language_model"), ())
    assert reported == [
        f"then.corrector: {name}: expected in the environment, to ask a language model" for name in (ADDRESS, MODEL)
    ]
    with pytest.raises(ConfigError, match="unknown key objectives\\.0\\.then\\.address"):
        chain_of({**NSFT, "corrector": "language_model", "address": "https://elsewhere"})
    assert registry.names("corrector")["language_model"].endswith(":LanguageModel")
