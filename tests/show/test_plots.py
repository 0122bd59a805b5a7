"""Figures of the course: what is drawn is what was given, and nothing is told by colour alone."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from facekit.show import plots


def test_learning_curves_show_mean_and_range_at_each_methods_own_sizes():
    one = pd.DataFrame({"n": [10, 10, 1000, 1000], "value": [0.1, 0.3, 0.5, 0.5]})
    other = pd.DataFrame({"n": [20000], "value": [0.9]})
    fig, axis = plots.figure()
    plots.learning_curves(axis, {"one": one, "other": other})
    lines = [container.lines[0] for container in axis.containers]
    assert [list(line.get_xdata()) for line in lines] == [[10, 1000], [20000]]
    assert np.allclose(lines[0].get_ydata(), [0.2, 0.5])
    bars = axis.containers[0].lines[2][0].get_segments()
    assert np.allclose(bars[0][:, 1], [0.1, 0.3])
    assert lines[0].get_marker() != lines[1].get_marker() and lines[0].get_linestyle() != lines[1].get_linestyle()
    assert axis.xaxis.get_major_formatter()(20000, 0) == "20k"


def test_a_method_looks_the_same_in_the_panels_of_all_tasks():
    def table(task, values):
        return pd.DataFrame({"task": task, "metric": "accuracy", "n": [10, 100], "value": values})

    other_metric = table("race", [7.0, 7.0]).assign(metric="mae")
    runs = {
        "first": pd.concat([table("race", [0.2, 0.4]), other_metric]),
        "second": pd.concat([table("race", [0.1, 0.3]), table("gender", [0.5, 0.6])]),
        "third": table("gender", [0.7, 0.8]),
    }
    fig = plots.learning_curve_panels(runs)
    assert [axis.get_title() for axis in fig.axes] == ["race", "gender"]
    race, gender = (
        {c.get_label(): c.lines[0] for c in axis.containers if len(c.lines[0].get_xdata())} for axis in fig.axes
    )
    assert set(race) == {"first", "second"} and set(gender) == {"second", "third"}
    assert np.allclose(race["first"].get_ydata(), [0.2, 0.4])
    assert race["second"].get_color() == gender["second"].get_color()
    assert len({line.get_color() for line in (race["first"], race["second"], gender["third"])}) == 3
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(runs)


def test_long_names_below_bars_are_wrapped_and_never_cut():
    names = ["frozen", "discriminative rates", "probe, then all", "from scratch", "everything", "last block", "head"]
    fig, axis = plots.figure()
    plots.bars_with_spread(axis, {name: [0.5, 0.6] for name in names})
    shown = [label.get_text() for label in axis.get_xticklabels()]
    assert [text.replace("\n", " ") for text in shown] == names and "\n" in shown[1]


def test_the_style_stays_inside():
    before = dict(matplotlib.rcParams)
    fig, axis = plots.figure()
    axis.plot([0, 1])
    plots.png(fig)
    assert dict(matplotlib.rcParams) == before


def test_bars_of_all_columns_have_one_scale():
    rows = pd.DataFrame({"kept": [1.0, 0.2], "cosine": [1.0, -0.1]}, index=["before", "after"])
    axes = plots.bars_by_column(rows).axes
    assert [axis.get_title() for axis in axes] == ["kept", "cosine"]
    assert len({axis.get_xlim() for axis in axes}) == 1 and axes[0].get_xlim()[0] < -0.1
    assert [[bar.get_width() for bar in axis.patches] for axis in axes] == [[1.0, 0.2], [1.0, -0.1]]
    assert [text.get_text() for text in axes[1].texts] == ["1.00", "-0.10"]


def test_captions_stand_below_their_pictures():
    images = np.zeros((4, 3, 8, 8), np.uint8)
    fig = plots.image_grid(images, ["one\nline more"] * 4, columns=2)
    plots.png(fig)
    renderer = fig.canvas.get_renderer()
    pictures = [axis.get_window_extent(renderer) for axis in fig.axes]
    captions = [axis.texts[0].get_window_extent(renderer) for axis in fig.axes]
    assert not any(caption.overlaps(picture) for caption in captions for picture in pictures)


def test_seeds_that_agree_to_the_last_digit_have_no_spread():
    equal = [0.1, 0.1, 0.1]
    assert np.mean(equal) != 0.1  # why this test is here
    fig, (one, other) = plots.figure(1, 2)
    plots.learning_curves(one, {"linear": pd.DataFrame({"n": 5, "value": equal})})
    plots.lines_with_spread(other, [5], {"linear": np.array([equal]).T})
    for axis in (one, other):
        bar = axis.containers[0].lines[2][0].get_segments()[0]
        assert np.allclose(bar[:, 1], 0.1)


@pytest.mark.parametrize("n_tables", range(1, 8))
@pytest.mark.parametrize("n_methods", range(1, 9))
def test_panels_are_never_wider_than_a_page_on_which_their_labels_can_be_read(n_tables, n_methods):
    methods = [f"method {place}" for place in range(n_methods)]
    table = pd.DataFrame(np.linspace(0.4, 0.6, 2 * n_methods).reshape(2, -1), columns=methods)
    fig = plots.bar_panels({f"task {place}": table for place in range(n_tables)})
    assert fig.get_figwidth() <= plots.WIDEST
    assert [axis.get_title() for axis in fig.axes] == [f"task {place}" for place in range(n_tables)]
    assert len({axis.get_ylim() for axis in fig.axes}) == 1  # one scale


@pytest.mark.parametrize(("shape", "size"), [((1, 1), (12.0, 3.0)), ((2, 5), None), ((1, 2), (8.5, 4.0))])
def test_whatever_is_asked_for_a_figure_is_never_wider_than_the_page(shape, size):
    fig, _ = plots.figure(*shape, size=size)
    assert fig.get_figwidth() == plots.WIDEST and (size is None or fig.get_figheight() == size[1])


def test_right_answers_come_first_and_wrong_ones_after():
    labels, said = np.repeat(["a", "b"], 10), np.array([*"a" * 13, *"b" * 7])
    fig = plots.right_and_wrong(np.zeros((20, 3, 8, 8), np.uint8), labels, said, each=5)
    captions = [axis.texts[0].get_text().split() for axis in fig.axes if axis.texts]
    assert [caption[1] == caption[3] for caption in captions] == [True] * 5 + [False] * 3


def test_panels_fit_a_narrow_window_and_large_numbers_are_short():
    runs = {"one": pd.DataFrame({"task": [*"abc"], "metric": "accuracy", "n": [500, 5000, 20000], "value": 0.5})}
    fig = plots.learning_curve_panels(runs)
    assert fig.get_size_inches()[0] <= plots.WIDEST
    assert [fig.axes[0].xaxis.get_major_formatter()(n, 0) for n in (500, 5000, 18900)] == ["500", "5k", "18.9k"]


def test_lying_bars_are_means_with_every_row_as_a_dot_and_the_standard_error_beside():
    table = pd.DataFrame({"single": [0.4, 0.6], "soft": [0.5, 0.5]})
    fig = plots.lying_bar_panels({"age": table, "race": table, "gender": table.iloc[:1]}, columns=2)
    assert fig.get_figwidth() <= plots.WIDEST and [axis.get_title() for axis in fig.axes] == ["age", "race", "gender"]
    for axis, texts in zip(fig.axes, (["0.50 ± 0.10", "0.50 ± 0.00"],) * 2 + (["0.40", "0.50"],), strict=True):
        assert [text.get_text() for text in axis.texts] == texts
    first = fig.axes[0]
    assert [bar.get_width() for bar in first.patches] == pytest.approx([0.5, 0.5])
    assert [list(line.get_xdata()) for line in first.lines] == [[0.4, 0.6], [0.5, 0.5]]
    assert [label.get_text() for label in first.get_yticklabels()] == ["single", "soft"]
    assert [text.get_text() for text in plots.lying_bar_panels({"a": 10 * table}, "{:+.1f}").axes[0].texts][
        0
    ] == "+5.0 ± 1.0"


def test_a_png_is_sharp_and_has_the_colours_of_its_figure():
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (3, 3, 1, 1), dtype=np.uint8) + rng.integers(0, 3, (3, 3, 40, 40), dtype=np.uint8)
    fig = plots.image_grid(faces, ["a", "b", "c"], columns=3)
    plots.png(fig)
    fig.set_layout_engine("none")  # each time would move things a little
    data = plots.png(fig)
    seen = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    width, height = (round(inches * plots.DPI) for inches in fig.get_size_inches())
    assert seen.shape == (plots.SHARP * height, plots.SHARP * width, 3) and plots.shown_width(data) == width
    buffer = io.BytesIO()
    with plots.style():
        fig.savefig(buffer, format="png", dpi=plots.SHARP * plots.DPI)
    wanted = np.asarray(PIL.Image.open(buffer).convert("RGB")).astype(int)
    assert abs(seen - wanted).mean() < 2 and abs(seen - wanted).max() < 24


def test_the_256_colours_of_photos_are_as_good_as_those_that_take_ten_times_as_long():
    across = np.broadcast_to(np.arange(120, dtype=np.uint8), (120, 120))
    photos = np.stack([[across.T + shift, across + 2 * shift, across // 2 + 40] for shift in np.uint8([0, 20, 60])])
    fig = plots.image_grid(photos, columns=3, cell=2)
    plots.png(fig)
    fig.set_layout_engine("none")
    buffer = io.BytesIO()
    with plots.style():
        fig.savefig(buffer, format="png", dpi=plots.SHARP * plots.DPI)
    whole = PIL.Image.open(buffer).convert("RGB")
    assert len(whole.getcolors(1 << 24)) > 1 << 14
    slow = whole.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, kmeans=1)
    wanted, slow, seen = (
        np.asarray(picture.convert("RGB")).astype(int)
        for picture in (whole, slow, PIL.Image.open(io.BytesIO(plots.png(fig))))
    )
    assert ((seen - wanted) ** 2).mean() < 1.1 * ((slow - wanted) ** 2).mean()
    white = (wanted == 255).all(2)
    assert white.any() and (seen[white] == 255).all()
