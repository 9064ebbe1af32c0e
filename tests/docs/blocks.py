"""Follows a page as a reader would: files are written, commands run, one after another in one folder.

A block's language says what happens: `sh` is run and must succeed, `text` must be words of what was printed last, and a
block with a title is a file. A comment above a block may say otherwise (see MARKS).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.packages import install

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^(?:<!-- (.*?) -->\n)?```(\w+)(?: title="(.*?)")?\n((?:.*\n)*?)```$', re.MULTILINE)
MARKS = (
    "fails",
    "tried by .ci/run",
    "tried by tests/api/test_docs.py",
    "excerpt",
    "not tried: needs a GPU",
    "not tried: needs a cluster",
    "not tried: needs a server of a language model",
    "not tried: needs a download",
    "not tried: changes the reader's environment",
    "not tried: needs the cells of a finished quickstart",
)
"""What a comment above a block may say; or `published in results/NAME`, where that command made what is there."""
PUBLISHED = "published in "


@dataclass(frozen=True)
class Block:
    """mark: of the comment above, or empty. title: the name of a file, or empty."""

    mark: str
    language: str
    title: str
    content: str


def blocks(page: Path) -> list[Block]:
    """Reads every code block of a page, in order."""
    return [Block(*match) for match in BLOCK.findall(page.read_text())]


class Reader:
    """Somebody who follows a page in a folder; pip's work is done by `install`."""

    def __init__(self, folder: Path) -> None:
        self.folder, programs = folder / "work", folder / "bin"
        self.site = folder / "site"
        for made in (self.folder, programs, self.site):
            made.mkdir()
        for name, rest in {"detmodes": " -P -m detmodes", "python": ""}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{rest} "$@"\n')
            program.chmod(0o755)
        paths = (programs, Path(sys.executable).parent, os.environ["PATH"])
        self.environment = {**os.environ, "PATH": os.pathsep.join(map(str, paths)), "COLUMNS": "120"}
        self.packages = [ROOT, self.site]
        self.shown = ""

    def follow(self, block: Block) -> None:
        """Does what a block says, and asserts that it works."""
        if block.title:
            target = self.folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.content)
        elif block.mark not in ("", "fails"):
            return
        elif block.language == "text":
            assert set(block.content.split()) <= set(self.shown.split()), block.content
        elif "pip install" in block.content:
            package = self.folder / block.content.split()[-1]
            install(package, self.site)
            self.packages.append(package)
        elif block.language == "sh":
            self._run(["bash", "-euc", block.content], block)
        elif block.language == "python":
            self._run([sys.executable, "-c", block.content], block)

    def _run(self, command: list[str], block: Block) -> None:
        environment = self.environment | {"PYTHONPATH": os.pathsep.join(map(str, self.packages))}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == (block.mark == "fails"), (block.content, done.stdout[-2000:], done.stderr[-2000:])
        self.shown = done.stdout
