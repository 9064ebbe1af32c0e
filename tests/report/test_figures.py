"""What the figures show, and that they are drawn from it (runs that never ran: see fake_cells)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.errors import DataError
from harness.metrics.recorded import PROBE
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval, interval
from harness.records import gallery
from harness.records.gallery import Picture, ShownMention, ShownObject, ShownSamples
from harness.report import estimates, figures
from harness.report.figures import data, lines, points
from harness.report.figures import strips as pictures
from harness.report.figures.data import Line
from harness.report.figures.style import BEHIND, COLOURS, GREY, OTHERS, Look, label_points, look
from harness.report.paths import interpolate_path
from harness.report.renderers.text import to_markdown
from harness.report.results import Key, Results, load
from harness.report.rows import figures_of, path_of, path_source, temperature_lines
from harness.types import Box
from tests.support import fake_cells

WITHOUT_GALLERY = [
    "frontier",
    "ap-vs-diversity",
    "category-diversity",
    "coverage",
    "temperature",
    "training",
    "dynamics",
]
IMAGES = 30


def add_gallery(run: Path, images: int = IMAGES) -> None:
    """Noisy pictures of the first two images, which fake cells say something about."""
    rng = np.random.default_rng(0)
    examples = [replace(item, path=run / f"{item.image_id}.png") for item in fake_cells.make_examples(images)[:2]]
    for example in examples:
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(example.path)
    gallery.write_gallery(run, examples, fake_cells.CATEGORIES)
    for example in examples:
        example.path.unlink()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    run = fake_cells.write_run(tmp_path_factory.mktemp("figures") / "run", fake_cells.suite(), images=IMAGES)
    add_gallery(run)
    return load(run)


def seed_means(results: Results, label: str, step: int, name: str, temperature: float | None = None) -> float:
    keys = results.finished("toy", label)
    return float(np.mean([results.points(key, step, temperature)[name] for key in keys]))


# ---- data --------------------------------------------------------------------------------------------------------


def test_trajectories_are_seed_means_at_every_step(results: Results) -> None:
    by_label = {item.label: item for item in data.trajectories(results, "toy")}
    assert list(by_label) == ["base", "ce", "sed"]
    assert (by_label["base"].steps, by_label["ce"].steps) == ((0,), (60, 120, 240))
    assert by_label["ce"].ap == pytest.approx([seed_means(results, "ce", step, "AP") for step in (60, 120, 240)])
    last = figures_of(results, "toy", "ce", ("name_diversity", "AP"))
    assert by_label["ce"].last == (last["name_diversity"], last["AP"])
    assert by_label["ce"].diversity[-1] == last["name_diversity"].estimate


def test_the_frontier_is_read_off_the_paths(results: Results) -> None:
    """It begins and ends at the smallest and largest mean AP of a row's path, and has the figures of that row there."""
    by_label = {line.label: line for line in data.frontier_lines(results, "toy")}
    assert list(by_label) == ["ce", "sed"]
    line = by_label["sed"]
    path = [
        seed_means(results, label, step, "AP") for label, step in (("base", 0), *(("sed", s) for s in (60, 120, 240)))
    ]
    assert (line.x[0], line.x[-1]) == pytest.approx((min(path), max(path)))
    target = np.full(1001, line.x[5])
    source = path_source(results, "toy", "sed")
    each = [
        interpolate_path(path_of(results, source, s, "AP"), path_of(results, source, s, "name_diversity"), target)
        for s in (0, 1)
    ]
    expected = interval(np.array([of_seed[0] for of_seed in each]), np.array([of_seed[1:] for of_seed in each]))
    assert (line.y[5], line.low[5], line.high[5]) == pytest.approx((expected.estimate, expected.low, expected.high))


