"""Suites whose prompts name categories, from end to end, and what a model learns from such prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from harness import records
from harness.commands.models import predict
from harness.errors import ConfigError
from harness.inference.padding import target_batch
from harness.report import results
from harness.report.renderers import text
from harness.run import runner
from harness.run.context import Context, open_context
from harness.sequence import codec, prompts
from harness.sequence.targets import target
from harness.suite.schema import Suite
from harness.types import Example
from model_zoo.flamingo.toy import OpenFlamingo
from tests.run.mini_runs import cell_folder
from tests.support import small

PROMPT: dict[str, Any] = {"kind": "categories", "chunk": 7, "negatives": 6}
PROBE = {"every": 2, "images": 3}


def suite(**prompt: Any) -> Suite:
    """What keeps what the base selects, a chain, and a probe. An untrained model seldom ends a sequence."""
    sed = {"name": "sed_sft", "top_k": 5, "quantile": 0.5, "weight": 5.0, "mask": "base"}
    chain = {"name": "ce", "label": "chain", "then": {"name": "grpo", "steps": 1, "images": 4, "samples": 2}}
    content: dict[str, Any] = {
        "prompt": {**PROMPT, **prompt},
        "objectives": ["ce", sed, chain],
        "train": {"steps": 2, "batch_size": 4, "targets": "random", "probe": PROBE},
        "sample": {"samples": 2, "max_tokens": 6, "temperatures": [0.5]},
    }
    return small.mini_suite(**content)


def context_of(suite: Suite) -> Context:
    return open_context(suite, None, "cpu")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    finished = runner.run(context_of(suite()), folder)
    assert {record.error for record in finished} == {None}
    assert {record.label for record in finished} >= {"base", "ce", "sed_sft", "chain"}
    return folder


# ---- what a run is asked -------------------------------------------------------------------------------------------


def test_every_image_is_asked_about_all_that_was_verified() -> None:
    """Everything is annotated in shapes: all its categories, seven at a time."""
    context = context_of(suite())
    ids = [category.id for category in context.benchmark.categories]
    chunks = [tuple(ids[start : start + 7]) for start in range(0, len(ids), 7)]
    questions = context.questions("val", 0)
    assert [question.asked for question in questions] == chunks * len(context.benchmark.split("val"))
    assert context.questions("val", 1) == questions
    training = context.questions("train", 0)
    for example in context.benchmark.split("train"):
        asked = [question for question in training if question.image_id == example.image_id]
        named = [category for question in asked for category in question.asked or ()]
        assert set(named) == prompts.taught(example, 6, 0)
        assert [i for question in asked for i in question.instances] == sorted(
            example.instances, key=lambda instance: (named.index(instance.category_id) // 7, instance.id)
        )
    assert context.questions("train", 1) != training
    assert context_of(small.mini_suite()).questions("train", 0) == context.benchmark.split("train")


def test_nothing_to_ask_about_is_said() -> None:
    context = context_of(suite())

    class Silent:
        categories = context.benchmark.categories

        def split(self, name: str) -> tuple[Example, ...]:
            unknown = replace(small.train_examples(1)[0], instances=(), negative=frozenset())
            return () if name == "calibration" else (unknown,)

    context.benchmark = Silent()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"^prompt: no image of the val split has a verified category"):
        context.questions("val", 0)
    assert context.questions("calibration", 0) == ()
    everywhere = replace(context, suite=suite(evaluate="all"))
    assert len(everywhere.questions("val", 0)) > 1  # about what is not known to be there


def test_a_model_that_cannot_be_asked_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "Asks", type("Asks", (), {}))  # what no vocabulary is
    with pytest.raises(ConfigError, match=r"^prompt: kind: categories: this model's NameVocabulary have no ask"):
        runner.run(context_of(suite()), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- what it leaves ------------------------------------------------------------------------------------------------


def test_the_prompt_is_recorded_and_part_of_what_tells_cells_apart(output: Path, tmp_path: Path) -> None:
    recorded = [records.read_record(folder) for folder in (output / "cells").iterdir()]
    assert {record.role for record in recorded} == {"base", "trained", "oracle"}
    for record in recorded:
        assert record.cell.prompt == {**PROMPT, "evaluate": "verified"}
    planned = [
        {item.digest for item in runner.plan(context_of(changed), tmp_path)}
        for changed in (suite(), suite(negatives=5), suite(chunk=8), suite(evaluate="all"))
    ]
    assert len(set().union(*planned)) == sum(map(len, planned))


def test_tables_have_one_row_for_each_image_and_sample(output: Path) -> None:
    samples = pd.read_parquet(cell_folder(output, "ce") / "samples.parquet")
    images = [example.image_id for example in small.benchmark().split("val")]
    for _, group in samples.groupby(["temperature", "sample"]):
        assert group["image_id"].tolist() == images
    assert set(zip(samples["temperature"], samples["sample"], strict=True)) == {
        *((0.0, 0),),
        *((heat, sample) for heat in (0.5, 1.0) for sample in (1, 2)),
    }
    chunks = -(-len(small.benchmark().categories) // 7)
    words = [len(text.split()) for text in samples["text"]]
    assert 6 < max(words) <= 6 * chunks  # max_tokens is that of one question


def test_the_oracles_say_all_there_is(output: Path) -> None:
    for folder in (output / "cells").glob("oracle-*"):
        (evaluation,) = records.read_record(folder).evaluations
        assert evaluation.metrics["AP"] == pytest.approx(1.0)
        assert evaluation.diversity["recall"] == 1.0


def test_the_probe_looks_at_whole_images(output: Path) -> None:
    record = records.read_record(cell_folder(output, "ce"))
    assert [row["step"] for row in record.probe] == [0, 2]
    assert all(row["entropy"] > 0 for row in record.probe)


def test_a_report_is_made(output: Path) -> None:
    assert "oracle-uniform" in text.to_markdown(results.load(output))


def test_a_run_that_is_finished_is_not_run_again(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(runner, "compute", fail)
    assert {record.status for record in runner.run(context_of(suite()), output)} == {"finished"}


def test_predictions_of_such_a_cell_ask_about_every_category(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MAX_TOKENS", 6)
    asked: list[Any] = []
    generate = OpenFlamingo.generate

    def listening(self: Any, examples: Any, *rest: Any) -> Any:
        asked.extend(example.asked for example in examples)
        return generate(self, examples, *rest)

    monkeypatch.setattr(OpenFlamingo, "generate", listening)
    path = small.benchmark().split("val")[0].path
    (predicted,) = predict.predict([path], str(cell_folder(output, "ce")), samples=2, temperature=1.0, seed=0)
    ids = tuple(category.id for category in small.benchmark().categories)
    assert asked == [ids[start : start + 7] for start in range(0, len(ids), 7)]
    assert len(predicted.samples) == 2
    assert len(predicted.scores) == len(predicted.greedy.mentions)


# ---- what is learnt ------------------------------------------------------------------------------------------------


def test_what_is_answered_depends_on_what_is_asked() -> None:
    """Two pictures, each asked about what is there and about what is not: one model learns both answers to each."""
    adapter = small.fresh()
    questions = []
    for example in [e for e in small.benchmark().split("train") if len(e.instances) == 1][:2]:
        (present,) = prompts.present(example)
        (absent,) = sorted(example.negative)[:1]
        questions += [
            q for c in (present, absent) for q in prompts.about(example, [c], small.benchmark().categories, 1)
        ]
    sequences = [target(q, adapter.codec, "canonical") for q in questions]
    assert [len(sequence) for sequence in sequences] == [6, 1, 6, 1]  # an object and the end; the end alone
    batch = target_batch(sequences, adapter.codec, [adapter.codec.prompt(q) for q in questions])
    pixels = adapter.pixels(questions)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=1e-3)
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10)
        loss = F.cross_entropy(adapter.logits(pixels, batch.inputs).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    adapter.model.eval()
    greedy = [of_question[0].tokens for of_question in adapter.generate(questions, [0.0], 0, 10)]
    assert greedy == sequences
