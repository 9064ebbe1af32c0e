"""Draws the pictures of the shapes benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from harness import settings as checks
from harness.errors import ConfigError
from harness.types import Frequency

KINDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop", "loop"),
    "diamond": ("diamond", "rhombus", "lozenge"),
}
COLOURS: dict[str, tuple[tuple[str, ...], tuple[int, int, int]]] = {
    "red": (("red", "crimson"), (205, 40, 45)),
    "green": (("green", "emerald"), (35, 150, 65)),
    "blue": (("blue", "azure"), (45, 85, 205)),
    "yellow": (("yellow", "golden"), (225, 190, 40)),
    "purple": (("purple", "violet"), (135, 60, 165)),
}
TAIL_EXPONENT = 0.8
"""A category of rank k is drawn with probability proportional to k ** -TAIL_EXPONENT."""
RARE_SHARE, COMMON_SHARE = 0.05, 0.10
"""LVIS calls a category rare up to 10 and common up to 100 of 100,000 training images; here the thresholds
are these shares of the training images, so that all three groups occur at any size."""
SPLITS = ("train", "val", "calibration")
FORMAT = 1
"""Version of the rendering. Raise it when the rendering changes: it is part of the cache folder's name."""

Domain = Literal["plain", "cluttered"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ShapesSettings:
    """Settings that determine every byte of the set."""

    domain: Domain = "cluttered"
    train_images: int = 256
    val_images: int = 300
    calibration_images: int = 256
    categories: int = 30
    min_objects: int = 1
    max_objects: int = 4
    size: int = 64
    seed: int = 0

    @classmethod
    def read(cls, settings: Mapping[str, object]) -> ShapesSettings:
        """Reads settings of a suite file and reports all mistakes at once."""
        problems = checks.problems("shapes", settings, SETTINGS)
        if not problems:
            made = cls(**cast(dict[str, Any], dict(settings)))
            if made.max_objects >= made.min_objects:
                return made
            expected = f"at least min_objects {made.min_objects}"
            problems.append(f"shapes.max_objects: expected {expected}, got {made.max_objects}")
        raise ConfigError(*problems)


SETTINGS = {
    "domain": checks.one_of(("plain", "cluttered")),
    "train_images": checks.whole(1, 10**6),
    "val_images": checks.whole(1, 10**6),
    "calibration_images": checks.whole(0, 10**6),
    "categories": checks.whole(1, len(KINDS) * len(COLOURS)),
    "min_objects": checks.whole(0, 8),
    "max_objects": checks.whole(1, 8),
    "size": checks.whole(32, 1024),
    "seed": checks.whole(0, 2**31 - 1),
}


# ---- categories ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Appearance:
    """The look and the names of a category."""

    kind: str
    colour: str
    names: tuple[str, ...]


def looks(count: int) -> tuple[Appearance, ...]:
    """Returns the categories by rank, most frequent first. Neighbouring ranks differ in kind and in colour.

    The category of rank k has 2 + k % 3 names, so that every number of names occurs along the tail.
    """
    kinds, colours = list(KINDS), list(COLOURS)
    pairs = [(kinds[k % len(kinds)], colours[(k + k // len(kinds)) % len(colours)]) for k in range(count)]
    return tuple(
        Appearance(kind, colour, _names(kind, colour, 2 + rank % 3)) for rank, (kind, colour) in enumerate(pairs)
    )


def _names(kind: str, colour: str, count: int) -> tuple[str, ...]:
    """Returns the first `count` compounds; those that differ from the first in both words come early."""
    compounds = list(product(range(len(COLOURS[colour][0])), range(len(KINDS[kind]))))
    compounds.sort(key=lambda pair: (pair[0] != pair[1], pair))
    return tuple(f"{COLOURS[colour][0][c]}_{KINDS[kind][k]}" for c, k in compounds[:count])


def rank_probabilities(count: int) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.arange(1, count + 1, dtype=np.float64) ** -TAIL_EXPONENT
    return np.asarray(weights / weights.sum())


# ---- one image -----------------------------------------------------------------------------------------------

Placed = tuple[int, tuple[int, int, int, int]]
"""Rank of the category, and the integer box x, y, w, h."""


def render(settings: ShapesSettings, rng: np.random.Generator) -> tuple[Pixels, list[Placed]]:
    """Renders one image [H, W, 3] and its objects, drawn back to front."""
    cluttered = settings.domain == "cluttered"
    objects = _place(settings, rng, cluttered)
    image = Image.fromarray(_background(settings.size, rng, cluttered))
    styles = looks(settings.categories)
    for rank, (x, y, w, h) in objects:
        base = np.array(COLOURS[styles[rank].colour][1])
        colour = np.clip(base + rng.integers(-18, 19, 3), 0, 255)
        image.paste(tuple(int(v) for v in colour), (x, y), silhouette(styles[rank].kind, w, h))
    return (_degrade(np.asarray(image), rng) if cluttered else np.asarray(image)), objects


def silhouette(kind: str, w: int, h: int) -> Image.Image:
    """Returns the mask of a shape that touches all four sides of its box."""
    mask = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(mask)
    x, y, third_w, third_h = w - 1, h - 1, w // 3, h // 3
    if kind == "circle":
        draw.ellipse((0, 0, x, y), fill=255)
    elif kind == "square":
        draw.rectangle((0, 0, x, y), fill=255)
    elif kind == "triangle":
        draw.polygon([(x / 2, 0), (x, y), (0, y)], fill=255)
    elif kind == "cross":
        draw.rectangle((third_w, 0, x - third_w, y), fill=255)
        draw.rectangle((0, third_h, x, y - third_h), fill=255)
    elif kind == "ring":
        draw.ellipse((0, 0, x, y), fill=255)
        draw.ellipse((w / 4, h / 4, x - w / 4, y - h / 4), fill=0)
    elif kind == "diamond":
        draw.polygon([(x / 2, 0), (x, y / 2), (x / 2, y), (0, y / 2)], fill=255)
    return mask


def _place(settings: ShapesSettings, rng: np.random.Generator, cluttered: bool) -> list[Placed]:
    """Draws random boxes that hide at most a small part of one another (a larger part in the cluttered domain)."""
    wanted = int(rng.integers(settings.min_objects, settings.max_objects + 1))
    low, high = (0.15, 0.5) if cluttered else (0.1875, 0.4375)
    overlap = 0.25 if cluttered else 0.05
    objects: list[Placed] = []
    for _ in range(50 * wanted):
        if len(objects) == wanted:
            break
        w, h = (int(v) for v in rng.integers(round(low * settings.size), round(high * settings.size) + 1, 2))
        x, y = int(rng.integers(0, settings.size - w + 1)), int(rng.integers(0, settings.size - h + 1))
        rank = int(rng.choice(settings.categories, p=rank_probabilities(settings.categories)))
        if all(_hidden_share((x, y, w, h), other) <= overlap for _, other in objects):
            objects.append((rank, (x, y, w, h)))
    return objects


def _hidden_share(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Returns the intersection over the smaller area."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0) / min(a[2] * a[3], b[2] * b[3])


def _background(size: int, rng: np.random.Generator, cluttered: bool) -> Pixels:
    shade = rng.integers(175, 236) + rng.integers(-10, 11, 3)
    flat = np.broadcast_to(shade, (size, size, 3)).astype(np.uint8)
    if not cluttered:
        return flat
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    texture = np.asarray(coarse.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)
    return np.asarray(0.6 * flat + 0.4 * texture).astype(np.uint8)


def _degrade(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Applies a linear light across the image, then sensor noise."""
    size = pixels.shape[0]
    angle, low = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.8)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    ramp = np.clip(0.5 + rows * np.sin(angle) + columns * np.cos(angle), 0, 1)
    light = low + (1.1 - low) * ramp
    noisy = pixels * light[..., None] + rng.normal(0, 14, pixels.shape)
    return np.asarray(np.clip(np.rint(noisy), 0, 255)).astype(np.uint8)


def image_rng(settings: ShapesSettings, split: str, index: int) -> np.random.Generator:
    """Returns the random stream of an image; each image has one, so a larger set begins with the images of a smaller
    one."""
    domain = ("plain", "cluttered").index(settings.domain)
    return np.random.default_rng([settings.seed, domain, SPLITS.index(split), index])


def frequency_of(share: float) -> Frequency:
    return "r" if share <= RARE_SHARE else "c" if share <= COMMON_SHARE else "f"
