"""Fixtures of the command line: calls in an empty folder, and a suite that trains nothing but CE."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from harness.commands.app import main
from tests.commands.command_line import Done, Invoke
from tests.support import small


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    """Runs `detmodes ARGUMENTS` in an empty folder, on a wide screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["detmodes", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Done(int(code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A suite file without anything to train but CE."""
    content = small.mini_suite().model_dump(mode="json", exclude_defaults=True)
    content["objectives"] = ["ce"]
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
