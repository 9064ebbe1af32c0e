"""Provides the base of all schemas of files that this project reads and writes with pydantic, and a one-line
description of an error in such a file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """A model that refuses fields outside of its schema and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_problem(error: ValidationError) -> str:
    """Describes in one line the first wrong field: `field seeds.0: Input should be a valid integer`."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "(file)"
    return f"field {place}: {problem['msg']}"
