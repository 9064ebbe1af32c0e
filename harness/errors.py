"""Errors that a user can act on. The command line prints each as one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DetmodesError(Exception):
    """Base of every error whose message is meant for the user."""


class DataError(DetmodesError):
    """A file on disk (image, annotations, weights, record) is not what it must be."""


class ConfigError(DetmodesError):
    """A name or setting is wrong; `problems` lists every one that was found, not only the first."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ObjectiveError(DetmodesError):
    """A code path cannot honour the objective that was asked for. Nothing falls back to CE silently."""


class StageError(DetmodesError):
    """A stage after fine-tuning finds nothing to train on. What was trained before it is kept."""


class ElsewhereError(DetmodesError):
    """Another process of this run has failed; the message says which, and how."""


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """The one wording for a name that is not known: suggestion, then everything there is."""
    options = sorted(available)
    close = difflib.get_close_matches(name, options, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown {kind} {name!r}{hint} available: {', '.join(options) or 'none'}"
