"""Low-rank changes of a model's linear maps, made by peft, and the factor that they are multiplied with.

In: a model and harness settings (model_zoo.settings.lora). Out: the model, whose maps have changes that begin at zero.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from harness.errors import ConfigError
from model_zoo.settings.lora import LoraSettings

SHOWN = 8
"""Number of names that an error lists."""


def add_lora(
    owner: str, model: nn.Module, settings: LoraSettings, attention: Collection[str], frozen: tuple[str, ...] = ()
) -> None:
    """Adds the changes.

    Args:
        owner: what the suite calls the model, for errors.
        attention: the linear maps that are changed where the settings name none.
        frozen: what the names of modules begin with that are never changed (an image encoder).

    Raises:
        ConfigError: where peft is missing, or a target names no linear map.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(f"{owner}.trains: lora needs peft; install it with: pip install 'detmodes[lora]'") from None
    linear = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not name.startswith(frozen)
    ]
    endings = settings.targets or attention
    targets = [name for name in linear if any(_ends(name, ending) for ending in endings)]
    if missing := [end for end in settings.targets or () if not any(_ends(name, end) for name in targets)]:
        endings_there = ", ".join(sorted({name.rpartition(".")[2] for name in linear})[:SHOWN])
        raise ConfigError(f"{owner}.lora.targets: {missing[0]!r} names no linear map; there are e.g. {endings_there}")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)
    inject_adapter_in_model(config, model)


def scale_of(model: nn.Module) -> float | None:
    """Returns alpha / rank of a model's low-rank changes, None where it has none."""
    scales = [module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")]  # type: ignore[index]
    return float(scales[0]) if scales else None


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
