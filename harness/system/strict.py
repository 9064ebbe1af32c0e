"""Provides the base of all schemas of files that this project reads and writes with pydantic, and a one-line
description of an error in such a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """A model that refuses fields outside of its schema and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


def find_null(content: Any) -> str | None:
    """Returns where a text with a null character stands in what was read, as `models.0.weights`; None if there is none.
    No path may have one: whatever opens it would raise a ValueError that names no file."""
    if isinstance(content, str):
        return "" if "\0" in content else None
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    for key, value in pairs:
        inner = find_null(key) if isinstance(key, str) else None
        inner = find_null(value) if inner is None else inner
        if inner is not None:
            return f"{key}.{inner}".removesuffix(".")
    return None


def first_problem(error: ValidationError) -> str:
    """Describes in one line the first wrong field: `field seeds.0: Input should be a valid integer`."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "(file)"
    return f"field {place}: {problem['msg']}"
