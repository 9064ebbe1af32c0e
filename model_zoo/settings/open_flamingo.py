"""What a suite may say of `open_flamingo`, and the configurations that it may name (model_zoo.flamingo.toy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness import settings as checks
from model_zoo.settings.sources import find_saved, named_place


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of the parts. Heads x width per head is given where upstream's stock sizes are replaced."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    language_width: int
    language_layers: int
    language_heads: int
    language_ffn: int
    perceiver_depth: int
    perceiver_latents: int
    attention_heads: int
    attention_width: int
    gate: float
    """Start value of the tanh gates; upstream starts at 0 to protect a pretrained language model."""
    bins: int
    weights: str | None
    """File in `weights/`, or None for random initialisation."""
    pieces: bool = False
    """Whether names are written in pieces (harness.sequence.PieceVocabulary) instead of one token each."""

    @property
    def sizes(self) -> dict[str, object]:
        """Returns what identifies the model; `pieces` only where it is so, as the first records did not have it."""
        content = asdict(self)
        return content if self.pieces else {key: value for key, value in content.items() if key != "pieces"}


TINY = Config(
    image_size=64,
    patch_size=16,
    vision_width=128,
    vision_layers=2,
    vision_heads=4,
    language_width=128,
    language_layers=3,
    language_heads=4,
    language_ffn=384,
    perceiver_depth=1,
    perceiver_latents=16,
    attention_heads=4,
    attention_width=32,
    gate=1.0,
    bins=65,
    weights="open_flamingo-tiny.safetensors",
)
CONFIGS: dict[str, Config] = {
    "tiny": TINY,
    "spelled": replace(TINY, pieces=True, weights="open_flamingo-spelled.safetensors"),
}

CHOICES = {"config": tuple(CONFIGS), "trains": ("all", "flamingo"), "weights": ("shipped", "random")}
MAX_BINS = 10_000
DEFAULTS = {"config": "tiny", "trains": "all", "weights": "shipped"}
SETTINGS = {**{key: checks.named(names) for key, names in CHOICES.items()}, "bins": checks.whole(2, MAX_BINS)}


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the settings. DataError where `weights` is a cell whose record cannot be read."""
    weights = settings.get("weights")
    saved = isinstance(weights, str) and find_saved(weights) is not None
    return checks.problems(
        "open_flamingo",
        {key: value for key, value in settings.items() if not (saved and key == "weights")},
        SETTINGS,
    )


def places(settings: Mapping[str, Any]) -> list[str]:
    """Lists what the settings name to be read, see harness.protocols.NamesPlaces."""
    weights = settings.get("weights")  # what they were made from need not be read again
    return [] if weights == "shipped" else named_place(weights)


def is_small(settings: Mapping[str, Any]) -> bool:  # noqa: ARG001
    """Tells whether it is a small model (harness.registry.is_small_model): every configuration is."""
    return True


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the settings; the number of bins is that of the configuration."""
    full = {**DEFAULTS, **settings}
    config = CONFIGS.get(str(full["config"]), CONFIGS["tiny"])
    return {"bins": config.bins, **full}
