"""Engines: whatever is split over the processes, curve, weights and what is generated are those of one process."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from pydantic import ValidationError
from torch import Tensor, nn

from harness import objectives, records
from harness.errors import ConfigError
from harness.protocols import Checkpointed
from harness.records import CellInfo
from harness.records.log import Log
from harness.suite.train_settings import Train
from harness.system import ranks
from harness.training import checkpoints
from harness.training.engines import sharding
from harness.training.engines.data_parallel import DataParallel, wants_sharding
from harness.training.engines.optimizer import optimizer_of, scale_rates
from harness.training.finetuning import rows_of
from harness.training.loop import Hooks, NoCheckpoints
from harness.training.objective import Objective, prepare
from harness.training.schedule import Draw
from harness.training.step import accumulate
from model_zoo import checkpoint
from tests.support import small
from tests.support.ranks import accelerate, finish, scenario
from tests.support.tiny import TableAdapter, codec_of, random_tables

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "harness" / "launch_configs"
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


# ---- several processes -----------------------------------------------------------------------------------------------

STEPS, STOP = 4, 2
PLAN: dict[str, Any] = {"steps": STEPS, "batch_size": 4, "warm_up": 2, "log_every": 1, "eval_at": [STOP]}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ce": ("ce", {}, {"groups": [{"match": "perceiver.*", "lr": 1e-3, "weight_decay": 0.0}]}),
    "sed_sft": (
        "sed_sft",
        {"mask": "base", "weight": 5.0, "top_k": 3, "quantile": 0.6},
        {"micro_batch": 1, "gradient_checkpointing": True},
    ),
    "mrt": (
        "mrt",
        {"weight": 3.0, "samples": 3},
        {"micro_batch": 2, "targets": "all(2)", "batching": "grouped", "steps": 3},
    ),
}
"""Name -> objective, its settings, and how it is trained."""


class StoppedError(Exception):
    """After a checkpoint."""


class Stopping(NoCheckpoints):
    """Saves its state after a step, and stops there; or goes on from what another one has saved."""

    def __init__(self, folder: Path, stop: bool) -> None:
        self.folder, self.stop, self.log = folder, stop, Log()

    def restore(self, state: checkpoints.TrainingState) -> None:
        accelerator = small.accelerator()
        newest = checkpoints.newest(self.folder, "case", lambda _: None, print) if accelerator.is_main_process else None
        newest = ranks.same(accelerator, newest)
        if not self.stop and newest is not None:
            checkpoints.restore(newest, state, accelerator)
            self.log.restore(newest.content["extra"]["log"])

    def after_step(self, state: checkpoints.TrainingState, evaluated: bool) -> None:
        if not (self.stop and evaluated and state.resumes):
            return
        if small.accelerator().is_main_process:
            checkpoints.write(self.folder, state, "case", {"log": self.log.rows})
        else:
            checkpoints.take_part(state)
        raise StoppedError


def save_trained(folder: Path, *cases: str) -> None:
    """Played on each rank. Rank 0 writes CASE.pt: the curve, the weights after the last step, and what the model
    generates in the middle of training and after its end."""
    for case in cases:
        made = trained(case, folder)
        if small.accelerator().is_main_process:
            torch.save(made, folder / f"{case}.pt")


def trained(case: str, folder: Path) -> dict[str, Any]:
    """Where the engine resumes, training is stopped after a snapshot and goes on in a fresh model."""
    (folder / case).mkdir(exist_ok=True)
    try:
        return attempt(case, *_stopping(folder / case, stop=True))
    except StoppedError:
        return attempt(case, *_stopping(folder / case, stop=False))


def _stopping(folder: Path, stop: bool) -> tuple[Stopping, Log]:
    checkpointer = Stopping(folder, stop)
    return checkpointer, checkpointer.log


def attempt(case: str, checkpointer: NoCheckpoints, log: Log) -> dict[str, Any]:
    """Trains a fresh model; the checkpointer may stop it, or have the state of one that was stopped."""
    objective, settings, plan = CASES[case]
    adapter, full = small.fitted(), Train.model_validate({**PLAN, **plan})
    heldout = small.benchmark().split("calibration")[:8]
    ready = prepare(objective, settings, small.fitted(), heldout, full, 0)
    answers = {}

    def say(step: int) -> None:
        # Ranks say more or less: nothing in here may wait for another one, and saving must find what is whole.
        checkpoint.named_tensors(adapter.model)["perceiver.latents"].sum().item()
        examples = small.train_examples(2 + small.accelerator().process_index)
        answers[step] = [[s.tokens for s in samples] for samples in adapter.generate(examples, [1.0], 0, 12)][:2]

    examples = small.benchmark().split("train")
    hooks = Hooks(evaluate=say)
    curve = small.fine_tune(adapter, ready, full, examples, hooks, checkpointer, log=log)
    say(-1)
    weights = {name: tensor.detach().clone() for name, tensor in checkpoint.named_tensors(adapter.model).items()}
    return {"curve": [(row["loss"], row["grad_norm"]) for row in curve], "weights": weights, "answers": answers}


@cache
def alone(case: str) -> dict[str, Any]:
    """What one process makes of the case."""
    return attempt(case, NoCheckpoints(), Log())


def launched(config: str, folder: Path, *cases: str, **environment: str) -> dict[str, dict[str, Any]]:
    """What two processes make of the cases under a shipped configuration."""
    launcher = accelerate(CONFIGS / config, 2)
    played = scenario(launcher, "tests.training.engines.test_engine:save_trained", folder, *cases)
    code, printed = finish(played, **environment)
    assert code == 0, printed[-3000:]
    return {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in cases}


def assert_same(case: str, got: dict[str, Any]) -> None:
    """As one process has it. Of mrt the curve alone: where all sequences of a set cost the same, its gradient is
    nothing but rounding, and AdamW makes whole steps of that."""
    expected = alone(case)
    assert torch.tensor(got["curve"]).isclose(torch.tensor(expected["curve"]), rtol=1e-5, atol=1e-5).all()
    if case == "mrt":
        return
    assert got["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():
        assert (got["weights"][name] - tensor).abs().max() < 2e-5, name
    assert got["answers"] == expected["answers"]


@pytest.mark.slow
def test_fsdp2_is_one_process(tmp_path: Path) -> None:
    """Groups, checkpointed gradients, unequal numbers of micro-batches (mrt), stopped and restored on the way."""
    for case, got in launched("fsdp2-8gpu.yaml", tmp_path, *CASES).items():
        assert_same(case, got)


@pytest.mark.slow
def test_data_parallel_is_one_process(tmp_path: Path) -> None:
    for case, got in launched("data-parallel-2cpu.yaml", tmp_path, "ce").items():
        assert_same(case, got)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_is_one_process(tmp_path: Path) -> None:
    launches = launched("deepspeed-stage2-8gpu.yaml", tmp_path, *CASES, DS_ACCELERATOR="cpu")
    for case, got in launches.items():
        assert_same(case, got)


def test_the_rounds_that_only_others_have_change_nothing() -> None:
    """One process that makes two passes more than it has rows for leaves the gradient as it is."""

    class More(DataParallel):
        def rounds(self, count: int) -> int:
            return count + 2

    gradients = []
    for kind in (DataParallel, More):
        adapter = small.fitted()
        ready = prepare("ce", {}, small.fitted(), [], Train(), 0)
        rows = rows_of(adapter, small.train_examples(2), [Draw(0, 0, 0), Draw(0, 1, 0)], "canonical", 0)
        engine = kind(adapter.model, small.accelerator())
        output = accumulate(adapter, rows, ready, 1, small.accelerator(), engine=engine)
        gradients.append((float(output.mean()), [p.grad for p in adapter.model.parameters() if p.grad is not None]))
    (one, expected), (other, got) = gradients
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


# ---- which engine ---------------------------------------------------------------------------------------------------


def test_one_process_has_nothing_to_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not wants_sharding(small.accelerator())


def accelerator_of_two() -> Any:
    """As accelerate's is on a CPU: it has no plugin there."""
    return SimpleNamespace(num_processes=2, state=SimpleNamespace(fsdp_plugin=None, deepspeed_plugin=None))


