"""What every file that this project writes and reads with pydantic has in common: a base for its schema, and one line
for what is wrong with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """Refuses fields that the schema does not name, and cannot be changed once it has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_problem(error: ValidationError) -> str:
    """Says in one line which field is wrong first, and how: `field seeds.0: Input should be a valid integer`."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "(file)"
    return f"field {place}: {problem['msg']}"
