"""A run that never ran (see tests.support.fake_cells), with all its cells, and its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.renderers import text as report
from harness.report.results import Results
from tests.support import fake_cells


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("complete"), fake_cells.suite())


@pytest.fixture(scope="session")
def results(complete: Path) -> Results:
    return report.load(complete)
