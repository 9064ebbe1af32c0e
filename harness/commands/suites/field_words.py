"""The text under each field of a class says what it means. In: a class of pydantic. Out: field -> text."""

from __future__ import annotations

import ast
import inspect

from pydantic import BaseModel


def words_of(model: type[BaseModel]) -> dict[str, str]:
    """Maps the fields of a class, those of its bases included, to the text that stands under each of them."""
    words: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            words |= _words_in(inspect.getsource(base))
    return {name: text for name, text in words.items() if name in model.model_fields}


def _words_in(source: str) -> dict[str, str]:
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
