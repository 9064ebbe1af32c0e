"""What a suite may say of `open_flamingo_hf`; what each setting means: model_zoo.flamingo.published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import settings as checks
from harness.errors import unknown
from harness.settings import Setting
from model_zoo.flamingo.architectures import FAMILIES, TOY
from model_zoo.flamingo.released_sizes import RANDOM, SIZES, released_size
from model_zoo.settings import lora, sources
from model_zoo.settings.sources import named_place
from model_zoo.settings.sources import places_behind as places_behind

VIT = "ViT-L-14-quickgelu"
"""OpenAI's CLIP as it was published, with the activation QuickGELU, which open_clip's plain ViT-L-14 lacks."""
TOY_VISION, TIMM = "toy", "timm:"
"""A vision tower at toy size, and what begins the name of one of timm's."""
DEFAULTS: dict[str, Any] = {
    "language": "toy-gpt_neox",
    "vision": VIT,
    "vision_weights": "random",
    "image_size": None,
    "every": 1,
    "weights": "random",
    "bins": 1000,
    "trains": "flamingo",
    "trust_remote_code": False,
}
TOY_DEFAULTS = {"vision": TOY_VISION, "bins": 65, "trains": "all"}
"""Defaults with a toy as language model."""
TRAINS = ("all", "flamingo", "frozen_embeddings", "lora")
MAX_BINS = 10_000
ANYTHING = Setting("anything", lambda value: True)
"""What is checked below, part by part."""
SETTINGS = {
    **dict.fromkeys(("language", "vision", "vision_weights", "weights"), ANYTHING),
    "image_size": checks.whole(32, 4096),
    "every": checks.whole(1, 64),
    "bins": checks.whole(2, MAX_BINS),
    "trains": checks.named(TRAINS),
    "trust_remote_code": checks.flag(),
    "lora": lora.SETTING,
}


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the settings, but for a vision tower that open_clip or timm does not know."""
    given = {key: value for key, value in settings.items() if (key, value) != ("image_size", None)}
    lines = checks.problems("open_flamingo_hf", given, SETTINGS)
    full = with_defaults(settings)
    lines += lora.problems("open_flamingo_hf", full)
    lines += _language_problems(full["language"])
    lines += _vision_problems(full["vision"], full["vision_weights"], full["image_size"])
    return lines + sources.problems("weights", full["weights"], "a path")


def places(settings: Mapping[str, Any]) -> list[str]:
    """Lists what the settings name to be read, see harness.protocols.NamesPlaces."""
    language = remote_code(settings)
    named = [] if language is None else [language]
    return [*named, *named_place(settings.get("vision_weights")), *named_place(settings.get("weights"))]


def remote_code(settings: Mapping[str, Any]) -> str | None:
    """Returns what code of the language model would come from, see harness.protocols.RunsRemoteCode."""
    language = str(with_defaults(settings)["language"])
    return None if language.startswith((TOY, RANDOM)) else language


def is_small(settings: Mapping[str, Any]) -> bool:
    """Tells whether it is a small model (harness.registry.is_small_model): of toys alone."""
    full = with_defaults(settings)
    return str(full["language"]).startswith(TOY) and full["vision"] == TOY_VISION


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the settings; a toy has other defaults."""
    full = {**DEFAULTS, **settings}
    return {**DEFAULTS, **(TOY_DEFAULTS if str(full["language"]).startswith(TOY) else {}), **settings}


def _language_problems(language: object) -> list[str]:
    if isinstance(language, str) and language.startswith(TOY):
        family = language.removeprefix(TOY)
        return [] if family in FAMILIES else [unknown("language", language, [TOY + name for name in FAMILIES])]
    if isinstance(language, str) and language.startswith(RANDOM):
        sizes = ", ".join(RANDOM + name for name in SIZES)
        fits = released_size(language) is not None
        return [] if fits else [f"language: expected one of {sizes}, with :LAYERS for fewer of them, got {language!r}"]
    return sources.problems("language", language, "a path")


def _vision_problems(name: object, weights: object, image_size: object) -> list[str]:
    if not isinstance(name, str):
        return [f"vision: expected {TOY_VISION!r}, a model of open_clip or {TIMM}NAME, got {name!r}"]
    if name.startswith(TIMM):
        return sources.problems("vision_weights", weights, "'random', a safetensors file")
    lines = []
    if image_size is not None:
        lines.append(f"image_size: {name} has an image size of its own; it is for {TIMM}NAME")
    if not isinstance(weights, str) or (name == TOY_VISION and weights != "random"):
        expected = "random" if name == TOY_VISION else "a safetensors file"
        lines.append(f"vision_weights: expected {expected}, got {weights!r}")
    return lines