def test_coverage_lines_are_the_figures_and_the_oracles_find_everything(results: Results) -> None:
    by_label = {line.label: line for line in data.coverage_lines(results, "toy")}
    assert list(by_label) == ["base", "ce", "sed", "oracle-uniform", "oracle-collapsed"]
    assert all(line.x == (1, 2, 3, 4) for line in by_label.values())
    assert by_label["oracle-uniform"].y == by_label["oracle-collapsed"].y == pytest.approx([1] * 4)
    assert by_label["sed"].y == pytest.approx([seed_means(results, "sed", 240, f"coverage@{k}") for k in (1, 2, 3, 4)])
    third = figures_of(results, "toy", "sed", ["coverage@3"])["coverage@3"]
    assert (by_label["sed"].low[2], by_label["sed"].high[2]) == (third.low, third.high)
    assert list(by_label["sed"].y) == sorted(by_label["sed"].y)  # more samples never find less


def test_heat_lines_are_the_figures_at_each_temperature(results: Results) -> None:
    by_name = data.heat_lines(results, "toy")
    assert list(by_name) == ["recall", "precision", "name_diversity"]
    for name, drawn in by_name.items():
        assert [line.label for line in drawn] == ["base", "ce", "sed"]
        assert all(line.x == (0.5, 1.0, 2.0) for line in drawn)
        expected = [seed_means(results, "sed", 240, name, heat) for heat in (0.5, 1.0, 2.0)]
        assert drawn[2].y == pytest.approx(expected)
    assert len(temperature_lines(results)) == 9


def test_one_temperature_makes_no_curve(tmp_path: Path) -> None:
    made = load(fake_cells.write_run(tmp_path, fake_cells.suite(sample={"samples": 4}), images=5))
    assert data.heat_lines(made, "toy") == {}
    assert "temperature" not in figures.available(made)