def test_the_environment_of_accelerate_launch_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wants_sharding(accelerator_of_two())
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    assert wants_sharding(accelerator_of_two())
    assert sharding.kind(accelerator_of_two()) is sharding.FullySharded


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: expected 2, got 1"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: expected false"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "expected TRANSFORMER_BASED_WRAP or NO_WRAP"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "train.gradient_checkpointing"),
    ],
)
def test_what_fsdp_is_refused(variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**FSDP, variable: value}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        sharding.kind(accelerator_of_two())


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 3}, "zero_stage: expected 2, got 3"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, "offload_*_device: expected none, got ['cpu', 'none']"),
    ],
)
def test_what_deepspeed_is_refused(zero: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        sharding.require_deepspeed(zero)
    sharding.require_deepspeed({"stage": 2, "offload_optimizer": {"device": "none"}})


def test_blocks_by_their_class() -> None:
    model = small.fresh().model
    named = load("fsdp2-8gpu.yaml").fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert [type(block).__name__ for block in sharding.blocks(model, named)].count("LlamaDecoderLayer") == 3
    with pytest.raises(ConfigError, match="did you mean 'LlamaDecoderLayer'"):
        sharding.blocks(model, ["LlamaDecodrLayer"])


def load(name: str) -> ClusterConfig:
    return load_config_from_file(str(CONFIGS / name))


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [
        ("data-parallel-2cpu.yaml", "MULTI_GPU", 2),
        ("data-parallel-8gpu.yaml", "MULTI_GPU", 8),
        ("fsdp2-8gpu.yaml", "FSDP", 8),
        ("deepspeed-stage2-8gpu.yaml", "DEEPSPEED", 8),
    ],
)
def test_shipped_configurations_are_accelerates(name: str, kind: str, processes: int) -> None:
    """accelerate refuses unknown keys at the top; inside fsdp_config and deepspeed_config it passes them by."""
    config = load(name)
    assert (config.distributed_type, config.num_processes) == (kind, processes)
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= options


