"""Figures are drawn from their data, and can be told apart, read and embedded."""

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

from harness.metrics.stats import Interval
from harness.report import figures
from harness.report.figures import data, lines, points, style
from harness.report.figures import strips as pictures
from harness.report.figures.data import Line
from harness.report.figures.style import BEHIND, COLOURS, GREY, GREY_TEXT, OTHERS, Look, label_points, look
from harness.report.renderers.text import to_markdown
from harness.report.results import Results, load
from tests.report.figures.gallery import IMAGES, WITHOUT_GALLERY, seed_means
from tests.support import fake_cells


def drawn_lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()] for line in axes.lines}


def in_legend(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text().strip() for text in legend.get_texts()]


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
    assert heights["high"] - heights["low"] >= 0.18 / 2.9 - 1e-9  # an inch is 1 / 2.9 here
    assert heights["low"] - 0.5 < 0.05
    assert [written[name].get_horizontalalignment() for name in ("low", "corner")] == ["left", "right"]
    assert axes.get_ylim()[1] > heights["corner"]
    assert [written[name].get_color() for name in ("low", "high")] == list(COLOURS[:2])


def test_a_name_that_fits_on_neither_side_ends_at_the_right() -> None:
    axes = Figure().subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(axes, {"row": (0.4, 0.5)}, {"row": replace(look(0), title="x" * 36)}, (3.4, 2.9))
    (text,) = axes.texts
    assert text.get_position()[0] == pytest.approx(1)
    assert text.get_horizontalalignment() == "right"


def test_of_many_rows_those_that_hypotheses_are_about_are_in_colour(tmp_path: Path) -> None:
    labels = ["ce", *(f"row{index}" for index in range(7))]
    rows = [{"name": "ce", "label": label} for label in labels]
    rows[2]["title"] = "Row 1"
    about = [("row6", "ce"), ("row6", "row5"), ("row3", "ce")]
    hypotheses = [
        {"id": f"H{number}", "claim": "", "metric": "AP", "a": a, "b": b} for number, (a, b) in enumerate(about)
    ]
    suite = fake_cells.suite(objectives=rows, early_stops=[], hypotheses=hypotheses, seeds=[0])
    skills = dict.fromkeys(labels, fake_cells.DETECTORS["ce"])
    made = load(fake_cells.write_run(tmp_path, suite, images=5, detectors=fake_cells.DETECTORS | skills))
    assert data.emphasised_rows(made) == ["ce", "row0", "row3", "row5", "row6"]
    looks = lines.row_looks(made)
    assert [label for label in labels if looks[label].behind] == ["row1", "row2", "row4"]
    assert in_legend(lines.draw_dynamics(made))[-1] == OTHERS
    (coverage,) = lines.draw_coverage(made).axes
    assert len(coverage.collections) == 8  # bands of five objectives, base and oracles
    names = {text.get_text(): text.get_color() for text in lines.draw_frontier(made).axes[0].texts}
    assert set(names) == {*labels, "Row 1"} - {"row1"}
    assert {label for label, colour in names.items() if colour == GREY_TEXT} == {"Row 1", "row2", "row4"}


def test_figures_call_a_row_by_its_title(tmp_path: Path) -> None:
    """Tables and hypotheses keep the label."""
    rows = [{"name": "ce", "label": "ce"}, {"name": "ce", "label": "sed", "title": "SED-SFT, weight 5"}]
    suite = fake_cells.suite(objectives=rows, early_stops=[], hypotheses=[], seeds=[0])
    made = load(fake_cells.write_run(tmp_path, suite, images=IMAGES))
    assert in_legend(lines.draw_dynamics(made)) == ["ce", "SED-SFT, weight 5"]
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
    assert in_legend(lines.draw_dynamics(made)) == labels
    named = [text.get_text().strip() for text in lines.draw_coverage(made).axes[0].texts]
    assert {*named} == {"base", *labels, "oracle-uniform", "oracle-collapsed"}
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


def test_names_are_moved_apart_as_little_as_possible() -> None:
    assert style.spread([0.0, 0.5, 1.0], 0.1, 0.0, 2.0) == pytest.approx([0, 0.5, 1])
    assert style.spread([0.0, 0.5, 0.5, 1.0], 0.1, 0.0, 2.0) == pytest.approx([0, 0.45, 0.55, 1])
    assert style.spread([0.4, 0.4, 0.45, 0.5], 0.1, 0.0, 2.0) == pytest.approx([0.2875, 0.3875, 0.4875, 0.5875])
    assert style.spread([0.0, 0.01, 0.4], 0.1, 0.05, 2.0) == pytest.approx([0.05, 0.15, 0.4])
    assert style.spread([0.2, 0.99, 1.0], 0.1, 0.0, 1.0) == pytest.approx([0.2, 0.9, 1.0])
    assert style.spread([0.1, 0.1, 0.1], 0.1, 0.0, 0.1) == pytest.approx([0.0, 0.1, 0.2])  # no room for all
    assert style.spread([], 0.1, 0.0, 1.0) == []


def test_panels_stand_in_even_lines_whose_columns_end_in_numbers() -> None:
    assert [style.even_lines(panels) for panels in (0, 1, 4, 5, 7, 8, 9)] == [1, 1, 4, 3, 4, 4, 3]
    panels = Figure().subplots(2, 3, sharex=True, squeeze=False)
    used = list(panels.flat)[:4]
    style.keep_panels(panels, used, "step")
    assert panels[0, 0].figure.axes == used
    assert [axes.get_xlabel() for axes in used] == ["", "step", "step", "step"]


def test_the_oracles_are_both_seen_where_they_coincide(results: Results) -> None:
    drawn = {line.get_label(): line for line in lines.draw_coverage(results).axes[0].lines}
    dashed, pale = drawn["oracle-uniform"], drawn["oracle-collapsed"]
    assert [line.get_linestyle() for line in (dashed, pale)] == ["--", "-"]
    assert dashed.get_zorder() > pale.get_zorder()


def test_a_suite_that_trains_nothing_has_no_training(tmp_path: Path) -> None:
    suite = fake_cells.suite(objectives=[], early_stops=[], hypotheses=[], seeds=[0])
    made = load(fake_cells.write_run(tmp_path, suite))
    assert figures.available(made) == ["category-diversity", "coverage", "temperature"]  # the base is a single point
    ElementTree.fromstring(figures.svg(made, "category-diversity"))


def test_every_figure_has_a_caption(results: Results) -> None:
    assert list(figures.TEXTS) == figures.available(results)
