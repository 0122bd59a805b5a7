"""A photo of one's own: the faces in it, and what a classifier that was just trained says of each.

Everything happens in this process and in memory: no file is written, no embedding is kept, nothing is sent.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from facekit.answers.faces import Cut
from facekit.answers.predict import FACE, Pipeline
from facekit.data.align import Framing, Photo, opened
from facekit.data.portraits import render_portraits
from facekit.data.readers.archives import Problem
from facekit.data.readers.decode import Unusable, decode, decode_file, quiet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import temperature_scaled
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import Embedder
from facekit.models.heads import Classifier
from facekit.show import plots
from facekit.show.widgets import publish_widget, put, status_line
from facekit.training.loop import predict

MOST_FACES = 6  # rows of the picture
TOLD = 0.8  # the text names classes until they have this much of the probability
CAUTION = (
    "These are guesses of how annotators would label a face that looks so to this network, among the only answers it "
    "knows; they do not say who or what anybody is, and nobody has measured how often they are right on such a photo."
)
_WHY_NONE = {
    "no face": "No face was found. The detector wants a face of at least 20 pixels that is roughly upright and not "
    "covered, and it misses some faces, of some groups more than of others.",
    "too many pixels": "The photo has too many pixels; make it smaller first.",
    "too small": "The photo is too small to show a face.",
    "unreadable": "This cannot be read as a photo.",
    "unknown brightness": "Nothing in this file says which of its values is white.",
    "too costly": "This file asks for more work than a photo does.",
    "file too large": "This file is too large for a photo.",
    "no file": "There is no photo at this path.",
    "empty": "This file is empty.",
}


@dataclass(frozen=True)
class Reading:
    """The faces of one photo, largest first, and what a classifier says of them.

    crops: uint8 (M, 3, size, size), what the network saw. table: a row a face: left, top, right, bottom in pixels of
    the upright photo, and the detector's confidence. probabilities: by task name, a table (M, classes) whose rows sum
    to 1. text: one line; how many faces were found, or why there is none.
    """

    crops: np.ndarray
    table: pd.DataFrame
    probabilities: dict[str, pd.DataFrame]
    text: str

    @property
    def alt(self) -> str:
        """The picture in words; probabilities are rounded to a tenth, which is more than they are good for."""
        if not len(self.crops):
            return self.text
        faces = []
        for face in range(len(self.crops)):
            tasks = [f"{name} {_in_words(table.iloc[face])}" for name, table in self.probabilities.items()]
            faces.append(f"face {face + 1}: {'; '.join(tasks)}")
        return f"{self.text} {'. '.join(faces)}. {CAUTION}"

    def figure(self) -> Figure:
        """One row a face: the crop, and the probability of every class of every task; without a face, the text."""
        if not len(self.crops):
            fig, axis = plots.figure(size=(6.4, 1.3))
            axis.set_axis_off()
            axis.text(0, 0.5, textwrap.fill(self.text, 78), va="center", fontsize=10)
            return fig
        tasks = self.probabilities
        heights = max(0.24 * max(table.shape[1] for table in tasks.values()), 1.6) + 0.35
        size = (1.9 + 2.7 * len(tasks), heights * len(self.crops) + 0.5)
        ratios = [1.9, *[2.7] * len(tasks)]
        fig, axes = plots.figure(len(self.crops), 1 + len(tasks), size=size, squeeze=False, width_ratios=ratios)
        for face, row in enumerate(axes):
            row[0].imshow(self.crops[face].transpose(1, 2, 0))
            row[0].set_axis_off()
            row[0].set_title(f"face {face + 1}", fontsize=11)
            for place, (axis, (name, table)) in enumerate(zip(row[1:], tasks.items(), strict=True)):
                _bars(axis, table.iloc[face], name, place)
        with plots.style():
            fig.supxlabel(textwrap.fill(CAUTION, round(12 * fig.get_figwidth())), fontsize=9, x=0.02, ha="left")
        return fig


def likely(shares: pd.Series) -> list[str]:
    """The most probable classes, most probable first, until they have the share `TOLD` of the probability."""
    ordered = shares.sort_values(ascending=False, kind="stable")
    before = ordered.cumsum() - ordered  # what the more probable ones have already
    return [str(name) for name in ordered.index[before < TOLD]]


def read_photo(
    photo: Photo | bytes | memoryview,
    backbone: Backbone,
    classifier: Classifier,
    temperatures: Mapping[str, float] | None = None,
) -> Reading:
    """Finds the faces of a photo, cuts them out as FairFace's photos are, and says how probable each class is for each.

    photo: the bytes of a file, a path, a PIL image, or a uint8 array as `align_faces` takes it. backbone: whose
    embeddings the classifier knows; facenet-mini's lie in FaceNet's space, so that a classifier which learnt from
    FaceNet's features takes them, too. classifier: multiclass heads on embeddings. temperatures: by task name, what the
    outputs are divided by, see `calibration.fit_temperatures`; 1 for a task that has none.

    The probability is the softmax of the classifier's scaled outputs for the mean embedding of crop and mirror image.
    It is calibrated at best for embeddings like those that the temperatures were fitted on, not for this photo, nor for
    those of a network that imitates theirs (Guo et al., ICML 2017; Ovadia et al., NeurIPS 2019, under shift).

    A photo without a face, or one that cannot be read, is no error: the reading then has a text and no crops. Nothing
    is written, cached or sent. Raises ConfigError for a classifier or a temperature that cannot be used.
    """
    _check(backbone, classifier, temperatures)
    size = backbone.image_size
    cut = Cut(size, size, Framing())
    try:
        crops, boxes = cut(opened(_opened(photo), 0))
    except DataError as error:
        problem = error.problem if isinstance(error, Unusable) else Problem("unreadable", str(error))
        return _nothing(classifier, size, problem)
    found, crops = len(crops), crops[:MOST_FACES]
    table = pd.DataFrame(boxes[:MOST_FACES], columns=list(FACE[2:]))
    outputs = Pipeline(cut, partial(predict, classifier), Embedder(backbone, flip=True)).outputs(crops)
    probabilities = {
        task.name: pd.DataFrame(
            temperature_scaled(outputs[task.name], (temperatures or {}).get(task.name, 1.0)), columns=list(task.classes)
        )
        for task in classifier.tasks
    }
    text = f"{found} face{'s' * (found > 1)} found{', largest first' * (found > 1)}."
    if found > MOST_FACES:
        text = f"{found} faces found, the largest {MOST_FACES} are shown."
    return Reading(crops, table, probabilities, text)


@cache
def example_photos() -> Mapping[str, Image.Image]:
    """Pictures to try, by name, all rendered: a portrait, two of them side by side, and the first on its side."""
    images = render_portraits(2, seed=11, size=256, per_person=1, workers=1).images.transpose(0, 2, 3, 1)
    one, two = (Image.fromarray(np.ascontiguousarray(pixels)) for pixels in images)
    both = Image.fromarray(np.concatenate([np.asarray(one), np.asarray(two)], axis=1))
    return {
        "a drawn portrait": one,
        "two drawn portraits": both,
        "the first, on its side": one.transpose(Image.Transpose.ROTATE_90),
    }


class OwnPhoto:
    """`read_photo` with controls: a choice of drawn pictures, an upload, the path of a file on this machine.

    What is uploaded is read and dropped at once. Its picture is shown in the widget alone, which is not saved with the
    notebook; the ordinary picture above the controls (`show`) is always a drawn one.
    """

    def __init__(
        self,
        backbone: Backbone,
        classifier: Classifier,
        temperatures: Mapping[str, float] | None = None,
        examples: Mapping[str, Photo] | None = None,
    ) -> None:
        self.backbone, self.classifier, self.temperatures = backbone, classifier, temperatures
        self.examples = dict(example_photos() if examples is None else examples)
        wide = {"style": {"description_width": "initial"}, "layout": widgets.Layout(width="30em", max_width="100%")}
        self.choice = widgets.Dropdown(options=list(self.examples), description="picture", **wide)
        self.upload = widgets.FileUpload(accept="image/*", description="your own photo", layout=wide["layout"])
        self.path = widgets.Text(description="or its path", placeholder="for files over 10 MB", **wide)
        self.path.continuous_update = False  # read when Enter is pressed, not at every letter
        self.clear = widgets.Button(description="remove the picture")
        self.image = widgets.HTML()
        self.caption = widgets.HTML()
        controls = (self.choice, self.upload, self.path, self.clear)
        self.box = widgets.VBox([*controls, self.image, self.caption])
        self.choice.observe(lambda change: self.read(self.examples[change["new"]]), names="value")
        self.upload.observe(self._uploaded, names="value")
        self.path.observe(lambda change: change["new"] and self.read(Path(change["new"].strip())), names="value")
        self.clear.on_click(lambda _: self._removed())
        self.first = self.read(next(iter(self.examples.values())))

    def read(self, photo: Photo | bytes | memoryview) -> Reading | None:
        """Shows what is seen in a photo in the widget and returns it; an error becomes the text below."""
        self.caption.value = status_line("Looking …")
        try:
            reading = read_photo(photo, self.backbone, self.classifier, self.temperatures)
            text = reading.alt
            put(self.image, plots.png(reading.figure()), text)
        except Exception as error:  # an error in a callback would vanish in the browser's log
            reading, text = None, f"No result for this photo: {error}"
        self.caption.value = status_line(text)
        return reading

    def show(self) -> None:
        """Shows what is seen in the first example as an ordinary picture, then the controls."""
        if self.first is not None:
            plots.show_png(plots.png(self.first.figure()), self.first.alt, "Picture of the first example")
        publish_widget(self.box, "Controls (picture, your own photo, its path): run this cell to use them.")

    def _uploaded(self, change: dict) -> None:
        if change["new"]:
            content = change["new"][0]["content"]
            self.upload.value = ()
            self.read(bytes(content))

    def _removed(self) -> None:
        self.path.value = ""
        put(self.image, b"", "")
        self.caption.value = status_line("The picture is removed.")


def _check(backbone: Backbone, classifier: Classifier, temperatures: Mapping[str, float] | None) -> None:
    """Raises ConfigError unless the classifier has multiclass heads on embeddings as long as the backbone's."""
    if unknown := set(temperatures or {}) - {task.name for task in classifier.tasks}:
        raise ConfigError(f"a temperature for {sorted(unknown)[0]!r}, which the classifier does not predict.")
    numbers = [task.name for task in classifier.tasks if not task.argmax]
    if classifier.backbone is not None:
        raise ConfigError("read_photo needs a classifier on embeddings (`linear_probe`), not one with its own network.")
    if numbers:
        raise ConfigError(f"a probability needs classes; {', '.join(numbers)} is a number. Leave it out.")
    if classifier.heads.in_features != backbone.embedding_dim:
        raise ConfigError(
            f"{backbone.name} gives embeddings of {backbone.embedding_dim} numbers, the classifier takes "
            f"{classifier.heads.in_features}; fit it on embeddings of this network or of FaceNet."
        )


