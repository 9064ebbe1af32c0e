"""detmodes: what does a training objective cost a vision-language detector in AP, and how much mode collapse does it
prevent?

`python -m detmodes` is the command `detmodes`; `import detmodes` gives its version. Nothing heavy is imported before a
command needs it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

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
    """Run the command line: an error for the user is one line for each problem on stderr, and exit code 2."""
    if foreign := foreign_packages():
        sys.exit(_refuse(foreign))
    from harness.commands.app import main as run_command

    run_command()


def _refuse(problems: list[str]) -> int:
    for problem in problems:
        print(f"detmodes: {problem}", file=sys.stderr)
    return 2


def _leave_working_directory() -> None:
    """Take the folder that `python -m` puts first off the import path: a `benchmarks` of the user may lie there."""
    if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != ROOT:
        del sys.path[0]


def __getattr__(name: str) -> object:
    """Import what `import detmodes` offers when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module detmodes has no attribute {name}")
    if foreign := foreign_packages():
        raise ImportError("; ".join(foreign))
    from harness import __version__

    return __version__


if __name__ == "__main__":
    _leave_working_directory()
    main()