def test_clouds_are_the_reportable_categories_by_training_count(results: Results) -> None:
    clouds = {cloud.label: cloud for cloud in data.clouds(results, "toy")}
    assert list(clouds) == ["base", "ce", "sed"]
    keys = results.finished("toy", "sed")
    estimated = [estimates.estimate(results.tables(key), 240, 1.0) for key in keys]
    each, support = [estimate.categories["name_diversity"][0] for estimate in estimated], estimated[0].support
    drawn = [i for i in range(5) if support[i] >= REPORTABLE and len(fake_cells.CATEGORIES[i].names) > 1]
    assert 2 <= len(drawn) < 4  # of the four that leave a choice of the name, at least one is too rare to report
    expected = {1000 // (i + 1) ** 2: (each[0][i] + each[1][i]) / 2 for i in drawn}
    assert clouds["sed"].train_images == tuple(sorted(expected))
    assert clouds["sed"].diversity == pytest.approx([expected[count] for count in sorted(expected)])


def test_medians_of_bins_by_hand() -> None:
    """Nine points, four a bin at least: two bins of five and four. Medians of x 1..5 and 6..9: 3 and 7.5; of y
    (5, 1, 4, 2, 3) and (9, 6, 8, 7): 3 and 7.5. Three points are one bin."""
    made = data.middle("a", (1, 2, 3, 4, 5, 6, 7, 8, 9), (5, 1, 4, 2, 3, 9, 6, 8, 7))
    assert made == Line("a", (3, 7.5), (3, 7.5))
    assert data.middle("a", (1, 2, 9), (4, 6, 5)) == Line("a", (2,), (5,))
    many = tuple(map(float, range(100)))
    assert len(data.middle("a", many, many).x) == 8


def test_unknown_training_counts_draw_no_clouds(results: Results) -> None:
    """As in records of older code."""
    older = {
        key: record.model_copy(
            update={"categories": tuple(item.model_copy(update={"train_images": None}) for item in record.categories)}
        )
        for key, record in results.records.items()
    }
    assert data.clouds(replace(results, records=older), "toy") == []


def test_training_lines_are_seed_means_of_what_was_logged(results: Results) -> None:
    logs = [results.records[Key("toy", "sed", seed)].curve for seed in (0, 1)]
    by_name = data.training_lines(results, "toy")
    line = next(line for line in by_name["p_y"] if line.label == "sed")
    assert list(zip(line.x, line.y, strict=True)) == [
        (a["step"], (a["p_y"] + b["p_y"]) / 2) for a, b in zip(*logs, strict=True)
    ]
    assert [line.label for line in by_name["selected"]] == ["sed"]
    assert by_name["heldout_nll"][0].x == (0, 60, 120, 240)


def test_probe_lines_are_seed_means_where_every_seed_saw_something(results: Results) -> None:
    first, second = (results.records[Key("toy", "sed", seed)] for seed in (0, 1))
    by_name = data.probe_lines(results, "toy")
    assert list(by_name) == [measure.name for measure in PROBE]
    line = next(line for line in by_name["name_diversity"] if line.label == "sed")
    assert line.x == (0, 60, 120, 180, 240)
    pairs = zip(first.probe, second.probe, strict=True)
    assert line.y == pytest.approx([(a["name_diversity"] + b["name_diversity"]) / 2 for a, b in pairs])
    blind = tuple(row | {"name_diversity": None} if row["step"] == 60 else row for row in second.probe)
    partly = replace(
        results, records=results.records | {Key("toy", "sed", 1): second.model_copy(update={"probe": blind})}
    )
    line = next(line for line in data.probe_lines(partly, "toy")["name_diversity"] if line.label == "sed")
    assert line.x == (0, 120, 180, 240)


def test_paths_leave_out_what_is_undefined() -> None:
    across = [Line("a", (1, 2, 3), (0.1, math.nan, 0.3)), Line("b", (1,), (math.nan,))]
    up = [Line("a", (1, 2, 3), (0.7, 0.8, 0.9)), Line("b", (1,), (0.5,))]
    assert lines.paths(across, up) == [Line("a", (0.1, 0.3), (0.7, 0.9))]


def test_the_data_are_json_values(results: Results) -> None:
    made = figures.drawn(results)
    assert list(made) == [*WITHOUT_GALLERY, "gallery"]
    assert figures.plain((Interval(math.nan, 1 / 3, -1e-9, 2), {"a": [True, None]})) == [
        {"estimate": None, "low": 0.333333, "high": 0.0, "seeds": 2},
        {"a": [True, None]},
    ]


# ---- the gallery -------------------------------------------------------------------------------------------------

ANSWER = ShownSamples(
    3,
    (
        ShownMention(0, "disc", Box(0, 0, 9, 9), verified=True),
        ShownMention(0, "disc", Box(9, 9, 9, 9), verified=True),
        ShownMention(0, "hoop", Box(1, 1, 2, 2), verified=False),
        ShownMention(1, "circle", Box(0, 0, 9, 9), verified=True),
        ShownMention(1, "disc", Box(50, 50, 9, 9), verified=False),
        ShownMention(1, "hoop", Box(1, 1, 2, 2), verified=False),
        ShownMention(2, "hoop", Box(1, 1, 2, 2), verified=False),
    ),
)


def test_names_are_counted_by_sample() -> None:
    """disc: samples 0 (twice) and 1; verified in sample 0 alone. hoop is most frequent, but never verified."""
    assert pictures.counted(ANSWER) == [
        pictures.Named("disc", samples=2, verified=1),
        pictures.Named("circle", samples=1, verified=1),
        pictures.Named("hoop", samples=3, verified=0),
    ]
    panel = pictures.answer_panel("ce", ANSWER)
    assert panel.lines == (("2/3 disc", True), ("1/3 circle", True), ("3/3 hoop", False))
    assert [(box.sample, box.verified) for box in panel.boxes[:4]] == [(0, True), (0, True), (0, False), (1, True)]
    assert pictures.answer_panel("ce", ShownSamples(3, ())).lines == (("nothing", False),)


def test_control_characters_are_shown_as_replaced() -> None:
    """They may stand in no XML."""
    (mention, *_) = ANSWER.mentions
    panel = pictures.answer_panel("ce", ShownSamples(1, (replace(mention, name="a\x14 b\n"),)))
    assert [text for text, _ in panel.lines] == ["1/1 a\ufffd b\ufffd"]


def test_the_ground_truth_lists_every_name_once() -> None:
    def disc(x: float) -> ShownObject:
        return ShownObject(name="disc", x=x, y=0, w=5, h=5)

    star = ShownObject(name="star", x=9, y=9, w=5, h=5)
    picture = Picture(image_id=1, file="1.png", width=20, height=20, instances=(disc(0), star, disc(6)))
    panel = pictures.truth_panel(picture, {"disc": ("circle", "dot"), "star": ()})
    assert [text for text, _ in panel.lines] == ["disc", "  or circle", "  or dot", "star"]
    assert [drawn.box.x for drawn in panel.boxes] == [0, 9, 6]
    assert all(drawn.sample is None for drawn in panel.boxes)


def test_long_panels_say_what_they_leave_out() -> None:
    made = [(f"{index}", True) for index in range(pictures.NAMES + 1)]
    assert pictures._fitting(made) == made
    assert pictures._fitting([*made, ("x", True)])[-1] == ("and 2 more", False)
    ((cut, _),) = pictures._fitting([("w" * 99, True)])
    assert cut == "w" * (len(cut) - 1) + "…"


def test_strips_have_a_panel_for_ground_truth_base_and_each_objective(results: Results) -> None:
    strips = pictures.strips(results)
    assert sorted(strip.picture.image_id for strip in strips) == [100, 101]
    for strip in strips:
        assert [panel.title for panel in strip.panels] == ["ground truth", "base", "ce", "sed"]
        first = results.read_gallery(Key("toy", "ce", 0))
        assert strip.panels[2] == pictures.answer_panel("ce", first[strip.picture.image_id])


def test_an_image_that_a_cell_does_not_know_is_an_error(tmp_path: Path) -> None:
    run = fake_cells.write_run(tmp_path, fake_cells.suite(), images=5)
    add_gallery(run, images=5)
    index = run / "gallery" / "index.json"
    index.write_text(index.read_text().replace('"image_id": 101', '"image_id": 104'))
    with pytest.raises(DataError, match=r"gallery\.parquet of base, ce, sed: expected image 104"):
        pictures.strips(load(run))


def test_many_rows_leave_room_for_fewer_images(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PANELS", 7)  # four panels an image: one image
    assert len(pictures.strips(results)) == 1
    monkeypatch.setattr(pictures, "PANELS", 1)
    assert len(pictures.strips(results)) == 1  # never none


def test_a_box_is_dashed_where_nothing_verifies_it(results: Results) -> None:
    strip = pictures.strips(results)[0]
    panel = pictures.answer_panel("ce", ANSWER)
    folder = results.folders[Key("toy", "ce", 0)].parents[1] / "gallery"
    figure = pictures.draw_strips([replace(strip, panels=(panel,))], folder)
    boxes = {
        (str(item.get_edgecolor()[0][:3]), item.get_linestyle()[0][1] is not None): len(item.get_paths())  # type: ignore[index]
        for item in figure.axes[0].collections
    }
    assert sorted(boxes.values()) == [1, 1, 1, 2, 2]  # one collection per sample and kind: 2 + 1, 1 + 2, 1
    assert sum(count for (_, dashed), count in boxes.items() if dashed) == 4
    assert len({colour for colour, _ in boxes}) == 3  # one colour per sample


# ---- drawings ----------------------------------------------------------------------------------------------------


def drawn_lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()] for line in axes.lines}


