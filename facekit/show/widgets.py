"""Controls over pictures, each with a static twin: an ordinary picture made by the same pure function.

A notebook that is opened without a kernel shows its stored outputs only. So whatever a widget can show is shown
first as PNG with a text alternative, and the widget only replaces that picture in place. The picture is HTML
that changes when a control changes; nothing is printed or drawn inside an Output widget, which leaves duplicates
behind where no front end listens.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets as widgets
import numpy as np
import PIL.Image
import torch
import traitlets
from matplotlib.figure import Figure

from facekit.errors import ConfigError
from facekit.show import plots

Picture = Figure | bytes | np.ndarray | torch.Tensor


def to_png(picture: Picture) -> bytes:
    """A figure, PNG bytes, or a uint8 image as PNG bytes.

    An image is (H, W, 3) or (H, W) as array, (3, H, W) as tensor. Raises ConfigError for anything else.
    """
    if isinstance(picture, Figure):
        return plots.png(picture)
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = getattr(picture, "dtype", type(picture).__name__)
        raise ConfigError(f"a picture is a figure, PNG bytes or a uint8 image, not {kind}.")
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


class Chooser(anywidget.AnyWidget):
    """Radio buttons, or a slider, over texts: its group has a name, and what it stands at is said.

    ipywidgets' own say neither (their radio buttons are a group without a name, their slider says the place, not the
    value). options: (text, value) pairs. description: the name. slider: it stands at the first value; of radio buttons
    none is chosen, and `value` is None. Works with Tab and the arrow keys alone.
    """

    _esm = Path(__file__).parent / "choice.js"
    _css = """
        .facekit-radio { display: flex; gap: 0.5em; align-items: baseline; margin: 0.15em 0; }
        .facekit-slider { display: flex; gap: 0.8em; align-items: center; }
        .facekit-slider input { width: 16em; max-width: 60%; }
        .facekit-radio input:focus-visible, .facekit-slider input:focus-visible {
            outline: 2px solid var(--jp-brand-color1, currentColor); outline-offset: 2px; }
    """
    texts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    slider = traitlets.Bool().tag(sync=True)
    index = traitlets.Int(None, allow_none=True).tag(sync=True)
    value = traitlets.Any(None, allow_none=True)

    def __init__(self, options: Sequence[tuple[str, object]], description: str, slider: bool = False) -> None:
        self.options = list(options)
        texts = [text for text, _ in options]
        super().__init__(texts=texts, description=description, slider=slider, index=0 if slider else None)
        self.value = self._at()

    def _at(self) -> object:
        return None if self.index is None else self.options[self.index][1]

    @traitlets.observe("index")
    def _moved(self, _change: object) -> None:
        self.value = self._at()

    @traitlets.observe("value")
    def _given(self, change: dict) -> None:
        values = [value for _, value in self.options]
        self.index = None if change["new"] is None else values.index(change["new"])


class Twin:
    """Controls, the picture they change, and the same picture as an ordinary output.

    function: pure; takes the controls' values by name, returns a picture (figure, PNG bytes or uint8 image).
    alt: the picture's text alternative, or a function of the same values that returns it. settings: what the static
    twin shows, one picture each; by default the controls' first values. controls: widgets with a `value`, by the
    function's argument names: `Twin(f, alt="…", age=IntSlider(40, 0, 90))`.
    """

    def __init__(
        self,
        function: Callable[..., Picture],
        *,
        alt: str | Callable[..., str],
        settings: Sequence[Mapping[str, object]] = (),
        **controls: widgets.Widget,
    ) -> None:
        if not controls:
            raise ConfigError("a widget needs at least one control.")
        for name, control in controls.items():
            if not control.has_trait("value"):
                raise ConfigError(f"control {name!r} has no value: {type(control).__name__}.")
            if control.has_trait("continuous_update"):
                control.continuous_update = False  # one picture a choice, not one for each pixel of the mouse's way
            control.description = control.description or name
            if control.has_trait("style"):
                control.style.description_width = "initial"  # as wide as its text, which would end in dots else
        self.function, self.controls, self.alt = function, controls, alt
        self.settings = [self.values | dict(setting) for setting in settings] or [self.values]
        self.image = widgets.HTML()
        self.caption = widgets.HTML()
        self.box = widgets.VBox([*self.controls.values(), self.image, self.caption])
        for control in self.controls.values():
            control.observe(self._update, names="value")
        self._update()

    @property
    def values(self) -> dict[str, object]:
        """The controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def render(self, values: Mapping[str, object]) -> tuple[bytes, str]:
        """PNG bytes and text alternative for given values: what both the widget and its twin show."""
        return to_png(self.function(**values)), self.alt(**values) if callable(self.alt) else self.alt

    def _update(self, _change: object = None) -> None:
        self.caption.value = status_line("Drawing …")  # reaches the browser while the kernel is still busy
        try:
            data, alt = self.render(self.values)
            put(self.image, data, alt)
        except Exception as error:  # an error in a callback would vanish in the browser's log
            alt = f"No picture for this setting: {error}"
        self.caption.value = status_line(alt)

    def show(self) -> None:
        """Shows the static pictures, then the widget."""
        for values in self.settings:
            setting = ", ".join(f"{name}={value}" for name, value in values.items())
            data, alt = self.render(values)
            plots.show_png(data, alt, f"Picture at {setting}")
        names = ", ".join(control.description for control in self.controls.values())
        publish_widget(self.box, f"Controls ({names}): run this cell to use them.")


