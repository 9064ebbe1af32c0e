"""Makes the optimizer of a training plan: AdamW, over groups of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from harness.errors import ConfigError
from harness.suite.train_settings import Group, Train

SHOWN = 4
"""Number of parameter names that an error shows."""


def optimizer_of(model: nn.Module, plan: Train) -> torch.optim.AdamW:
    """Makes AdamW over the model's trained parameters. Each is in the first of `plan.groups` that its name matches,
    or gets the settings of the plan. ConfigError if a group is empty."""
    groups = [(group, members) for group, members in grouped_parameters(model, plan) if members]
    return torch.optim.AdamW(
        [_settings(group, plan) | {"params": members} for group, members in groups],
        betas=plan.optimizer.betas,
        eps=plan.optimizer.eps,
        fused=True,
    )


def grouped_parameters(model: nn.Module, plan: Train) -> list[tuple[Group, list[nn.Parameter]]]:
    """Returns each of `plan.groups` with the trained parameters that it takes, and at the end the settings of the
    plan with the rest. Raises ConfigError where a group takes none."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return split(parameters, (*plan.groups, Group(match="*", lr=plan.lr, weight_decay=plan.weight_decay)))


def split(parameters: Mapping[str, nn.Parameter], groups: Sequence[Group]) -> list[tuple[Group, list[nn.Parameter]]]:
    """Returns each group with the parameters that it takes; the last one may be empty."""
    left = dict(parameters)
    parts = []
    for group in groups:
        taken = [name for name in left if fnmatchcase(name, group.match)]
        if not taken and group is not groups[-1]:
            raise ConfigError(
                f"train.groups: {group.match!r} matches no trained parameter that an earlier pattern has left; "
                f"there are e.g. {', '.join(_spread(list(parameters)))}"
            )
        parts.append((group, [left.pop(name) for name in taken]))
    return parts


def scale_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Sets every learning rate to this share of its group's own."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share


def _settings(group: Group, plan: Train) -> dict[str, float]:
    rate = plan.lr if group.lr is None else group.lr
    decay = plan.weight_decay if group.weight_decay is None else group.weight_decay
    return {"lr": rate, "initial_lr": rate, "weight_decay": decay}


def _spread(names: Sequence[str]) -> Sequence[str]:
    """Chooses a few names from all parts of the model."""
    return names[:: max(1, len(names) // SHOWN)][:SHOWN]