def points_of(line: Line) -> list[tuple[float, float]]:
    return list(zip(line.x, line.y, strict=True))


def test_line_figures_draw_their_data(results: Results) -> None:
    (coverage,) = lines.draw_coverage(results).axes
    assert drawn_lines(coverage) == {line.label: points_of(line) for line in data.coverage_lines(results, "toy")}
    assert len(coverage.collections) == 5  # a band each
    by_name = data.heat_lines(results, "toy")
    *panels, along = lines.draw_heat(results).axes
    for axes, name in zip(panels, by_name, strict=True):
        assert drawn_lines(axes) == {line.label: points_of(line) for line in by_name[name]}
    paths = lines.paths(by_name["name_diversity"], by_name["recall"])
    hollow = [[points_of(path)[0]] for path in paths]
    assert drawn_lines_in_order(along) == [*(points_of(path) for path in paths), *hollow]
    for figure, drawn in (
        (lines.draw_training(results), data.training_lines(results, "toy")),
        (lines.draw_dynamics(results), data.probe_lines(results, "toy")),
    ):
        assert len(figure.axes) == len(drawn)
        for axes, of_panel in zip(figure.axes, drawn.values(), strict=True):
            assert drawn_lines(axes) == {line.label: points_of(line) for line in of_panel}


def test_point_figures_draw_their_data(results: Results) -> None:
    along, ends = points.draw_trajectories(results).axes
    drawn = [points for points in drawn_lines_in_order(along) if len(points) == 3]
    paths = data.trajectories(results, "toy")
    assert drawn == [list(zip(path.diversity, path.ap, strict=True)) for path in paths[1:]]
    last = [bars.lines[0].get_xydata()[0] for bars in ends.containers]  # type: ignore[attr-defined]
    assert np.array(last) == pytest.approx(np.array([(path.diversity[-1], path.ap[-1]) for path in paths[1:]]))
    base, *clouds = data.clouds(results, "toy")
    for panel, cloud in zip(points.draw_clouds(results).axes, clouds, strict=True):
        shown = drawn_lines_in_order(panel)
        assert points_of(base.middle) in shown  # its points would be repeated in every panel
        assert list(zip(base.train_images, base.diversity, strict=True)) not in shown
        assert list(zip(cloud.train_images, cloud.diversity, strict=True)) in shown
        assert panel.get_title() == cloud.label