def _opened(photo: Photo | bytes | memoryview) -> Photo:
    """What `align_faces` takes; bytes and paths are decoded here, so that the whole reason is known."""
    try:
        with quiet():
            if isinstance(photo, (str, Path)):
                return decode_file(photo)
            if isinstance(photo, (bytes, bytearray, memoryview)):
                return decode(bytes(photo))
    except Unusable as error:
        known = error.problem.reason == "empty"  # of which there is no more to say
        raise Unusable(Problem(error.problem.reason, "" if known else error.problem.detail)) from None
    if not isinstance(photo, (Image.Image, np.ndarray)):
        raise DataError(f"a {type(photo).__name__} is no photo; give bytes, a path, a PIL image or a uint8 array.")
    return photo


def _nothing(classifier: Classifier, size: int, problem: Problem) -> Reading:
    """A reading without faces, whose text says why."""
    text = _WHY_NONE.get(problem.reason, problem.reason) + (f" ({problem.detail})" if problem.detail else "")
    empty = {task.name: pd.DataFrame(columns=list(task.classes), dtype=float) for task in classifier.tasks}
    return Reading(np.empty((0, 3, size, size), np.uint8), pd.DataFrame(), empty, text)


def _in_words(shares: pd.Series) -> str:
    """The likely classes with their probabilities, such as `Female (about 90 %)`."""
    tenths = (10 * shares).round().astype(int)
    # Classes that are about equally probable stay in their own order: on another machine their ranks may differ.
    ordered = sorted(likely(shares), key=lambda name: (-tenths[name], list(shares.index).index(name)))
    names = [f"{name.replace('_', ' ')} (about {10 * tenths[name]} %)" for name in ordered]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@plots.style()
def _bars(axis, shares: pd.Series, name: str, place: int) -> None:
    """Lying bars with the probability of every class in percent."""
    names = [str(label).replace("_", " ") for label in shares.index]
    bars = axis.barh(names, 100 * shares, color=plots.COLORS[place % len(plots.COLORS)], height=0.7)
    axis.bar_label(bars, [f"{100 * share:.0f}" for share in shares], padding=2, fontsize=9)
    axis.set(xlim=(0, 118))
    axis.set_xticks([0, 50, 100])
    axis.set_title(f"{name.replace('_', ' ')}, %", fontsize=11)
    axis.tick_params(labelsize=9)
    axis.grid(False, axis="y")
    axis.invert_yaxis()
