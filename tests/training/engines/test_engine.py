"""Which engine splits what, what is refused, and gradient checkpointing."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch import Tensor

from harness import objectives
from harness.errors import ConfigError
from harness.protocols import Checkpointed
from harness.suite.train_settings import Train
from harness.training.engines import sharding
from harness.training.engines.data_parallel import wants_sharding
from harness.training.finetuning import rows_of
from harness.training.objective import Objective, prepare
from harness.training.schedule import Draw
from harness.training.step import accumulate
from tests.support import small
from tests.support.tiny import TableAdapter, codec_of, random_tables
from tests.training.engines.small_trainings import CONFIGS

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}

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
