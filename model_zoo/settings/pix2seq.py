"""What a suite may say of `pix2seq`; what each setting means: model_zoo.pix2seq."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness import settings as checks
from harness.settings import Setting
from model_zoo.settings import sources

DEFAULTS: dict[str, Any] = {
    "backbone": "resnet10t",
    "backbone_weights": "random",
    "image_size": 64,
    "stride": 8,
    "width": 128,
    "layers": 3,
    "heads": 4,
    "bins": 65,
    "weights": "random",
    "trains": "all",
    "noise_objects": 0,
}
MAX_NOISE = 100
"""Objects that the paper has in every sequence."""
MAX_BINS = 10_000
TRAINS = ("all", "decoder")
ANYTHING = Setting("anything", lambda value: True)
"""timm's to judge (model_zoo.timm_tower), and `sources`'."""
SETTINGS = {
    "backbone": ANYTHING,
    "backbone_weights": ANYTHING,
    "image_size": checks.whole(16, 4096),
    "stride": checks.whole(1, 64),
    "width": checks.whole(4, 8192),
    "layers": checks.whole(1, 64),
    "heads": checks.whole(1, 128),
    "bins": checks.whole(2, MAX_BINS),
    "weights": checks.text("'random' or a file"),
    "trains": checks.named(TRAINS),
    "noise_objects": checks.whole(0, MAX_NOISE),
}


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the settings, but for a backbone that timm does not know."""
    full = {**DEFAULTS, **settings}
    lines = checks.problems("pix2seq", settings, SETTINGS)
    lines += sources.problems("backbone_weights", full["backbone_weights"], "'random', a safetensors file")
    if not lines and full["width"] % math.lcm(4, full["heads"]):
        lines.append(f"pix2seq.width: expected a multiple of 4 and of heads {full['heads']}, got {full['width']}")
    return lines


def places(settings: Mapping[str, Any]) -> list[str]:
    """Lists what the settings name to be read, see harness.protocols.NamesPlaces."""
    named = (settings.get(key) for key in ("backbone_weights", "weights"))
    return [place for setting in named for place in sources.named_place(setting)]


def is_small(settings: Mapping[str, Any]) -> bool:
    """Tells whether it is a small model (harness.registry.is_small_model): its backbone and its sizes are the defaults,
    or smaller ones."""
    full = {**DEFAULTS, **settings}
    sizes = ("image_size", "width", "layers")
    return full["backbone"] == DEFAULTS["backbone"] and all(full[size] <= DEFAULTS[size] for size in sizes)
