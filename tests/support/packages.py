"""What pip leaves behind of an installed package that matters here: its module, and a dist-info with an entry point."""

from __future__ import annotations

import tomllib
from pathlib import Path

VERSION = "0.7"


def write_package(folder: Path, module: str, source: str, group: str, entry_point: str) -> None:
    """Writes a package of one module into a folder that is on the import path. entry_point: `NAME = MODULE:OBJECT`."""
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-{VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {VERSION}\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")


def install(package: Path, site: Path) -> None:
    """What `pip install --editable` leaves behind that matters: a dist-info with the package's entry points."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
