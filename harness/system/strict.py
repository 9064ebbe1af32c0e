"""Provides the base of all schemas of files that this project reads and writes with pydantic, and a one-line
description of an error in such a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class StrictModel(BaseModel):
    """A model that refuses fields outside of its schema and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, content: Any) -> Any:
        """pydantic takes true for 1."""
        for name, field in cls.model_fields.items() if isinstance(content, Mapping) else ():
            value = content.get(name)
            parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
            truth = next((part for part in (value, *parts) if isinstance(part, bool)), None)
            if truth is not None and _is_numeric(field.annotation):
                raise ValueError(f"{name}: expected a number, got {str(truth).lower()}")
        return content


def _is_numeric(annotation: Any) -> bool:
    """Tells whether a field has numbers, in a list or by name or alone, and no truth values."""
    leaves, pending = set[Any](), [annotation]
    while pending:
        part = pending.pop()
        pending += get_args(part) if get_origin(part) is not Literal else ()
        leaves.add(part)
    return bool(leaves & {int, float}) and not leaves & {bool, Any}


class DigestedModel(StrictModel):
    """A model whose content is part of a cell's digest, so that a new field must not change the digests of old cells.

    LATER: fields that the first records did not have; they are left out where they have their default.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    def without_unused(self, content: dict[str, Any]) -> dict[str, Any]:
        """Drops from the model's dumped content the fields of LATER that have their default."""
        fields = type(self).model_fields
        unused = {
            name for name in self.LATER if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {name: value for name, value in content.items() if name not in unused}


MOST_BITS = 63
"""Of a whole number: no array and no file holds larger ones."""


def impossible_values(content: Any, where: str = "") -> Iterator[str]:
    """Says of what was read from a file, each as one line with its place (`models.0.weights`), which values no setting
    can have: a text with a null character, which no file can be called, and whose opening would raise an error that
    names no setting; an infinite number, or none; a whole number of more than 64 bits."""
    problem = ""
    if isinstance(content, str) and "\0" in content:
        problem = "expected a text without null characters"
    elif isinstance(content, float) and not math.isfinite(content):
        problem = f"expected a finite number, got {content}"
    elif isinstance(content, int) and content.bit_length() > MOST_BITS:
        problem = f"expected a whole number of at most 64 bits, got {content}"
    if problem:
        yield f"{where}: {problem}"
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    for key, value in pairs:
        place = f"{where}.{key}".removeprefix(".")
        if isinstance(key, str):
            yield from impossible_values(key, place)
        yield from impossible_values(value, place)


def first_problem(error: ValidationError) -> str:
    """Describes in one line the first wrong field: `field seeds.0: Input should be a valid integer`."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "(file)"
    return f"field {place}: {problem['msg']}"