def drawn_lines_in_order(axes: Axes) -> list[list[tuple[float, float]]]:
    return [[(x, y) for x, y in np.asarray(line.get_xydata()).tolist()] for line in axes.lines]


def test_wide_bands_do_not_hide_the_lines() -> None:
    """With two seeds an interval of a share may reach from -2 to 3."""
    axes = Figure().subplots()
    lines.draw_lines(axes, [Line("base", (1, 2), (0.4, 1.1), (-2, 0.9), (3, 1.2))], {"base": Look("black", "*", "-")})
    assert axes.get_ylim() == pytest.approx((-0.03, 1.13))


def test_error_bars_stay_within_what_a_share_can_be() -> None:
    """By hand: 0.9 in [0.7, 1.1] reaches 0.2 down and 0.1 up; 1.05, by noise, in [0.9, 1.2] no further than itself."""
    for value, low, high, down, up in (
        (0.9, 0.7, 1.1, 0.2, 0.1),
        (1.05, 0.9, 1.2, 0.15, 0.0),
        (0.02, -0.1, 0.1, 0.02, 0.08),
    ):
        bars = points._bars(value, Interval(value, low, high, 3))
        assert bars is not None
        assert [bars[0][0], bars[1][0]] == pytest.approx([down, up])
    assert points._bars(0.5, Interval(0.5, math.nan, math.nan, 1)) is None


def test_bands_of_shares_stay_within_what_a_share_can_be() -> None:
    axes = Figure().subplots()
    line = Line("base", (1, 2), (0.1, 1.1), (-2, 0.9), (3, 1.2))
    lines.draw_lines(axes, [line], {"base": Look("black", "*", "-")}, shares=True)
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).intervaly.tolist() == pytest.approx([0, 1.1])


