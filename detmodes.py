"""detmodes: what does a training objective cost a vision-language detector in AP, and how much mode collapse does it
prevent?

`python -m detmodes` is the command `detmodes`; `import detmodes` offers what stands in __all__ (docs/howto/python.md).
Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import __version__ as __version__
    from harness.api.losses import TrainerLoss, loss, objective
    from harness.api.runs import LoadedRun, load, run
    from harness.api.scoring import evaluate, measure
    from harness.errors import ConfigError, DataError, DetmodesError, ObjectiveError
    from harness.types import TokenBatch

__all__ = [
    "ConfigError",
    "DataError",
    "DetmodesError",
    "LoadedRun",
    "ObjectiveError",
    "TokenBatch",
    "TrainerLoss",
    "evaluate",
    "load",
    "loss",
    "measure",
    "objective",
    "run",
]
HOMES = {
    **dict.fromkeys(("ConfigError", "DataError", "DetmodesError", "ObjectiveError"), "harness.errors"),
    **dict.fromkeys(("LoadedRun", "load", "run"), "harness.api.runs"),
    **dict.fromkeys(("TrainerLoss", "loss", "objective"), "harness.api.losses"),
    **dict.fromkeys(("evaluate", "measure"), "harness.api.scoring"),
    "TokenBatch": "harness.types",
    "__version__": "harness",
}
"""The module that each name is imported from when it is asked for."""

ROOT = Path(__file__).resolve().parent
"""The folder that this file and the packages of detmodes are installed in."""
PACKAGES = ("harness", "benchmarks", "model_zoo")


def foreign_packages() -> list[str]:
    """Return a line for each of PACKAGES that is somebody else's on Python's import path: which, and where it lies."""
    specs = {name: find_spec(name) for name in PACKAGES}
    origins = {name: Path(spec.origin).resolve() for name, spec in specs.items() if spec is not None and spec.origin}
    return [
        f"{name}: expected the package that belongs to {ROOT / 'detmodes.py'}, got {origins.get(name, 'none')}; "
        "start in another folder, or take that one off Python's import path (PYTHONPATH)"
        for name in PACKAGES
        if name not in origins or origins[name].parents[1] != ROOT
    ]


def main() -> None:
    """Run the command line: an error for the user is one line for each problem on stderr, and exit code 2.

    Ctrl-C before there is anything to save ends in one line too, and exit code 130.
    """
    try:
        if foreign := foreign_packages():
            sys.exit(_refuse(foreign))
        from harness.commands.app import main as run_command

        run_command()
    except KeyboardInterrupt:
        print("detmodes: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)  # as a shell has it for a program that SIGINT ended


def _refuse(problems: list[str]) -> int:
    for problem in problems:
        print(f"detmodes: {problem}", file=sys.stderr)
    return 2


def _leave_working_directory() -> None:
    """Take the folder that `python -m` puts first off the import path: a `benchmarks` of the user may lie there."""
    if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != ROOT:
        del sys.path[0]


if not TYPE_CHECKING:  # a type checker knows the names above, and no others

    def __getattr__(name: str) -> object:
        """Import what `import detmodes` offers when it is asked for."""
        if name not in HOMES:
            raise AttributeError(f"module detmodes has no attribute {name}")
        if foreign := foreign_packages():
            raise ImportError("; ".join(foreign))
        try:
            home = import_module(HOMES[name])
        except ModuleNotFoundError as error:
            from harness.system.extras import explain_missing

            raise ImportError(explain_missing(error) or str(error)) from error
        return getattr(home, name)


def __dir__() -> list[str]:
    """Name what is offered beside what is there, so that a prompt can complete it."""
    return sorted({*globals(), *HOMES})


if __name__ == "__main__":
    _leave_working_directory()
    main()
