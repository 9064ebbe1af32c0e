"""What docs/howto/python.md and README show of Python runs as it is written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.test_scoring import DETECTIONS, SAMPLES, TRUTH
from tests.support import fake_cells

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The files that the pages name, in the folder where Python is."""
    (tmp_path / "val.json").write_text(json.dumps(TRUTH))
    (tmp_path / "detections.json").write_text(json.dumps(DETECTIONS))
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAMPLES))
    fake_cells.write_run(tmp_path / "results" / "quickstart", fake_cells.suite(), images=12)
    return tmp_path


BEFORE = """
from transformers import TrainingArguments
from tests.api import toy

model, collate, train, heldout = toy.language_model(), toy.collate, toy.rows_of_the_plan(), toy.heldout()
args = TrainingArguments("out", max_steps=2, remove_unused_columns=False, save_strategy="no")
"""
"""What the examples take for granted: a model, a way to make batches, rows to train on and rows held out."""


def output_of(examples: str, after: str, folder: Path) -> str:
    """Runs examples, one after the other, as a program in the folder; `after`: what must hold then."""
    (folder / "examples.py").write_text(f"{BEFORE}\n{examples}\n{after}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "examples.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_page_runs_as_it_is_written(place: Path) -> None:
    examples = blocks("docs/howto/python.md")
    assert len(examples) == 8
    after = """
assert set(run.to_pandas("mentions")["row"]) >= {"oracle-uniform", "oracle-collapsed"}
assert logits.grad.abs().sum() > 0
assert loss.calls == 4  # two steps of two trainers
assert 0 < loss.settings["threshold"] <= 1
assert toy.largest_difference(model, toy.language_model()) > 0
"""
    printed = output_of("import detmodes\n" + "\n".join(examples), after, place)
    assert "1.0 0.8333" in printed  # a temperature and the recall there
    assert "H1 " in printed
    assert (place / "runs" / "mine" / "suite.json").is_file()


def test_the_example_of_the_readme_is_on_the_page_and_short() -> None:
    example, *_ = [block for block in blocks("README.md") if "Trainer" in block]
    assert example in blocks("docs/howto/python.md")
    assert len([line for line in example.splitlines() if line]) == 6