def test_names_stand_beside_their_points_and_apart() -> None:
    """Two points in one place, one in the right corner, and one that stands behind."""
    axes = Figure().subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    places = {"low": (0.1, 0.5), "high": (0.1, 0.51), "corner": (0.99, 0.99), "grey": (0.5, 0.5)}
    look_of = {"low": look(0), "high": look(1), "corner": look(2), "grey": BEHIND}
    label_points(axes, places, look_of, (3.4, 2.9))
    written = {text.get_text(): text for text in axes.texts}
    assert written.keys() == {"low", "high", "corner"}
    heights = {name: text.get_position()[1] for name, text in written.items()}
    assert heights["high"] - heights["low"] >= 0.2 / 2.9 - 1e-9  # an inch is 1 / 2.9 here
    assert heights["low"] - 0.5 < 0.05
    assert [written[name].get_horizontalalignment() for name in ("low", "corner")] == ["left", "right"]
    assert axes.get_ylim()[1] > heights["corner"]
    assert [written[name].get_color() for name in ("low", "high")] == list(COLOURS[:2])


def test_of_many_rows_those_that_hypotheses_are_about_are_in_colour(tmp_path: Path) -> None:
    labels = ["ce", *(f"row{index}" for index in range(7))]
    rows = [{"name": "ce", "label": label} for label in labels]
    about = [("row6", "ce"), ("row6", "row5"), ("row3", "ce")]
    hypotheses = [
        {"id": f"H{number}", "claim": "", "metric": "AP", "a": a, "b": b} for number, (a, b) in enumerate(about)
    ]
    suite = fake_cells.suite(objectives=rows, early_stops=[], hypotheses=hypotheses, seeds=[0])
    skills = dict.fromkeys(labels, fake_cells.DETECTORS["ce"])
    made = load(fake_cells.write_run(tmp_path, suite, images=5, detectors=fake_cells.DETECTORS | skills))
    assert data.emphasised_rows(made) == ["ce", "row0", "row3", "row5", "row6"]
    looks = lines.row_looks(made)
    assert [label for label in labels if looks[label] is BEHIND] == ["row1", "row2", "row4"]
    figure = lines.draw_coverage(made)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == OTHERS
    assert len(figure.axes[0].collections) == 8  # bands of five objectives, base and oracles


def test_figures_call_a_row_by_its_title(tmp_path: Path) -> None:
    """Tables and hypotheses keep the label."""
    rows = [{"name": "ce", "label": "ce"}, {"name": "ce", "label": "sed", "title": "SED-SFT, weight 5"}]
    suite = fake_cells.suite(objectives=rows, early_stops=[], hypotheses=[], seeds=[0])
    made = load(fake_cells.write_run(tmp_path, suite, images=IMAGES))
    (legend,) = lines.draw_coverage(made).legends
    assert [text.get_text() for text in legend.get_texts()][:3] == ["base", "ce", "SED-SFT, weight 5"]
    assert [panel.get_title() for panel in points.draw_clouds(made).axes] == ["ce", "SED-SFT, weight 5"]
    assert "SED-SFT, weight 5" in [text.get_text() for text in lines.draw_frontier(made).axes[0].texts]
    assert "SED-SFT, weight 5" not in to_markdown(made)


