"""Defines the engines under which a process has only a part of the optimizer's state, of the gradients, and perhaps
of the weights.

Their common part with data parallelism is in harness.training.engines.data_parallel. This module is imported only
where accelerate's configuration asks for one of them, as importing their parts of torch takes two seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from harness.errors import ConfigError, unknown
from harness.training.engines.data_parallel import FSDP, DataParallel, Logits, MakeOptimizer, trained
from harness.types import Projection

Hooks = list[tuple[nn.Module, dict[str, Any]]]

FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
STATE_HOOKS = ("_state_dict_pre_hooks", "_load_state_dict_pre_hooks")
"""Attributes of modules with the hooks by which FSDP joins and splits weights."""


class FullySharded(DataParallel):
    """FSDP2 with torch's functions. Accelerate's preparation is not used: it requires calls of `model.forward`, while
    adapters call parts of the model, and it does nothing on a CPU."""

    def prepare(self, make_optimizer: MakeOptimizer) -> None:
        plugin = _fsdp_plugin(self._accelerator)
        mesh = init_device_mesh(self._accelerator.device.type, (self._accelerator.num_processes,))
        for block in blocks(self.model, plugin.transformer_cls_names_to_wrap or []):
            fully_shard(block, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
        self._root: Any = _Root(self.model)
        fully_shard(self._root, mesh=mesh)
        self._sharded = [module for module in self._root.modules() if isinstance(module, FSDPModule)]
        super().prepare(make_optimizer)

    def forward(self, call: Callable[[], Logits]) -> Logits:
        outputs: list[Logits] = []

        def tensor() -> Tensor:
            """Returns the tensor that FSDP uses for the backward pass; a Projection's weight is a parameter already."""
            outputs.append(call())
            return outputs[0].hidden if isinstance(outputs[0], Projection) else outputs[0]

        output = self._root(tensor)
        return replace(outputs[0], hidden=output) if isinstance(outputs[0], Projection) else output

    def rounds(self, needed: int) -> int:
        return _largest(needed, self._accelerator)

    def backward(self, loss: Tensor, last: bool) -> None:  # noqa: ARG002
        """Scales the loss, as FSDP averages over the processes in every pass; gradients are split from then on."""
        torch.autograd.backward(loss * self._accelerator.num_processes)

    def reduce(self) -> None:
        """Does nothing, as `backward` has reduced the gradients."""

    def clip(self, largest: float) -> float:
        norm: Any = nn.utils.clip_grad_norm_(trained(self.model), largest)
        return float(norm.full_tensor())

    @contextmanager
    def whole(self) -> Iterator[None]:
        joined = self._join()
        try:
            yield
        finally:
            for module, hooks in joined:
                vars(module).update(hooks)
            for module in self._sharded:
                module.reshard()

    def finish(self) -> None:
        self._join()

    def _join(self) -> Hooks:
        for module in self._sharded:
            module.unshard()
        return _taken(self._sharded, FORWARD_HOOKS) + _taken(self._root.modules(), STATE_HOOKS)


class _Root(nn.Module):
    """A forward pass as one module, because FSDP acts where its outermost module is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[[], Tensor]) -> Tensor:
        return call()


class DeepSpeed(DataParallel):
    """ZeRO stage 2. Of DeepSpeed's configuration only zero_optimization is read: batch size, precision and clipping
    are those of the suite. Its optimizer's state cannot be restored, so there are no checkpoints (`resumes`)."""

    resumes = False

    def prepare(self, make_optimizer: MakeOptimizer) -> None:
        import deepspeed  # type: ignore[import-not-found, unused-ignore]  # an extra; compiles what it needs

        super().prepare(make_optimizer)
        zero = _deepspeed_plugin(self._accelerator).deepspeed_config["zero_optimization"]
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # required, but not used
            "gradient_accumulation_steps": 1,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,  # torch's AdamW
        }
        self._deepspeed, self.optimizer, *_ = deepspeed.initialize(
            model=self.model, optimizer=self.optimizer, config=settings, dist_init_required=False
        )

    def rounds(self, needed: int) -> int:
        return _largest(needed, self._accelerator)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Scales the loss, as DeepSpeed averages over the processes."""
        self._deepspeed.set_gradient_accumulation_boundary(last)
        self._deepspeed.backward(loss * self._accelerator.num_processes)

    def reduce(self) -> None:
        """Does nothing, as `backward` has reduced the gradients."""

    def clip(self, largest: float) -> float:
        zero: Any = self.optimizer
        zero.clip_grad = largest
        return float(zero.scaled_global_norm())

    def step(self) -> None:
        self._deepspeed.step()


# ---- what accelerate's configuration asks for -----------------------------------------------------------------------


def kind(accelerator: Accelerator) -> type[DataParallel]:
    """Returns the engine that accelerate's configuration asks for. ConfigError if it is not supported."""
    if parse_flag_from_env(FSDP):
        _require_fsdp(_fsdp_plugin(accelerator))
        return FullySharded
    require_deepspeed(_deepspeed_plugin(accelerator).deepspeed_config["zero_optimization"])
    return DeepSpeed


def _fsdp_plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin:
    return getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()


def _deepspeed_plugin(accelerator: Accelerator) -> DeepSpeedPlugin:
    return accelerator.state.deepspeed_plugin or DeepSpeedPlugin()


def _require_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    _require(
        (plugin.fsdp_version == 2, f"fsdp_version: expected 2, got {plugin.fsdp_version}"),
        (
            policy in (None, transformer_auto_wrap_policy),
            "fsdp_auto_wrap_policy: expected TRANSFORMER_BASED_WRAP or NO_WRAP, got another one",
        ),
        (not isinstance(plugin.cpu_offload, CPUOffloadPolicy), "fsdp_offload_params: expected false, got true"),
        (
            not plugin.activation_checkpointing,
            "fsdp_activation_checkpointing: expected false; a suite says train.gradient_checkpointing: true",
        ),
    )


def require_deepspeed(zero: Mapping[str, Any]) -> None:
    offloaded = [zero.get(key, {}).get("device", "none") for key in ("offload_optimizer", "offload_param")]
    _require(
        (zero["stage"] == 2, f"zero_stage: expected 2, got {zero['stage']}"),
        (set(offloaded) <= {"none", None}, f"offload_*_device: expected none, got {offloaded}"),
    )


def _require(*conditions: tuple[bool, str]) -> None:
    if problems := [f"accelerate's configuration: {problem}" for holds, problem in conditions if not holds]:
        raise ConfigError(*problems)


# ---- parts ----------------------------------------------------------------------------------------------------------


def blocks(model: nn.Module, names: Collection[str]) -> list[nn.Module]:
    """Returns the modules whose class has one of these names: their weights are whole only while they run."""
    modules = [module for module in model.modules() if type(module).__name__ in names]
    if missing := sorted(set(names) - {type(module).__name__ for module in modules}):
        classes = {type(module).__name__ for module in model.modules()}
        problem = unknown("module class", missing[0], classes)
        raise ConfigError(f"accelerate's configuration: fsdp_transformer_layer_cls_to_wrap: {problem}")
    return modules


def _largest(value: int, accelerator: Accelerator) -> int:
    return int(accelerator.gather(torch.tensor([value], device=accelerator.device)).max())


def _taken(modules: Iterable[nn.Module], kinds: Collection[str]) -> Hooks:
    """Removes the modules' hooks and returns them."""
    hooks = [(module, {kind: getattr(module, kind) for kind in kinds}) for module in modules]
    for module, _ in hooks:
        vars(module).update({kind: OrderedDict() for kind in kinds})
    return hooks
