"""The suite `zoo` has every model family, and each of them runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness import records, registry
from harness.run import runner
from harness.run.context import open_context
from harness.suite.cells import cells
from harness.suite.load import load, parse
from harness.suite.schema import Suite
from model_zoo.flamingo.architectures import FAMILIES as LANGUAGES
from model_zoo.settings.vlm import FAMILY_NAMES
from model_zoo.vlm.families import FAMILIES

SMALL = {"train_images": 16, "val_images": 4, "calibration_images": 8}


def test_it_has_every_family() -> None:
    models = load("zoo").models
    families = {(model.name, model.settings.get("family", model.settings.get("language"))) for model in models}
    trainable = {name for name in registry.names("model") if not name.startswith("oracle-")}
    assert {name for name, _ in families} == trainable
    assert {family for name, family in families if name == "vlm"} == set(FAMILIES)
    assert tuple(FAMILIES) == FAMILY_NAMES
    assert {language for name, language in families if name == "open_flamingo_hf"} == {
        f"toy-{name}" for name in LANGUAGES
    }
    assert len(models) == len(families)
    assert [objective.name for objective in load("zoo").objectives] == ["ce", "sed_sft"]


def in_small() -> Suite:
    """The shipped suite with few images and two steps."""
    content = yaml.safe_load(registry.shipped_suites()["zoo"].read_text())
    content["benchmark"] |= SMALL
    content["train"] |= {"steps": 2, "batch_size": 4}
    content["sample"] |= {"samples": 2, "max_tokens": 16}
    return parse(content, "zoo.yaml")


@pytest.mark.slow
def test_every_family_runs_under_both_objectives(tmp_path: Path) -> None:
    suite = in_small()
    runner.run(open_context(suite, None, "cpu"), tmp_path)
    finished = [records.read_record(folder) for folder in (tmp_path / "cells").iterdir()]
    assert len(finished) == len(list(cells(suite)))
    assert {(record.status, record.error) for record in finished} == {("finished", None)}
    trained = [record for record in finished if record.role == "trained"]
    assert len(trained) == 2 * len(suite.models)
    for record in trained:
        assert record.evaluations[-1].heldout_nll is not None
        assert record.curve[-1]["loss"] > 0