def explore(
    function: Callable[..., Picture],
    *,
    alt: str | Callable[..., str],
    settings: Sequence[Mapping[str, object]] = (),
    **choices: Sequence[object],
) -> None:
    """Shows the picture of the first choices and, where a kernel runs, controls that show it for the others.

    function, alt, settings: as in `Twin`. choices: the values of each argument of `function`; numbers become a
    slider over these values, anything else a drop-down list. Raises ConfigError for an argument with one value.
    """
    controls: dict[str, widgets.DOMWidget] = {}
    for name, values in choices.items():
        if isinstance(values, str) or len(values) < 2:
            raise ConfigError(f"{name!r}: give at least two values to choose from, not {values!r}.")
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        options = [(f"{value:,}" if numbers else str(value), value) for value in values]
        said = name.replace("_", " ")
        if numbers:
            controls[name] = Chooser(options, said, slider=True)
        else:
            controls[name] = widgets.Dropdown(options=options, value=values[0], description=said)
    Twin(function, alt=alt, settings=settings, **controls).show()


def status_line(text: str, escape: bool = True) -> str:
    """A text as HTML for below a picture; screen readers announce it when it changes. escape: not for HTML."""
    return f'<div role="status" aria-live="polite">{html.escape(text) if escape else text}</div>'


def radio_buttons(texts: Sequence[str], name: str) -> Chooser:
    """A choice among texts, none chosen yet; its value is the number of the text, 0 for the first. name: of the group,
    for who hears it."""
    return Chooser([(text, number) for number, text in enumerate(texts)], name)


def put(place: widgets.HTML, data: bytes, alt: str) -> None:
    """Shows PNG bytes, as wide as `plots.show_png` shows them, with their text alternative; b"" shows none.

    In HTML, since ipywidgets' own `Image` has no text alternative.
    """
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    width = plots.shown_width(data) if data else 0
    image = f'<img src="{source}" alt="{html.escape(alt)}" width="{width}" style="max-width: 100%">'
    place.value = image if data else ""


def publish_widget(widget: widgets.DOMWidget, text: str) -> None:
    """Displays a widget whose plain-text form is `text`.

    The ordinary plain text of a widget lists its children with their bytes, which no test could compare.
    """
    plots.publish(widget._repr_mimebundle_() | {"text/plain": text})
