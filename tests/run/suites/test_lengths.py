"""Prompts, targets and answers beyond what a model can read are told before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.report import notes
from harness.report.results import load
from harness.run import runner
from harness.run.context import Context, build, open_context
from harness.run.lengths import Lengths, cut_targets, readable
from harness.sequence import Codec, CoordinateSpace, vocabulary_names
from harness.sequence.targets import fewer_objects, target
from harness.suite.train_settings import MaxObjects, Train
from harness.training.stage import sampled_tokens
from harness.types import Category, Example
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.tiny import PieceTokens

PLAIN: dict[str, Any] = {"objectives": ["ce"], "train": {"steps": 3, "batch_size": 4}}


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**{**PLAIN, **changes}), None, "cpu")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the model can read: set its only item."""
    most: list[int | None] = [None]
    monkeypatch.setattr(OpenFlamingo, "context_length", property(lambda self: most[0]))
    return most


def places(example: Example) -> int:
    """All of prompt and canonical target but the last token, which is only predicted."""
    codec = small.fresh().codec
    return len(codec.prompt(example)) + len(target(example, codec, "canonical")) - 1


def told(opened: Context, folder: Path) -> list[str]:
    try:
        runner.plan(opened, folder)
    except ConfigError as error:
        return list(error.problems)
    return []


def test_a_target_that_just_fits_is_no_problem_and_one_more_is(reads: list[int | None], tmp_path: Path) -> None:
    every = [places(example) for example in small.benchmark().split("train")]
    most = max(every)
    assert most > 13  # the prompt and answers of 12 tokens fit throughout
    reads[0] = most
    assert told(context(), tmp_path) == []
    reads[0] = most - 1
    share = 100 * every.count(most) / len(every)
    assert told(context(), tmp_path) == [
        f"model open_flamingo: objectives.ce: prompt and target take up to {most} places, expected at most the "
        f"{most - 1} that it can read; {share:.3g}% of the training images take more; give train.max_objects"
    ]
    limited = {**PLAIN["train"], "max_objects": 1}
    assert told(context(train=limited), tmp_path) == []
    assert told(context(train={**limited, "max_objects": {"number": 1, "drop": "smallest"}}), tmp_path) == []


def test_an_answer_may_end_where_the_context_does(reads: list[int | None], tmp_path: Path) -> None:
    """Two tokens of prompt and 50 of the answer, whose last one is never read."""
    reads[0] = 51
    assert told(context(sample={"samples": 2, "max_tokens": 50}), tmp_path) == []
    assert told(context(sample={"samples": 2, "max_tokens": 51}), tmp_path) == [
        "sample.max_tokens: prompt and answer of model open_flamingo may take 52 places, expected at most the 51 that "
        "it can read, for 100% of the validation images; use at most 50"
    ]


def test_the_base_alone_is_asked_too(reads: list[int | None], tmp_path: Path) -> None:
    reads[0] = 10
    assert len(told(context(objectives=[]), tmp_path)) == 1


def test_held_out_examples_are_those_that_can_be_read(reads: list[int | None]) -> None:
    opened = context()
    examples = opened.benchmark.split("calibration")
    made = build(opened, opened.suite.models[0])
    assert readable(made, examples) == examples
    most = reads[0] = sorted(map(places, examples))[5]
    assert readable(made, examples) == tuple(example for example in examples if places(example) <= most)
    assert 5 < len(readable(made, examples)) < len(examples)


@pytest.mark.parametrize("targets", ["canonical", "random", "all(3)"])
@pytest.mark.parametrize("limit", [None, MaxObjects(number=2), MaxObjects(number=2, drop="smallest")])
def test_no_target_is_longer_than_foretold(targets: str, limit: MaxObjects | None) -> None:
    """Names of one to six tokens each, drawn 40 times."""
    long = [
        Category(c.id, (*c.names, f"{c.name}_or_very_much_like_it" if c.id % 2 else f"quite_{c.name}"), None)
        for c in small.benchmark().categories
    ]
    codec = Codec(long, PieceTokens(vocabulary_names(long), 65), CoordinateSpace(65))
    lengths, plan = Lengths(codec), Train(targets=targets, max_objects=limit)
    rng = np.random.default_rng(0)
    reached = 0
    for example in small.train_examples(12):
        most = lengths.trained(example, plan)
        assert most <= lengths.bound(example)
        for epoch in range(40):
            reduced = example if limit is None else fewer_objects(example, limit.number, limit.drop, 0, epoch)
            tokens = target(reduced, codec, "canonical" if targets == "canonical" else "random", rng)
            assert len(codec.prompt(example)) + len(tokens) - 1 <= most
            reached += len(codec.prompt(example)) + len(tokens) - 1 == most
    assert reached > 0


def test_a_record_says_how_many_targets_do_not_fit_into_an_answer(tmp_path: Path) -> None:
    """Counted by hand: all but the prompt and with the end, every name being one token."""
    adapter, examples = small.fresh(), small.benchmark().split("train")
    sizes = [len(target(example, adapter.codec, "canonical")) for example in examples]
    assert min(sizes) < 12 < max(sizes)
    for most in (min(sizes) - 1, 12, max(sizes)):
        share = sum(size > most for size in sizes) / len(sizes)
        assert cut_targets(adapter, examples, Train(), most) == pytest.approx(share)
    shortest = Train(max_objects=MaxObjects(number=1))
    assert cut_targets(adapter, examples, shortest, 12) < cut_targets(adapter, examples, Train(), 12)
    context_ = context(sample={"samples": 2, "max_tokens": 12})
    runner.run(context_, tmp_path)
    results = load(tmp_path)
    (trained,) = (record for record in results.records.values() if record.role == "trained")
    assert trained.cut_targets == pytest.approx(cut_targets(adapter, examples, Train(), 12))
    (note,) = (line for line in notes.caption(results) if "longer than an answer" in line)
    assert f"{trained.cut_targets:.1%}" in note
    assert "sample.max_tokens: 12" in note


def test_samples_of_training_end_where_the_context_does(reads: list[int | None]) -> None:
    work = small.work_of(small.fresh())
    longest = 2 * max(len(target(example, work.adapter.codec, "canonical")) for example in work.examples)
    assert sampled_tokens(work) == longest
    prompt = len(work.adapter.codec.tokens.prompt)
    reads[0] = longest + prompt - 1
    assert sampled_tokens(work) == longest
    reads[0] = longest + prompt - 2
    assert sampled_tokens(work) == longest - 1
