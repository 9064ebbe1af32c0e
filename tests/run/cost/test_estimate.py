"""Estimates of a run: without a forward pass and without weights, more for more work, and warnings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import registry
from harness.commands.run.plan import estimate_cells
from harness.errors import ConfigError
from harness.inference.outline import makes_outlines, making_outlines
from harness.protocols import Adapter
from harness.run import runner
from harness.run.context import Context, open_context
from harness.run.cost.benchmark import measure_device
from harness.run.cost.estimate import Estimator
from harness.run.cost.hardware import DEVICES, device_named, stated_flops
from harness.run.cost.result import CellEstimate, warnings_of
from harness.suite.cells import cells
from harness.suite.load import parse
from model_zoo import checkpoint
from model_zoo.flamingo import language, released_sizes
from tests.support import small

H100 = DEVICES["h100"]
SHAPES = {"name": "shapes", "domain": "plain", "train_images": 24, "val_images": 12, "calibration_images": 16}


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**changes), None, "cpu")


def estimates(given: Context) -> dict[str, CellEstimate]:
    """By the label of the row."""
    estimator = Estimator(given, H100)
    assert estimator.problems() == []
    return {cell.label: estimator.estimate(cell) for cell in cells(given.suite)}


def seconds(phase: str, label: str = "ce", **changes: Any) -> float:
    return estimates(context(**changes))[label].phases[phase].seconds


def of_size(name: str, trains: str, **train: Any) -> Context:
    content = {
        "suite": "large",
        "benchmark": SHAPES,
        "models": [{"name": "open_flamingo_hf", "language": name, "every": 4, "trains": trains}],
        "objectives": ["ce"],
        "seeds": [0],
        "train": {"steps": 2, "batch_size": 8, "micro_batch": 1, **train},
    }
    return open_context(parse(content, "large"), None, "cpu")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a model was asked, or weights were read")


# ---- outlines --------------------------------------------------------------------------------------------------------


def test_nothing_is_computed_and_no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = context()
    monkeypatch.setattr(nn.Module, "__call__", refuse)
    monkeypatch.setattr(checkpoint, "read", refuse)
    monkeypatch.setattr(checkpoint, "sha256", refuse)
    estimated = estimates(given)
    assert set(estimated["ce"].phases) == {"training", "generation", "scoring", "checkpoints"}
    assert set(estimated["base"].phases) == {"generation", "scoring"}
    assert estimated["oracle-uniform"] == CellEstimate()
    assert all(phase.seconds > 0 for phase in estimated["ce"].phases.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("open_flamingo", {}),
        ("open_flamingo_hf", {"trains": "flamingo"}),
        ("open_flamingo_hf", {"language": "toy-opt", "vision": "timm:resnet10t", "image_size": 64}),
        ("pix2seq", {"trains": "decoder"}),
        ("vlm", {"family": "qwen3_vl"}),
    ],
)
def test_an_outline_has_the_parameters_of_the_model(name: str, settings: dict[str, Any]) -> None:
    categories = small.benchmark().categories
    built = registry.model(name, categories, settings)
    with making_outlines() as notes:
        outline = registry.model(name, categories, settings)
    assert notes == []
    assert not makes_outlines()
    assert isinstance(built, Adapter)
    assert isinstance(outline, Adapter)
    tensors = [
        {key: (tuple(p.shape), p.dtype, p.requires_grad) for key, p in adapter.model.named_parameters()}
        for adapter in (built, outline)
    ]
    assert tensors[0] == tensors[1]
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert outline.codec.tokens.size == built.codec.tokens.size


def test_a_released_model_that_is_not_here_has_the_shape_of_the_release() -> None:
    with making_outlines() as notes:
        made = language.load("weights/RedPajama-INCITE-Base-3B-v1", ["sofa"], trusted=False)
    size = released_sizes.SIZES["4b"]
    assert (made.model.config.hidden_size, made.model.config.num_hidden_layers) == (size.width, size.layers)
    assert notes == [
        "language weights/RedPajama-INCITE-Base-3B-v1 is not here: taken for the released model, one token a word of a "
        "name"
    ]
    hub = "hub:mosaicml/mpt-7b@0123456"
    assert released_sizes.size_of_repository(hub) == released_sizes.SIZES["9b"]
    assert released_sizes.size_of_repository("weights/other") is None


def test_a_folder_is_read_for_its_configuration_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = language.load("toy-llama", ["sofa", "lamp"], trusted=False)
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with making_outlines():
        outline = language.load(str(tmp_path), [], trusted=False)
    expected = {name: tuple(p.shape) for name, p in made.model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in outline.model.named_parameters()} == expected
    assert {p.dtype for p in outline.model.parameters()} == {torch.float32}


# ---- more work, more cost --------------------------------------------------------------------------------------------


def test_cost_grows_with_work() -> None:
    plain = {phase: cost.seconds for phase, cost in estimates(context())["ce"].phases.items()}
    more = {"samples": 6, "max_tokens": 16}
    assert seconds("generation", sample=more) >= plain["generation"]
    assert seconds("scoring", sample=more) > plain["scoring"]
    assert estimates(context(sample=more))["ce"].phases["generation"].tokens > 1.5 * (
        estimates(context())["ce"].phases["generation"].tokens
    )
    shorter = context(train={"steps": 3, "batch_size": 4, "eval_at": [2], "max_objects": 1})
    assert estimates(shorter)["ce"].phases["training"].flops < estimates(context())["ce"].phases["training"].flops
    steps = {"steps": 6, "batch_size": 4, "eval_at": [2]}
    assert seconds("training", train=steps) > 1.9 * plain["training"]
    curve = {"samples": 3, "max_tokens": 16, "temperatures": [0.5]}
    once = {"samples": 3, "max_tokens": 16}
    assert seconds("generation", label="base", sample=curve) == pytest.approx(
        2 * seconds("generation", label="base", sample=once)
    )
    cheap = seconds("scoring", score="constant")
    assert cheap < plain["scoring"]


def test_early_evaluations_of_a_quarter_of_the_images_cost_a_quarter() -> None:
    """Base: one evaluation; trained: an early one and the last one."""
    every = {"steps": 3, "batch_size": 4, "eval_at": [2]}
    base = seconds("generation", label="base", train=every)
    assert seconds("generation", train=every) == pytest.approx(2 * base)
    assert seconds("generation", train={**every, "eval_images": 3}) == pytest.approx(1.25 * base)


def test_a_frozen_mask_asks_the_base_and_keeps_it() -> None:
    live, base = (
        {"name": "sed_sft", "label": "sed", "top_k": 2, "threshold": 0.5, "mask": mask} for mask in ("live", "base")
    )
    estimated = {
        mask: estimates(context(objectives=[objective]))["sed"] for mask, objective in (("live", live), ("base", base))
    }
    assert estimated["base"].phases["training"].flops > estimated["live"].phases["training"].flops
    assert (estimated["live"].memory["reference"], estimated["base"].memory["reference"] > 0) == (0.0, True)


def test_a_mixture_reads_a_target_after_every_expert_and_answers_greedily_with_each() -> None:
    """Each expert more costs the same in training; one expert costs what cross-entropy does. Of 1 + 2 answers to an
    image, 3 experts make 3 + 2."""
    one, two, three, four = (
        estimates(context(objectives=[{"name": "mixture", "experts": n}]))["mixture"].phases for n in (1, 2, 3, 4)
    )
    assert one["training"] == estimates(context())["ce"].phases["training"]
    flops = [phases["training"].flops for phases in (one, two, three, four)]
    assert flops[3] - flops[2] == pytest.approx(flops[2] - flops[1])
    assert 0 < flops[3] - flops[2] < flops[0]
    assert three["generation"].tokens == pytest.approx(one["generation"].tokens * 5 / 3)
    assert three["generation"].flops > two["generation"].flops > one["generation"].flops
    assert three["scoring"].flops > one["scoring"].flops


def test_the_mean_of_the_weights_is_as_large_as_they_are() -> None:
    """Two moments without it, three times the weights with it."""
    plan = {"steps": 3, "batch_size": 4}
    plain, mean = (estimates(context(train={**plan, **added}))["ce"].memory for added in ({}, {"ema": 0.9}))
    assert plain["optimizer"] == 2 * plain["trained weights"]
    assert mean == {**plain, "optimizer": 3 * plain["trained weights"]}


def test_epochs_cost_what_their_steps_cost() -> None:
    """24 images in batches of 8 are 3 steps."""
    times = [
        seconds("training", train={**length, "batch_size": 8}) for length in ({"epochs": 1}, {"steps": 3}, {"steps": 6})
    ]
    assert times[0] == times[1] < times[2]


def test_what_a_later_stage_draws_and_trains_on_is_counted() -> None:
    chain = {"name": "ce", "label": "chain", "then": {"name": "grpo", "steps": 4, "images": 4, "samples": 4}}
    chained, plain = (estimates(context(objectives=[item])) for item in (chain, "ce"))
    for phase in ("training", "generation"):
        assert chained["chain"].phases[phase].seconds > 1.5 * plain["ce"].phases[phase].seconds


def test_checkpoints_by_steps_and_their_bytes() -> None:
    """6 steps, one checkpoint each, and one before each of the two evaluations: 8 with 3 numbers for each that trains,
    and the weights that stay."""
    given = replace(context(train={"steps": 6, "batch_size": 4, "eval_at": [2]}), snapshot_every="1")
    phase = estimates(given)["ce"].phases["checkpoints"]
    numbers = sum(p.numel() for p in small.fresh().model.parameters())
    assert phase.tokens == 4 * numbers * (3 * 8 + 1)
    assert phase.seconds == phase.tokens / H100.disk


# ---- memory and devices ----------------------------------------------------------------------------------------------


def test_nine_billion_parameters_that_all_train_do_not_fit_into_80_gb() -> None:
    large = of_size("random-9b", "all")
    estimated = estimates(large)["ce"]
    (warning,) = warnings_of([("9b-ce", estimated)], H100)
    assert warning.startswith("9b-ce: will not fit: about ")
    assert "H100 has 80 GB; the largest part is optimizer" in warning
    # 8.1 billion parameters, 16 bytes each: weights, gradients and two moments in float32.
    assert 16 * 8.1e9 < estimated.peak < 16 * 8.4e9 + 10e9
    assert warnings_of([("9b-ce", estimates(of_size("random-9b", "flamingo"))["ce"])], H100) == []
    many = estimates(of_size("random-9b", "flamingo", micro_batch=8, batch_size=8))["ce"]
    assert many.memory["activations"] > 7 * estimates(of_size("random-9b", "flamingo"))["ce"].memory["activations"]


def test_a_device_by_name() -> None:
    assert device_named("H200") is DEVICES["h200"]
    assert stated_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert stated_flops("cpu") is None
    with pytest.raises(ConfigError, match="--on: unknown device 'h1000', did you mean 'h100'"):
        device_named("h1000")


def test_a_faster_device_takes_less_time() -> None:
    large = of_size("random-4b", "flamingo", batch_size=64, micro_batch=64)
    cell = next(cell for cell in cells(large.suite) if cell.label == "ce")
    times = [Estimator(large, DEVICES[name]).estimate(cell).phases["training"].seconds for name in ("a100", "h100")]
    assert times[0] > times[1]


def test_this_machine_is_measured() -> None:
    device = measure_device(torch.device("cpu"))
    assert (device.name, device.waits) == ("cpu", True)
    assert min(device.flops, device.flops_fp32, device.bandwidth, device.memory, device.operation) > 0
    assert 0 < Estimator(context(), device).estimate(next(cells(context().suite))).seconds < 600


# ---- finished cells --------------------------------------------------------------------------------------------------


def test_finished_cells_cost_nothing(tmp_path: Path) -> None:
    given = context(train={"steps": 1, "batch_size": 2})
    runner.run(given, tmp_path, "*-ce-*")
    chosen = list(cells(given.suite))
    costs = dict(
        zip([cell.label for cell in chosen], estimate_cells(Estimator(given, H100), tmp_path, chosen), strict=True)
    )
    assert [label for label, cost in costs.items() if cost is None] == ["ce"]
    other = context(train={"steps": 2, "batch_size": 2})
    assert None not in estimate_cells(Estimator(other, H100), tmp_path, chosen)
    (table,) = tmp_path.glob("cells/*-ce-*/samples.parquet")
    table.write_bytes(b"damaged")
    assert None not in estimate_cells(Estimator(given, H100), tmp_path, chosen)
