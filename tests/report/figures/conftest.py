"""Results with a gallery."""

from __future__ import annotations

import pytest

from harness.report.results import Results, load
from tests.report.figures.gallery import IMAGES, add_gallery
from tests.support import fake_cells


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    run = fake_cells.write_run(tmp_path_factory.mktemp("figures") / "run", fake_cells.suite(), images=IMAGES)
    add_gallery(run)
    return load(run)
