"""Controls and their static twins: the same function makes both, and an error is said where the learner looks."""

from __future__ import annotations

import base64
import io
import re

import ipywidgets
import numpy as np
import PIL.Image
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from facekit.errors import ConfigError
from facekit.show import plots, widgets


def square(side: int, colour: str = "grey") -> np.ndarray:
    return np.full((side, side, 3), {"grey": 128, "white": 255}[colour], dtype=np.uint8)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)))


@pytest.fixture
def published(monkeypatch) -> list:
    """What a notebook would show: (bundle, metadata) pairs."""
    shown = []
    monkeypatch.setattr(plots, "publish", lambda bundle, metadata=None: shown.append((bundle, metadata)))
    return shown


def test_every_kind_of_picture_becomes_png():
    array = square(4)
    array[0, 1] = (1, 2, 3)
    assert (pixels(widgets.to_png(array)) == array).all()
    assert (pixels(widgets.to_png(torch.from_numpy(array).permute(2, 0, 1))) == array).all()
    assert (pixels(widgets.to_png(array[..., 0])) == array[..., 0]).all()
    assert widgets.to_png(b"png") == b"png"
    fig, _ = plots.figure(size=(1, 1))
    assert pixels(widgets.to_png(fig)).shape[:2] == (plots.SHARP * plots.DPI, plots.SHARP * plots.DPI)
    assert plots.shown_width(widgets.to_png(fig)) == plots.DPI and plots.shown_width(widgets.to_png(array)) == 4
    for wrong in (array.astype(float), [1, 2], None):
        with pytest.raises(ConfigError, match="a picture is"):
            widgets.to_png(wrong)


def test_the_widget_and_its_twin_show_the_same(published):
    twin = widgets.Twin(square, alt=lambda side: f"A grey square of {side} pixels.", side=ipywidgets.IntSlider(3, 1, 9))
    twin.show()
    bundle, metadata = published[0]
    alt = metadata["image/png"]["alt"]
    assert alt == "A grey square of 3 pixels." and alt in published[1][0]["text/plain"] and alt in twin.caption.value
    assert bundle["text/plain"] == "Picture at side=3"
    twin.controls["side"].value = 5
    source, alt, width = re.match(r'<img src="([^"]+)" alt="([^"]+)" width="(\d+)"', twin.image.value).groups()
    shown = pixels(base64.b64decode(source.removeprefix("data:image/png;base64,")))
    assert shown.shape == (5, 5, 3) and alt == "A grey square of 5 pixels." and alt in twin.caption.value
    assert "Controls (side)" in published[-1][0]["text/plain"]
    assert not twin.controls["side"].continuous_update
    assert (metadata["image/png"]["width"], width) == (3, "5")


def test_explore_offers_the_choices_and_shows_the_settings(published):
    widgets.explore(
        square,
        alt=lambda side, colour: f"A {colour} square of {side} pixels.",
        side=[2, 4],
        colour=["white", "grey"],
        settings=[{}, {"colour": "grey"}],
    )
    texts = [bundle["text/plain"] for bundle, metadata in published if metadata]
    assert texts == ["Picture at side=2, colour=white", "Picture at side=2, colour=grey"]
    assert "Controls (side, colour)" in published[-1][0]["text/plain"]


@pytest.mark.parametrize("values", [[1], [], "grey"])
def test_a_control_needs_a_choice(values):
    with pytest.raises(ConfigError, match="at least two values"):
        widgets.explore(square, alt="a square of pixels", side=values)


def test_the_caption_says_that_a_picture_is_being_drawn():
    captions = []

    def slow(side: int) -> np.ndarray:
        captions.append(twin.caption.value if twin else "")
        return square(side)

    twin = None
    twin = widgets.Twin(slow, alt="A square.", side=ipywidgets.IntSlider(3, 1, 9))
    twin.controls["side"].value = 5
    assert "Drawing" in captions[-1] and "A square." in twin.caption.value


def test_an_error_while_drawing_is_said_in_the_caption():
    colour = ipywidgets.Dropdown(options=["grey", "purple"])
    twin = widgets.Twin(square, alt="a square", side=ipywidgets.IntSlider(3), colour=colour)
    colour.value = "purple"
    assert "No picture for this setting" in twin.caption.value and "purple" in twin.caption.value


def test_no_controls_or_controls_without_value():
    with pytest.raises(ConfigError, match="at least one control"):
        widgets.Twin(square, alt="a square")
    with pytest.raises(ConfigError, match="'side' has no value"):
        widgets.Twin(square, alt="a square", side=ipywidgets.Button())


def test_the_text_of_a_widget_does_not_change_with_its_state(published):
    box = ipywidgets.VBox([ipywidgets.Image(value=b"abc")])
    widgets.publish_widget(box, "Controls: run this cell.")
    assert published[0][0]["text/plain"] == "Controls: run this cell."
    assert published[0][0]["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id


def test_pictures_need_a_text_alternative(published):
    fig, _ = plots.figure()
    with pytest.raises(ConfigError, match="text alternative"):
        plots.show(fig, alt="  ")
    plots.show(fig, alt="two\n  words")
    assert published[0][1] == {"image/png": {"alt": "two words", "width": 640}}


def test_outside_a_notebook_the_text_is_printed(capsys):
    assert not InteractiveShell.initialized()
    plots.show(plots.figure()[0], alt="An empty pair of axes.")
    assert capsys.readouterr().out == "Figure, 640 x 380 px, 1 axes\nFigure: An empty pair of axes.\n"


def test_a_choice_is_a_place_and_its_value():
    choice = widgets.radio_buttons(["a", "b"], "Which?")
    seen: list[object] = []
    choice.observe(lambda change: seen.append(change["new"]), names="value")
    assert (choice.value, choice.index, choice.texts, choice.description) == (None, None, ["a", "b"], "Which?")
    choice.index = 1  # as the browser does
    assert choice.value == 1
    choice.value = 0  # as a program does
    assert choice.index == 0 and seen == [1, 0]
    slider = widgets.Chooser([("20", 20), ("1,000", 1000)], "side", slider=True)
    assert (slider.value, slider.index) == (20, 0)
    slider.index = 1
    assert slider.value == 1000
    with pytest.raises(ValueError):
        slider.value = 30
