"""Errors that a user can act on. The command line prints each as one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DetmodesError(Exception):
    """Base of every error whose message is meant for the user."""


class DataError(DetmodesError):
    """A file on disk (image, annotations, weights, record) is invalid."""


class ConfigError(DetmodesError):
    """A name or setting is wrong; `problems` lists all mistakes, not only the first."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ObjectiveError(DetmodesError):
    """A code path does not support the requested objective. Nothing falls back to CE silently."""


class StageError(DetmodesError):
    """A stage after fine-tuning has nothing to train on. The result of earlier stages is preserved."""


class ElsewhereError(DetmodesError):
    """Another process of this run has failed; the message says which, and how."""


NAME_LENGTH, LIST_LENGTH, MESSAGE_LENGTH = 100, 400, 600
"""Characters of a name, of a list of names, and of a whole message, which are anyone's."""


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """Returns the message for an unknown name, the same everywhere: a suggestion, then the available names, all of them
    where they fit into LIST_LENGTH."""
    name, options = shorten(name, NAME_LENGTH), [shorten(option, NAME_LENGTH) for option in sorted(available)]
    close = difflib.get_close_matches(name, options, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ";"
    listed = ", ".join(options)
    if len(listed) > LIST_LENGTH:
        fitting = listed[:LIST_LENGTH].count(", ")
        listed = f"{', '.join(options[:fitting])} and {len(options) - fitting} more"
    return f"unknown {kind} {name!r}{hint} available: {listed or 'none'}"


def shorten(text: str, most: int = MESSAGE_LENGTH) -> str:
    """Cuts a text whose length is anyone's choice, and shows that it was cut."""
    return text if len(text) <= most else f"{text[:most]}..."
