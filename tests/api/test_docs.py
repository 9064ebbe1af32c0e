"""What docs/howto/python.md and README show of Python runs as it is written there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from tests.api import test_losses as toy
from tests.api.test_scoring import DETECTIONS, SAMPLES, TRUTH
from tests.support import fake_cells

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages name, in the folder where Python is."""
    (tmp_path / "val.json").write_text(json.dumps(TRUTH))
    (tmp_path / "detections.json").write_text(json.dumps(DETECTIONS))
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAMPLES))
    fake_cells.write_run(tmp_path / "results" / "quickstart", fake_cells.suite(), images=12)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names() -> dict[str, Any]:
    """What the examples take for granted: a model, a way to make batches, rows to train on and rows held out."""
    rows, arguments = toy.rows_of_the_plan(), TrainingArguments("out", max_steps=2, remove_unused_columns=False)
    return {
        "model": toy.language_model(),
        "collate": toy.collate,
        "train": rows,
        "heldout": toy.heldout(),
        "args": arguments,
    }


@pytest.mark.filterwarnings("default")  # of the Trainer's own, about a machine without GPU
def test_the_page_runs_as_it_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = names()
    exec("import detmodes", space)
    found = blocks("docs/howto/python.md")
    for block in found:
        exec(compile(block, "docs/howto/python.md", "exec"), space)
    assert len(found) == 8
    printed = capsys.readouterr().out
    assert "H1 " in printed
    assert "1.0 0.8333" in printed
    assert set(space["run"].to_pandas("mentions")["row"]) >= {"oracle-uniform", "oracle-collapsed"}
    assert space["logits"].grad.abs().sum() > 0
    assert (place / "runs" / "mine" / "suite.json").is_file()


@pytest.mark.filterwarnings("default")
def test_the_example_of_the_readme_runs_as_it_is_written(place: Path) -> None:
    example, *_ = [block for block in blocks("README.md") if "Trainer" in block]
    assert example in blocks("docs/howto/python.md")
    assert len([line for line in example.splitlines() if line]) == 6
    space = names()
    before = {name: value.clone() for name, value in space["model"].state_dict().items()}
    exec(compile(example, "README.md", "exec"), space)
    assert 0 < space["loss"].settings["threshold"] <= 1
    assert space["loss"].calls > 0
    assert any(not value.equal(before[name]) for name, value in space["model"].state_dict().items())
    assert not (place / "runs").exists()
