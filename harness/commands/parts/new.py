"""Runs `detmodes new KIND NAME`: writes the skeleton of a part as a separate package.

DIR/NAME.py         the part, with everything that is the same for most; what is left says what it must return
DIR/test_NAME.py    runs the checks of `detmodes check KIND NAME`
DIR/pyproject.toml  registers it in the entry-point group of its kind
"""

from __future__ import annotations

import keyword
from collections.abc import Collection
from pathlib import Path
from string import Template

from harness import registry
from harness.commands.parts.adapter_template import ADAPTER, ADAPTER_TEST
from harness.commands.parts.templates import (
    BENCHMARK,
    CORRECTOR,
    FAMILY,
    MEASURE,
    OBJECTIVE,
    PACKAGE,
    REWARD,
    STAGE,
    TEST,
)
from harness.errors import ConfigError
from harness.extensions import GROUPS, foreign_points
from harness.metrics.image_measures import IMAGE_MEASURES
from harness.metrics.samples.reward import REWARDS
from harness.objectives import OBJECTIVES
from harness.suite.stage_settings import STAGES
from harness.system.files import write_text
from model_zoo.settings.vlm import FAMILY_NAMES

KINDS = {"adapter": "model"}
"""What harness.extensions calls a kind that the command line calls otherwise."""
TEMPLATES = {
    "adapter": ADAPTER,
    "benchmark": BENCHMARK,
    "objective": OBJECTIVE,
    "reward": REWARD,
    "stage": STAGE,
    "family": FAMILY,
    "measure": MEASURE,
    "corrector": CORRECTOR,
}
CLASSES = ("adapter", "benchmark", "stage", "corrector")
"""Kinds whose part is a class, called as the package; those of others are values, called as the kind."""


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Writes the files and returns their paths. ConfigError, with nothing written, if Python cannot import the name
    or one of the files exists already."""
    if not (name.isidentifier() and class_name(name).isidentifier()) or keyword.iskeyword(name):
        raise ConfigError(f"new {kind}: expected a Python identifier such as my_{kind}, got {name!r}")
    if name in _names(kind):
        raise ConfigError(f"new {kind}: there is one called {name!r} already, choose another name")
    test = ADAPTER_TEST if kind == "adapter" else TEST
    texts = {f"{name}.py": TEMPLATES[kind], f"test_{name}.py": test, "pyproject.toml": PACKAGE}
    taken = [folder / file for file in texts if (folder / file).exists()]
    if taken:
        raise ConfigError(*(f"{path}: exists already; nothing is replaced, choose another folder" for path in taken))
    folder.mkdir(parents=True, exist_ok=True)
    made_by = class_name(name)
    attribute = made_by if kind in CLASSES else kind.upper()
    words = {
        "name": name,
        "made_by": made_by,
        "kind": kind,
        "attribute": attribute,
        "group": GROUPS[KINDS.get(kind, kind)],
    }
    for file, text in texts.items():
        write_text(folder / file, Template(text).substitute(words))
    return [folder / file for file in texts]


def _names(kind: str) -> Collection[str]:
    if kind == "family":
        return {*FAMILY_NAMES, *(point.name for point in foreign_points("family"))}
    values: dict[str, Collection[str]] = {
        "objective": OBJECTIVES,
        "reward": REWARDS,
        "stage": STAGES,
        "measure": IMAGE_MEASURES,
    }
    if kind in values:
        return values[kind]
    kinds: dict[str, registry.Kind] = {"adapter": "model", "benchmark": "benchmark", "corrector": "corrector"}
    return registry.names(kinds[kind])


def default_folder(name: str) -> Path:
    """Returns a folder whose name differs from the module: otherwise Python would import the folder when it is
    started beside it."""
    return Path(f"detmodes-{name}")


def class_name(name: str) -> str:
    """Converts my_detector to MyDetector."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
