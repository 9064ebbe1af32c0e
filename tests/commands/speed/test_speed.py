"""`detmodes speed objectives`: it measures every objective, and its tables are a function of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import objectives
from harness.commands.speed import objectives as speed
from harness.errors import ConfigError
from harness.registry import resolve
from harness.system import timing

SMALL = 64, 70, 8
"""Positions, vocabulary, width."""


def call_here(reference: str, *arguments: Any) -> timing.Result:
    """In place of a process of its own, which would import torch once more for every row."""
    return timing.Result(0.1, 0.1, 1.0, max(resolve(reference)(*arguments), 1.0))


def test_every_objective_is_measured() -> None:
    assert {name for name, _ in speed.CASES.values()} == set(objectives.OBJECTIVES)


@pytest.mark.slow
def test_the_command_prints_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "isolated", call_here)
    monkeypatch.setattr(speed, "STEPS_PER_LOSS", 1)
    output = tmp_path / "speed.json"
    assert speed.command(*SMALL, repeats=1, output=output) == 0
    document = json.loads(output.read_text())
    printed = capsys.readouterr().out
    assert printed == speed.from_document(document) + "\n"
    assert list(document["steps"]) == list(speed.CASES)
    assert document["steps"]["ce"]["memory"] == 1.0
    assert all(row["time"] > 0 for row in document["steps"].values())
    assert document["losses"][speed.MATERIALISED]["time"] == 1.0
    assert set(document["losses"]) == {
        speed.MATERIALISED,
        *("ce", "label_smoothing", "focal", "dft", "eaft", "entropy_bonus", "gem", "sed_sft", "sed_sft none"),
        *("mixture", "precision_recall"),
    }
    assert "N = 64, V = 70, D = 8" in printed


def test_an_output_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "training_steps", lambda _: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=r"expected a place in an existing folder"):
        speed.command(*SMALL, repeats=1, output=tmp_path / "none" / "speed.json")