def test_every_shipped_configuration_is_tested() -> None:
    assert len(list(CONFIGS.glob("*.yaml"))) == 4


# ---- gradient checkpointing -----------------------------------------------------------------------------------------


def gradient_and_kept(checkpointing: bool) -> tuple[list[Tensor | None], int]:
    """The gradient of a step, and how many numbers its forward pass kept for the backward pass."""
    adapter = small.fitted()
    adapter.model.train()
    if checkpointing:
        adapter.checkpoint_gradients()
    numbers = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal numbers
        numbers += tensor.numel()
        return tensor

    ready = prepare("ce", {}, small.fitted(), [], Train(), 0)
    rows = rows_of(adapter, small.train_examples(2), [Draw(0, 0, 0), Draw(0, 1, 0)], "canonical", 0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        accumulate(adapter, rows, ready, 2, small.accelerator())
    return [p.grad for p in adapter.model.parameters()], numbers


def test_checkpointed_gradients_are_the_same_and_keep_less() -> None:
    (expected, much), (got, little) = gradient_and_kept(False), gradient_and_kept(True)
    assert little < 0.5 * much
    for one, other in zip(expected, got, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_generation_is_the_same_after_checkpointed_training() -> None:
    adapter, other = small.fitted(), small.fitted()
    other.checkpoint_gradients()
    examples = small.train_examples(2)
    assert adapter.generate(examples, [0.0, 1.0], 0, 12) == other.generate(examples, [0.0, 1.0], 0, 12)


def test_an_adapter_that_cannot_checkpoint_is_refused() -> None:
    adapter = TableAdapter(codec_of(["a"], bins=2), random_tables(1, 8, 0))
    assert not isinstance(adapter, Checkpointed)
    assert isinstance(small.fresh(), Checkpointed)
    plan = Train(steps=1, batch_size=1, gradient_checkpointing=True)
    ready = Objective("ce", {}, objectives.build("ce"))
    with pytest.raises(ConfigError, match="gradient_checkpointing: TableAdapter has no checkpoint_gradients"):
        small.fine_tune(adapter, ready, plan, [])


# ---- groups ---------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Parameters: head.weight, perceiver.0.weight, perceiver.0.bias, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        self.perceiver = nn.Sequential(nn.Linear(1, 1))
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def groups_of(*groups: dict[str, Any]) -> list[tuple[int, float, float]]:
    """Number of parameters, learning rate and weight decay of each of the optimizer's groups."""
    plan = Train.model_validate({"lr": 1e-3, "weight_decay": 0.1, "groups": groups})
    made = optimizer_of(Two(), plan).param_groups
    return [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made]


def test_groups_by_pattern() -> None:
    """The first that matches counts; what is not given, and what no pattern matches, is the plan's."""
    assert groups_of() == [(3, 1e-3, 0.1)]
    assert groups_of({"match": "perceiver.*", "lr": 1e-4}) == [(2, 1e-4, 0.1), (1, 1e-3, 0.1)]
    assert groups_of({"match": "*.bias", "weight_decay": 0.0}, {"match": "perceiver.*", "lr": 1e-4}) == [
        (1, 1e-3, 0.0),
        (1, 1e-4, 0.1),
        (1, 1e-3, 0.1),
    ]
    assert groups_of({"match": "*", "lr": 2e-4}) == [(3, 2e-4, 0.1)]


@pytest.mark.parametrize("match", ["percever.*", "frozen.*", "perceiver.0.bias"])
def test_a_pattern_that_takes_nothing_is_an_error(match: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{match!r} matches no trained parameter")) as caught:
        groups_of({"match": "perceiver.*"}, {"match": match})
    assert "head.weight" in str(caught.value)


def test_each_group_warms_up_to_its_own_rate() -> None:
    plan = Train.model_validate({"lr": 1e-3, "groups": [{"match": "head.*", "lr": 4e-3}]})
    optimizer = optimizer_of(Two(), plan)
    scale_rates(optimizer, 0.25)
    scale_rates(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 5e-4]


def test_groups_without_a_difference_change_no_bit() -> None:
    assert_same_bits(curve_of(), curve_of(groups=[{"match": "*"}]))


def test_a_group_without_a_rate_stays_as_it_is() -> None:
    before = dict(small.fitted().model.named_parameters())
    after = curve_of(groups=[{"match": "perceiver.*", "lr": 0.0, "weight_decay": 0.0}])["weights"]
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert not any(name.startswith("perceiver.") for name in changed)


def curve_of(**plan: Any) -> dict[str, Any]:
    """Two steps of the small model."""
    adapter, full = small.fitted(), Train.model_validate({"steps": 2, "batch_size": 2, "log_every": 1, **plan})
    ready = prepare("ce", {}, small.fitted(), [], full, 0)
    curve = small.fine_tune(adapter, ready, full, small.train_examples(4))
    return {"curve": [row["loss"] for row in curve], "weights": dict(adapter.model.named_parameters())}


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["curve"] == other["curve"]
    assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())


# ---- precision ------------------------------------------------------------------------------------------------------


def test_precision_is_the_suites() -> None:
    """On a CPU auto is fp32; bf16 is autocast, so weights stay float32 and the curve is a little off."""
    plain, bf16 = curve_of(), curve_of(precision="bf16")
    assert_same_bits(plain, curve_of(precision="fp32"))
    assert {tensor.dtype for tensor in bf16["weights"].values()} == {torch.float32}
    assert plain["curve"] != bf16["curve"]
    assert bf16["curve"] == pytest.approx(plain["curve"], rel=0.05)


def test_fp32_also_where_accelerate_says_bf16(bf16: Accelerator) -> None:
    model = nn.Linear(2, 2)
    kinds = {}
    for precision in ("auto", "fp32", "bf16"):
        with DataParallel(model, bf16, precision).autocast():
            kinds[precision] = model(torch.ones(1, 2)).dtype
    assert kinds == {"auto": torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}


# ---- what a record says ---------------------------------------------------------------------------------------------

KNOWN: dict[str, Any] = {
    "targets": "canonical",
    "batching": "shuffled",
    "collision_rate": None,
    "steps": 240,
    "batch_size": 16,
    "micro_batch": None,
    "lr": 0.0003,
    "weight_decay": 0.01,
    "warm_up": 10,
    "clip": 1.0,
    "log_every": 20,
    "eval_at": [],
    "probe": None,
}
"""What the first records say of a plan without settings of its own: cells that are finished must be found again."""


def test_plans_without_later_settings_are_described_as_ever() -> None:
    assert Train().described == KNOWN
    info = CellInfo(benchmark={}, model={}, objective={}, seed=0, train=Train().described, sample={}, score="name")
    assert records.digest_of(info) == "f9c51dcdd2fd3004d1bb1ab864905aa47f7bc42e6ffd73b1c4777000cc24f190"


@pytest.mark.parametrize(
    "changed", [{"gradient_checkpointing": True}, {"groups": [{"match": "a", "lr": 0.1}]}, {"precision": "bf16"}]
)
def test_later_settings_are_described_where_they_are_used(changed: dict[str, Any]) -> None:
    [name] = changed
    assert name in Train.LATER
    described = Train.model_validate(changed).described
    assert described[name] == Train.model_validate(changed).model_dump(mode="json")[name]
    assert {key: value for key, value in described.items() if key != name} == KNOWN


def test_a_group_has_no_other_settings() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        Train.model_validate({"groups": [{"match": "*", "momentum": 0.9}]})
