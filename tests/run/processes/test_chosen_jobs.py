"""How many cells are computed at a time where nobody says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.commands.run import option_checks
from harness.errors import ConfigError
from harness.records import RECORD
from harness.run.executors import jobs
from harness.run.executors.jobs import choose_jobs
from harness.suite.load import parse
from harness.suite.schema import Suite
from harness.system import host

MODEL = {"name": "open_flamingo", "weights": "random"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, 64 GiB, no GPU."""
    monkeypatch.setattr(host, "usable_cores", lambda: 4)
    monkeypatch.setattr(host, "read_free_memory", lambda: 64.0)
    monkeypatch.setattr(jobs, "GPUS", ())
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def suite(seeds: int = 3, steps: int = 100, **changes: Any) -> Suite:
    """A suite with two trained cells for each seed."""
    content = {
        "suite": "s",
        "benchmark": {"name": "shapes"},
        "models": [MODEL],
        "objectives": ["ce", "dft"],
        "seeds": list(range(seeds)),
        "train": {"steps": steps},
        **changes,
    }
    return parse(content, "s.yaml")


def test_small_models_take_a_core_each(tmp_path: Path) -> None:
    assert choose_jobs(suite(), tmp_path, None, "auto") == 4


def test_there_are_no_more_than_cells_to_train(tmp_path: Path) -> None:
    assert choose_jobs(suite(), tmp_path, "*-ce-*", "cpu") == 3
    assert choose_jobs(suite(), tmp_path, "*-ce-s0", "cpu") == 1
    assert choose_jobs(suite(), tmp_path, "*oracle*", "cpu") == 1


def test_finished_cells_do_not_count(tmp_path: Path) -> None:
    for cell in ("open_flamingo-ce-s0", "open_flamingo-ce-s1", "open_flamingo-dft-s2", "open_flamingo-base-s0"):
        folder = tmp_path / "cells" / f"{cell}-01234567"
        folder.mkdir(parents=True)
        (folder / RECORD).touch()
    assert choose_jobs(suite(), tmp_path, None, "cpu") == 3


def test_a_few_steps_are_not_worth_another_process(tmp_path: Path) -> None:
    """Six cells of 33 steps are 198."""
    assert choose_jobs(suite(steps=33), tmp_path, None, "cpu") == 1
    assert choose_jobs(suite(steps=34), tmp_path, None, "cpu") == 4
    assert choose_jobs(suite(train={"epochs": 1}), tmp_path, None, "cpu") == 4


def test_memory_limits_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in ((1.0, 1), (7.9, 1), (8.0, 2), (15.0, 3), (None, 4)):
        monkeypatch.setattr(host, "read_free_memory", lambda free=free: free)
        assert choose_jobs(suite(), tmp_path, None, "cpu") == expected


def test_there_is_one_with_a_gpu_and_where_several_processes_compute_each_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_jobs(suite(), tmp_path, None, "cuda") == 1
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(jobs, "GPUS", (str(tmp_path / "nvidia0"),))
    assert choose_jobs(suite(), tmp_path, None, "auto") == 1
    assert choose_jobs(suite(), tmp_path, None, "cpu") == 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_jobs(suite(), tmp_path, None, "cpu") == 1


def test_there_is_one_where_a_model_is_not_small(tmp_path: Path) -> None:
    large = {"name": "open_flamingo_hf", "label": "large", "language": "random-3b"}
    assert choose_jobs(suite(models=[MODEL, large]), tmp_path, "*-ce-*", "cpu") == 1


@pytest.mark.parametrize(
    ("name", "settings", "small"),
    [
        ("open_flamingo", {}, True),
        ("open_flamingo", {"config": "spelled"}, True),
        ("open_flamingo_hf", {"language": "toy-mpt"}, True),
        ("open_flamingo_hf", {"language": "toy-mpt", "vision": "ViT-B-32"}, False),
        ("open_flamingo_hf", {"language": "random-3b"}, False),
        ("pix2seq", {}, True),
        ("pix2seq", {"image_size": 640}, False),
        ("pix2seq", {"backbone": "resnet50"}, False),
        ("vlm", {}, False),
        ("oracle-uniform", {}, False),  # it does not say
    ],
)
def test_models_say_whether_they_are_small(name: str, settings: dict[str, Any], small: bool) -> None:
    assert registry.is_small_model(name, settings) is small


@pytest.mark.parametrize(("text", "number"), [("auto", None), ("1", 1), ("16", 16)])
def test_a_number_or_auto_is_asked_for(text: str, number: int | None) -> None:
    assert option_checks.number_of_jobs(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        option_checks.number_of_jobs(text)
    assert refused.value.problems == (f"--jobs: expected a whole number of at least 1, or auto, got {text!r}",)
