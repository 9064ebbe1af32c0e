"""What a suite may say of `vlm`; what each setting means: model_zoo.vlm.adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import settings as checks
from harness.extensions import find_point, foreign_points
from model_zoo.settings import lora
from model_zoo.settings.sources import HUB, has_revision, named_place
from model_zoo.settings.sources import places_behind as places_behind

FAMILY_NAMES = ("paligemma", "paligemma2", "kosmos2", "florence2", "idefics", "qwen2_5_vl", "qwen3_vl")
"""The keys of model_zoo.vlm.families.OURS, which imports transformers."""
DEFAULTS: dict[str, Any] = {
    "family": "paligemma",
    "weights": "random",
    "trains": "all",
    "image_size": None,
    "question": None,
}
TRAINS = ("all", "decoder", "lora")
UNLESS_GIVEN = ("image_size", "question")
"""Settings for which null means the value of the family."""
SETTINGS = {
    "family": checks.named(FAMILY_NAMES),
    "weights": checks.text(
        f"'random', a folder or {HUB}OWNER/NAME@REVISION (a tag or commit)",
        has_revision,
    ),
    "trains": checks.named(TRAINS),
    "image_size": checks.whole(1, 4096),
    "question": checks.text(),
    "lora": lora.SETTING,
}


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the settings. ConfigError for a family that two packages have."""
    given = {key: value for key, value in settings.items() if value is not None or key not in UNLESS_GIVEN}
    families = (*FAMILY_NAMES, *(point.name for point in foreign_points("family")))
    allowed = {**SETTINGS, "family": checks.named(families)}
    if isinstance(given.get("family"), str):
        find_point("family", given["family"], FAMILY_NAMES)  # refuses a name that is taken twice
    return [*checks.problems("vlm", given, allowed), *lora.problems("vlm", settings)]


def places(settings: Mapping[str, Any]) -> list[str]:
    """Lists what the settings name to be read, see harness.protocols.NamesPlaces."""
    return named_place(settings.get("weights"))
