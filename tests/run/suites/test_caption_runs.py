"""The tasks with captions from suite to report, on the tiny model: what is recorded, what is shown, what is learnt."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from harness import records
from harness.commands.models.predict import open_model
from harness.errors import ConfigError
from harness.evaluation.answers import read_and_match
from harness.evaluation.evaluate import figure_tables
from harness.evaluation.generation import generate
from harness.inference.padding import target_batch
from harness.metrics.samples.mentions import truth_of
from harness.records import Record, layout
from harness.report import figures, results
from harness.report.renderers import html
from harness.report.renderers.text import to_markdown
from harness.report.rows import table
from harness.run import runner
from harness.run.context import Context, build, open_context
from harness.run.task import without_boxes
from harness.sequence import CaptionCodec, Task, for_task
from harness.sequence.targets import target
from harness.suite.schema import SampleSettings
from tests.support import small

TRAIN = {"steps": 2, "batch_size": 4, "eval_at": [1], "probe": {"every": 1, "images": 2}}
SAMPLES = 3
CEILING, FLOOR = "oracle-uniform", "oracle-collapsed"


def context(task: Task) -> Context:
    sample = {"samples": SAMPLES, "max_tokens": 40}
    return open_context(small.mini_suite(task=task, objectives=["ce"], train=TRAIN, sample=sample), None, "cpu")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of `task: caption`."""
    return run("caption", tmp_path_factory.mktemp("caption"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of `task: caption+boxes`."""
    return run("caption+boxes", tmp_path_factory.mktemp("both"))


def run(task: Task, folder: Path) -> Path:
    failed = [record.error for record in runner.run(context(task), folder) if record.status == "failed"]
    assert not failed
    return folder


def folder_of(output: Path, label: str) -> Path:
    (path,) = (folder for folder in (output / layout.CELLS).iterdir() if f"{label}-s0" in folder.name)
    return path


def record_of(output: Path, label: str) -> Record:
    return records.read_record(folder_of(output, label))


# ---- records -----------------------------------------------------------------------------------------------------


def test_the_oracles_bound_captions(captions: Path) -> None:
    """The uniform one names every object, in any order and by any name; the collapsed one always says the same."""
    uniform, collapsed = (record_of(captions, label).evaluations[-1].diversity for label in (CEILING, FLOOR))
    for values in (uniform, collapsed):
        assert [values[name] for name in ("recall", "precision", "malformed_rate", "truncation_rate")] == [1, 1, 0, 0]
        assert values["box_spread"] is None
    assert collapsed["name_diversity"] == collapsed["order_distance"] == 0
    assert uniform["name_diversity"] is not None
    assert uniform["order_distance"] is not None
    assert uniform["name_diversity"] > 0.5
    assert uniform["order_distance"] > 0.2


@pytest.mark.parametrize("label", ["base", "ce", CEILING])
def test_a_caption_has_no_ap(captions: Path, label: str) -> None:
    record = record_of(captions, label)
    assert record.cell.benchmark["task"] == record.data["task"] == "caption"
    for evaluation in record.evaluations:
        assert (evaluation.metrics, evaluation.consensus) == ({}, {})
        assert evaluation.diversity["recall"] is not None
    tables = {name: pd.read_parquet(folder_of(captions, label) / f"{name}.parquet") for name in records.TABLES}
    assert len(tables["detections"]) == 0
    images = len(small.benchmark().split("val"))
    assert len(tables["samples"]) == images * (1 + SAMPLES) * len(record.evaluations)
    mentions = tables["mentions"]
    assert (mentions["w"].eq(64) & mentions["h"].eq(64) & mentions["category_score"].isna()).all()


def test_captions_and_boxes_have_an_ap(both: Path) -> None:
    assert record_of(both, "ce").cell.benchmark["task"] == "caption+boxes"
    for label in (CEILING, FLOOR):
        evaluation = record_of(both, label).evaluations[-1]
        assert (evaluation.metrics["AP"], evaluation.consensus["AP"], evaluation.diversity["recall"]) == (1, 1, 1)
    texts = pd.read_parquet(folder_of(both, FLOOR) / "samples.parquet")["text"]
    assert texts.str.fullmatch(r"(\w+ ; )*\w+ \| (\w+( <loc\d+>){4}( ; )?)+ <end>").all()


def test_cells_of_other_tasks_are_other_cells() -> None:
    """And those of boxes are what they were before there were tasks."""
    plain = runner.plan(context("boxes"), Path("out"))
    assert [item.info.benchmark for item in plain] == [small.benchmark().describe()] * len(plain)
    digests = [item.digest for task in ("caption", "caption+boxes") for item in runner.plan(context(task), Path("out"))]
    digests += [item.digest for item in plain]
    assert len(set(digests)) == len(digests)


# ---- what is shown -----------------------------------------------------------------------------------------------


def test_the_report_of_captions(captions: Path) -> None:
    loaded = results.load(captions)
    text = to_markdown(loaded)
    assert "### Objects mentioned (K = 3 samples)\n\n| row | seeds | precision | recall | hallucination rate |" in text
    for absent in ("AP", "Detection", "Consensus", "box spread", "evaluator", "Scores"):
        assert absent not in text
    assert "a mentioned category is right as often as the image has instances of it" in text
    rows = {row.label: row.figures for row in table(loaded)}
    assert rows[CEILING]["precision"].estimate == rows[CEILING]["recall"].estimate == 1
    assert all(math.isnan(row[name].estimate) for row in rows.values() for name in ("AP", "consensus_AP"))
    assert "ap-vs-diversity" not in figures.available(loaded)
    assert {"coverage", "gallery"} <= set(figures.available(loaded))
    assert "–" in html.to_html(loaded)  # noqa: RUF001 (an en dash: undefined)


def test_the_report_of_captions_and_boxes(both: Path) -> None:
    text = to_markdown(results.load(both))
    assert "### Detection (greedy answer)" in text
    assert "Objects mentioned" not in text


def test_predict_draws_boxes(captions: Path, both: Path) -> None:
    with pytest.raises(ConfigError, match="its model writes captions; predict needs a cell whose task has boxes"):
        open_model(str(folder_of(captions, "ce")))
    assert isinstance(open_model(str(folder_of(both, "ce"))).codec, CaptionCodec)


def test_the_output_names_its_task(captions: Path) -> None:
    assert json.loads((captions / layout.SUITE).read_text())["task"] == "caption"


# ---- models that write text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["caption", "caption+boxes"])
def test_a_family_with_its_own_format(task: Task) -> None:
    pytest.importorskip("transformers")
    suite = small.mini_suite(task=task, models=[{"name": "vlm", "family": "qwen2_5_vl"}])
    context = open_context(suite, None, "cpu")
    adapter = build(context, suite.models[0])
    example = max(context.benchmark.split("train"), key=lambda example: len(example.instances))
    tokens = target(example, adapter.codec, "random", np.random.default_rng(0))
    parsed = adapter.codec.decode(tokens, example.width, example.height)
    assert sorted(mention.category_id or 0 for mention in parsed.mentions) == sorted(
        i.category_id for i in example.instances
    )
    assert adapter.codec.text(tokens).endswith("<end>" if task == "caption" else "}] <end>")
    ((greedy, _),) = adapter.generate([example], [0.0, 1.0], 0, 8)
    adapter.codec.decode(greedy.tokens, example.width, example.height)


# ---- learning ----------------------------------------------------------------------------------------------------


def order_distance_after(targets: Literal["canonical", "random"]) -> float:
    """Fine-tunes the shipped base on captions of images of two objects, and samples them."""
    adapter = small.fresh(weights="shipped")
    adapter.codec = for_task(adapter.codec, "caption")
    shown = map(without_boxes, small.benchmark().split("train"))
    examples = [e for e in shown if len(e.instances) == 2 == len({item.category_id for item in e.instances})]
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=3e-4, weight_decay=0.0)
    rng, pixels = np.random.default_rng(0), adapter.pixels(examples)
    for _ in range(30):
        batch = target_batch([target(example, adapter.codec, targets, rng) for example in examples], adapter.codec)
        loss = F.cross_entropy(adapter.logits(pixels, batch.inputs).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    categories = small.benchmark().categories
    truth = truth_of(examples, categories)
    emitted = generate(adapter, examples, 1.0, SampleSettings(samples=8, max_tokens=16), seed=0)
    answers = read_and_match(adapter, examples, truth, categories, [samples[1:] for samples in emitted], 1.0)
    assert (answers.verification.instance >= 0).mean() > 0.8, "it has not learnt what to say"
    return float(np.nanmean(figure_tables(truth, answers, categories)[1].order_distance))


def test_canonical_captions_collapse_the_order() -> None:
    """One order is learnt, of two that are as good: of two samples in random order half are opposite."""
    canonical, random = order_distance_after("canonical"), order_distance_after("random")
    assert canonical < 0.1
    assert random > 0.25
