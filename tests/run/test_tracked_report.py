"""What a tracker gets of a whole run: the tables as the report has them, and a sheet for each picture shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands import app
from harness.records.gallery import Picture, ShownMention, ShownObject, ShownSamples, read_gallery
from harness.report.grids.tables import grids
from harness.report.renderers.text import markdown
from harness.report.results import load
from harness.run import runner, tracked_report, trackers
from harness.run.context import open_context
from harness.run.tracked_report import CAPTION, GAP, draw_sheet, send_report
from harness.types import Box
from tests.run.test_trackers import Fake, instead_of
from tests.support import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base alone, with its gallery."""
    folder = tmp_path_factory.mktemp("report")
    suite = small.mini_suite(
        benchmark={"name": "shapes", **small.SETTINGS},
        models=[{"name": "open_flamingo"}],
        objectives=[],
        sample={"samples": 3, "max_tokens": 40},
    )
    runner.run(open_context(suite, None, "cpu"), folder, "*base*")
    return folder


def test_tensorboard_has_the_tables_and_the_gallery(run: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    send_report("tensorboard", "mini", run)
    send_report("tensorboard", "mini", run)  # once more is no second copy
    texts: dict[str, str] = {}
    pictures: dict[str, tuple[int, int]] = {}
    for path in (run / "trackers" / "report").glob("events.*"):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("image"):
                    assert value.tag not in pictures
                    pictures[value.tag] = value.image.width, value.image.height
                elif value.metadata.plugin_data.plugin_name == "text":
                    assert value.tag not in texts
                    texts[value.tag] = value.tensor.string_val[0].decode()
    tables = {f"tables/{grid.title}/text_summary": markdown(grid) for grid in grids(load(run))}
    assert len(tables) > 3
    assert texts.items() >= tables.items()
    gallery = read_gallery(run)
    assert gallery is not None
    assert set(pictures) == {f"gallery/{picture.image_id}" for picture in gallery.pictures}
    assert all(width > 3 * 64 for width, _ in pictures.values())  # three samples side by side


class FakeWandb(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, tuple[list[str], list[list[str]]]] = {}
        self.images: dict[str, Any] = {}

    def log_table(self, table_name: str, columns: list[str], data: list[list[str]]) -> None:
        self.tables[table_name] = columns, data

    def log_images(self, values: dict[str, Any]) -> None:
        self.images |= values


def test_wandb_has_tables_that_can_be_sorted(run: Path) -> None:
    with instead_of("wandb", fake := FakeWandb()):
        send_report("wandb", "mini", run)
    first = grids(load(run))[0]
    columns, data = fake.tables[f"tables/{first.title}"]
    assert columns == list(first.headings)
    assert data == [[cell.text for cell in row] for row in first.rows]
    assert len(fake.tables) == len(grids(load(run)))
    assert all(image.shape[2] == 3 for (image,) in fake.images.values())
    assert fake.calls["finish"] == 1


def test_a_tracker_that_fails_is_warned_of(run: Path) -> None:
    with instead_of("wandb", Fake()), pytest.warns(trackers.TrackerWarning, match="--track wandb fails"):
        send_report("wandb", "mini", run)


def test_trackio_is_left_alone(run: Path) -> None:
    with instead_of("trackio", fake := Fake()):
        send_report("trackio", "mini", run)
    assert not fake.made


def test_a_sheet_shows_boxes_where_they_are() -> None:
    """Half the size of the original: a box from 20 to 60 is drawn from 10 to 30."""
    image = Image.new("RGB", (50, 50), "black")
    item = ShownObject(name="", x=20, y=20, w=40, h=40)
    picture = Picture(image_id=1, file="1.png", width=100, height=100, instances=(item,))
    mentions = (ShownMention(0, "", Box(20, 20, 40, 40), True), ShownMention(1, "", Box(0, 0, 20, 20), False))
    sheet = np.asarray(draw_sheet(image, picture, {"": ShownSamples(2, mentions)}))
    width, height = 50 + GAP, 50 + CAPTION + GAP
    assert sheet.shape == (2 * height, 2 * width, 3)
    assert sheet[CAPTION + 10, 20].tolist() == [255, 255, 0]  # the upper edge of the annotated object
    assert sheet[height + CAPTION + 10, 20].tolist() == [0, 255, 0]  # of a verified mention
    assert sheet[height + CAPTION, width + 5].tolist() == [255, 0, 0]
    assert sheet[height + CAPTION + 10, width + 20].tolist() == [0, 0, 0]  # sample 1 has no such box


def test_a_run_sends_it_at_its_end(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell is finished already, so that nothing is computed."""
    pytest.importorskip("tensorboard")
    sent: list[tuple[str, str, Path]] = []
    monkeypatch.setattr(tracked_report, "send_report", lambda *given: sent.append(given))
    suite = load(run).suite.model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "mini.yaml"
    path.write_text(json.dumps(suite))
    app.app(["run", str(path), "--output", str(run), "--quiet", "--track", "tensorboard"], standalone_mode=False)
    assert sent == [("tensorboard", suite["suite"], run)]
