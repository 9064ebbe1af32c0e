"""`detmodes speed runner` measures everything, and its table is a function of what it wrote. No speed is tested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness import images
from harness.commands import app
from harness.commands.speed import runner
from harness.errors import ConfigError
from harness.registry import resolve
from harness.system import timing
from harness.training.prefetch import WORKERS

DOCUMENT: dict[str, Any] = {
    "machine": {"cores": 2},
    "help": 0.25,
    "cell": {"cell": 1.5, "work": 1.0},
    "memory": {"1 and 8 times the images": {"mib": [600.0, 612.0], "mentions": [100, 1124], "goal": 12.0}},
    "waiting": {"0": [0.5, 0.25, 0.3], "2": [0.02, 0.05, 0.01]},
    "snapshot": {"seconds": 0.3, "mib": 20.0, "step": 0.1},
}
TABLE = """\
| what | measured | goal |
| --- | ---: | ---: |
| `detmodes --help` | 0.25 s | < 0.5 s |
| a cell of one step, after imports | 1.50 s | < 3 s |
| of this, training and evaluation | 1.00 s |  |
| peak memory, 1 and 8 times the images (100 and 1,124 mentions) | 600 and 612 MiB | at most 12 MiB more |
| share of training spent waiting for data, 0 workers | 30.0% |  |
| share of training spent waiting for data, 2 workers | 2.0% |  |
| a checkpoint | 0.30 s, 20.0 MiB, as long as 3.0 training steps |  |

Memory may grow by the rows of the tables, 4 KiB for each mention, and by 8 MiB, where freed memory goes back to the \
system (MALLOC_MMAP_THRESHOLD_=131072); batches have as many sequences, \
however many samples an image has. Waiting is that of the tiny model (steps of 16) for JPEG photographs of \
640 x 480 pixels.

Measured on cores 2."""


def call_here(
    reference: str, *arguments: Any, threads: int | None = None, environment: Mapping[str, str] = {}
) -> timing.Result:
    """In place of a process of its own, which would import everything once more."""
    del threads, environment
    return timing.Result(0.1, 0.1, 600.0, resolve(reference)(*arguments))


def test_the_table() -> None:
    assert runner.from_document(DOCUMENT) == TABLE


def test_what_a_table_needs_is_allowed_to_grow() -> None:
    """1,024 mentions of 4 KiB are 4 MiB; 8 more are always allowed."""
    little, much = (timing.Result(1.0, 1.0, 600.0, mentions) for mentions in (100, 1124))
    assert runner.allowed(little, much) == 12.0


def test_the_command_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Smaller than it is, but all of it."""
    monkeypatch.setattr(timing, "isolated", call_here)
    monkeypatch.setattr(runner, "LITTLE", (2, 2))
    monkeypatch.setattr(runner, "EIGHTFOLD", {"1 and 2 times the images": (2, 1)})
    monkeypatch.setattr(runner, "PLAN", runner.PLAN.model_copy(update={"steps": 1, "batch_size": 4}))
    monkeypatch.setattr(runner, "PHOTOGRAPHS", 4)
    output = tmp_path / "runner.json"
    with pytest.raises(SystemExit) as ended:
        app.app(["speed", "runner", "--repeats", "1", "--output", str(output)])
    assert ended.value.code == 0
    document = json.loads(output.read_text())
    assert capsys.readouterr().out == runner.from_document(document) + "\n"
    assert document["help"] > 0
    assert 0 < document["cell"]["work"] < document["cell"]["cell"]
    ((little, much),) = [row["mentions"] for row in document["memory"].values()]
    assert 0 < little < much
    assert set(document["waiting"]) == {"0", str(WORKERS)}
    assert all(0 < share < 1 for shares in document["waiting"].values() for share in shares)
    assert document["snapshot"]["seconds"] > 0
    assert document["snapshot"]["mib"] > 1


def test_photographs_are_of_the_usual_size_and_their_boxes_with_them(tmp_path: Path) -> None:
    (rendered,) = runner.rendered(1)
    (example,) = runner.photographs(tmp_path, 1)
    assert images.read(example).size == (640, 480)
    with Image.open(example.path) as picture:
        assert picture.format == "JPEG"
    for enlarged, before in zip(example.instances, rendered.instances, strict=True):
        assert enlarged.box.x / 640 == pytest.approx(before.box.x / rendered.width)
        assert enlarged.box.h / 480 == pytest.approx(before.box.h / rendered.height)


def test_an_output_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "help_seconds", lambda _: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="expected a place in an existing folder"):
        runner.command(1, tmp_path / "none" / "runner.json")