def contrast_on_white(colour: str) -> float:
    """Of WCAG 2: (1 + 0.05) / (relative luminance + 0.05)."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_every_line_can_be_seen_on_white() -> None:
    assert contrast_on_white("#777777") == pytest.approx(4.48, abs=0.01)  # as WCAG's own examples have it
    assert min(map(contrast_on_white, (*COLOURS, GREY, *pictures.SAMPLE_COLOURS))) >= 3
    assert len(set(pictures.SAMPLE_COLOURS)) == 8


def test_an_svg_says_what_is_seen(results: Results) -> None:
    text = figures.svg(results, "ap-vs-diversity")
    root = ElementTree.fromstring(text)
    title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc"))
    assert title is not None
    assert title.text == "ap vs diversity"
    ap, diversity = (seed_means(results, "sed", 240, name) for name in ("AP", "name_diversity"))
    assert description is not None
    assert f"sed {ap:.2f} and {diversity:.2f}" in str(description.text)
    assert "<text" in text


def test_no_two_objectives_look_alike() -> None:
    looks = [look(index) for index in range(66)]
    assert len({(look.colour, look.marker) for look in looks}) == 66


def test_figures_are_the_same_bytes_each_time(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second time one of each module is enough."""
    first = figures.draw(results, tmp_path / "a")
    some = {name: figures._FIGURES[name] for name in ("training", "category-diversity", "gallery")}
    monkeypatch.setattr(figures, "_FIGURES", some)
    second = figures.draw(results, tmp_path / "b")
    monkeypatch.undo()
    names = [*WITHOUT_GALLERY, "gallery"]
    assert [path.name for path in first] == [f"{name}.{suffix}" for name in names for suffix in ("svg", "png")]
    assert len(second) == 2 * len(some)
    assert all(path.read_bytes() == (tmp_path / "a" / path.name).read_bytes() for path in second)
    assert not list(tmp_path.glob("*/.*"))
    assert figures.svg(results, "coverage").encode() == (tmp_path / "a" / "coverage.svg").read_bytes()
    for path in first:
        assert path.stat().st_size < (1_500_000 if path.suffix == ".svg" else 600_000)


def test_an_svg_embeds_each_picture_once(results: Results) -> None:
    text = figures.svg(results, "gallery")
    assert text.count("data:image/png;base64") == 2  # two pictures in four panels each
    ElementTree.fromstring(text)  # well-formed
    assert len(re.findall(r'<use xlink:href="#picture-[01]"', text)) == 8
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'xlink:href="#([^"]+)"', text)) <= ids


def test_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    """An underscore would keep a label out of the legend, dollars would make it a formula, `<` is markup in an SVG."""
    labels = ["_hidden", "a$_{b}$c", "<script>"]
    skills = dict.fromkeys(labels, fake_cells.DETECTORS["ce"])
    suite = fake_cells.suite(
        objectives=[{"name": "ce", "label": label} for label in labels], early_stops=[], hypotheses=[], seeds=[0]
    )
    made = load(fake_cells.write_run(tmp_path, suite, images=12, detectors=fake_cells.DETECTORS | skills))
    (legend,) = lines.draw_coverage(made).legends
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert shown == ["base", *labels, "oracle-uniform", "oracle-collapsed"]
    for name in figures.available(made):
        text = figures.svg(made, name)
        ElementTree.fromstring(text)
        assert "<script>" not in text


def test_several_models_have_a_panel_each(tmp_path: Path) -> None:
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": "big"}], seeds=[0])
    made = load(fake_cells.write_run(tmp_path, suite))
    assert [axes.get_title() for axes in lines.draw_coverage(made).axes] == ["toy", "big"]
    assert lines.draw_dynamics(made).axes[6].get_title() == "big: entropy, all tokens (nats)"
    assert figures.available(made) == WITHOUT_GALLERY
    for name in ("ap-vs-diversity", "category-diversity", "temperature"):
        ElementTree.fromstring(figures.svg(made, name))


def test_a_suite_that_trains_nothing_has_no_training(tmp_path: Path) -> None:
    suite = fake_cells.suite(objectives=[], early_stops=[], hypotheses=[], seeds=[0])
    made = load(fake_cells.write_run(tmp_path, suite))
    assert figures.available(made) == ["category-diversity", "coverage", "temperature"]  # the base is a single point
    ElementTree.fromstring(figures.svg(made, "category-diversity"))


def test_every_figure_has_a_caption(results: Results) -> None:
    assert list(figures.TEXTS) == figures.available(results)
