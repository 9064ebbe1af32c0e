"""The suites `lvis-openflamingo-*`: as they are shipped, and end to end with toy weights of the same families on
photographs with LVIS annotations, where these are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import Record
from harness.run import runner
from harness.run.context import open_context
from harness.suite import load, schema

SIZES = ("4b", "9b")
TOYS = {"4b": "toy-gpt_neox", "9b": "toy-mpt"}


@pytest.mark.parametrize("size", SIZES)
def test_the_base_is_the_warm_up_in_the_same_coordinates(size: str) -> None:
    suite, warm_up = (load.load(f"lvis-openflamingo-{size}{end}") for end in ("", "-warmup"))
    assert suite.benchmark == warm_up.benchmark
    (model,), (before,) = suite.models, warm_up.models
    differing = {name for name in model.settings if model.settings[name] != before.settings[name]}
    assert differing == {"weights"}
    assert model.settings["weights"] == f"weights/{suite.suite}"
    assert (warm_up.train.targets, [objective.name for objective in warm_up.objectives]) == ("random", ["ce"])
    assert set(warm_up.seeds).isdisjoint(suite.seeds)


@pytest.mark.parametrize("size", SIZES)
def test_rows_seeds_precision_and_steps(size: str) -> None:
    suite = load.load(f"lvis-openflamingo-{size}")
    settings = {objective.label: (objective.name, objective.settings) for objective in suite.objectives}
    assert list(settings) == ["ce", "sed_sft_official", "sed_sft_w5_base"]
    assert settings["sed_sft_official"][1] == {
        "top_k": 2,
        "calibration_top_k": 10,
        "calibration_positions": "all",
        "calibration_examples": 100,
        "quantile": 0.3,
        "weight": 1.0,
        "mask": "live",
    }
    assert (settings["sed_sft_w5_base"][1]["weight"], settings["sed_sft_w5_base"][1]["mask"]) == (5.0, "base")
    assert (suite.seeds, suite.train.precision) == ((0, 1, 2), "bf16")
    assert suite.train.steps == round(2 * 100_170 / suite.train.batch_size)  # two epochs of LVIS v1 train
    assert suite.train.evaluations == (suite.train.steps // 2, suite.train.steps)


def in_small(name: str, weights: str, size: str) -> schema.Suite:
    """The shipped suite with a toy, few images and three steps; all else as it is."""
    shipped = load.load(name)
    toy = {"name": "open_flamingo_hf", "label": shipped.models[0].label, "language": TOYS[size], "weights": weights}
    early = {"eval_at": (2,), "eval_images": 2} if shipped.train.eval_at else {}
    short = {"steps": 3, "batch_size": 4, "micro_batch": 2, "warm_up": 1, "log_every": 1, "max_objects": {"number": 3}}
    content = shipped.model_dump(mode="python", exclude_defaults=True)
    content["benchmark"] = {"name": "lvis", "train_images": 8, "val_images": 4, "calibration_images": 4}
    content["models"] = [{**toy, "bins": 1000}]
    for objective in content["objectives"]:
        if "calibration_examples" in objective:
            objective["calibration_examples"] = 3
    content["seeds"] = shipped.seeds[:1]
    content["train"] = {**content["train"], **short, **early}
    content["sample"] = {**content["sample"], "samples": 2, "max_tokens": 40}
    return load.parse(content, name)


def run(name: str, weights: str, size: str, data: Path, output: Path) -> dict[str, tuple[Record, Path]]:
    context = open_context(in_small(name, weights, size), data, "cpu")
    made = runner.run(context, output)
    assert [(record.status, record.error) for record in made] == [("finished", None)] * len(made)
    planned = runner.plan(context, output)
    return {record.label: (record, item.folder) for record, item in zip(made, planned, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_warm_up_and_suite_run_end_to_end(size: str, shared: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared("data/coco128-lvis")
    warm = run(f"lvis-openflamingo-{size}-warmup", "random", size, data, tmp_path / "warm")
    base = warm["ce"][1]
    records = run(f"lvis-openflamingo-{size}", str(base), size, data, tmp_path / "out")
    before, after = (records["base"][0].evaluations[-1].heldout_nll, warm["ce"][0].evaluations[-1].heldout_nll)
    assert before == pytest.approx(after, rel=1e-2)  # what was warmed up is the base; bf16 may round otherwise
    for label in ("ce", "sed_sft_official", "sed_sft_w5_base"):
        record = records[label][0]
        assert [(item.step, item.images) for item in record.evaluations] == [(2, 2), (3, None)]
        assert record.left_out_objects is not None
        assert record.left_out_objects["objects"] > 0
        assert (record.threshold is None) == (label == "ce")
