"""What a lesson calls first: `course = start("03")` gives the data, the backbone and the sizes of the profile.

This is the one place where the two profiles differ. In profile `laptop` faces are rendered portraits, the backbone
is facenet-mini and features are drawn from the model of FaceNet's features; in profile `full` faces are FairFace
photos, the backbone is FaceNet and features are its embeddings of those photos. A lesson never asks which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from facekit import settings
from facekit.course.folders import find_lessons
from facekit.course.tally import progress
from facekit.course.workspace import found_work
from facekit.data.catalogue import photos
from facekit.data.drawn.lesions import LESION, render_lesions
from facekit.data.drawn.objects import OBJECT, THINGS, render_objects
from facekit.data.drawn.words import render_words
from facekit.data.features.model import FeatureModel
from facekit.data.portraits import render_portraits
from facekit.data.readers.captcha import ALPHABET
from facekit.data.readers.classes import class_task
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, Split
from facekit.errors import ConfigError
from facekit.models.adapters import Domain
from facekit.models.backbones.base import Backbone, Pretrained
from facekit.models.backbones.efficientnet_lite import EfficientNetLite0
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed, uses_bf16
from facekit.tasks import AGE_BAND, EXPRESSION, GENDER, GLASSES, RACE, SKIN_TONE, Task
from facekit.training.augment import Augment
from facekit.training.config import Recipe
from facekit.transfer.adaptation import low_light


@dataclass(frozen=True)
class Budget:
    """How much a lesson computes in one profile; the same for all that is compared.

    faces: photos in train, validation and test. features: the same for embeddings. many: small photos, of the training
    part, that a lesson learns features from. labels: sizes of the learning curve, rising. seeds: repeats.

    The others are for fine-tuning many networks. photos: labelled photos that are learnt from. test: photos that are
    scored. size: their side in pixels. epochs, batch_size: of every training. repeats: seeds, each with other photos.
    """

    faces: tuple[int, int, int]
    features: tuple[int, int, int]
    many: int
    labels: tuple[int, ...]
    photos: int
    test: int
    size: int
    epochs: int
    batch_size: int
    repeats: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)


_LAPTOP = Budget(
    faces=(600, 150, 400),
    features=(6000, 500, 2000),
    many=1800,
    labels=(20, 100, 500, 2000, 6000),
    photos=160,
    test=300,
    size=64,
    epochs=4,
    batch_size=16,
    repeats=(0, 1),
)
_FULL = replace(
    _LAPTOP,
    faces=(1000, 300, 1000),
    features=(19000, 1000, 1000),
    many=19000,
    labels=(50, 200, 1000, 5000, 18900),  # FairFace's training part here has 18,960
    # FaceNet learns from some ten photos a second and core; the recorded ladder is the one with more of everything.
    photos=120,
    size=160,
    epochs=3,
)
# With a GPU the photos of the full profile are no longer the bottleneck.
_FULL_GPU = replace(
    _FULL, faces=(19000, 1000, 1000), photos=4000, test=1000, epochs=6, batch_size=64, repeats=(0, 1, 2)
)


@dataclass(frozen=True)
class Domains:
    """Several kinds of pictures for one network.

    pictures: by name of the domain, with their splits. domains: their tasks, in the same order. recipe: what training
    on all of them together may spend.
    """

    pictures: dict[str, FaceSet]
    domains: tuple[Domain, ...]
    recipe: Recipe

    def split(self, name: Split) -> dict[str, FaceSet]:
        """The pictures of one split, by domain."""
        return {domain: pictures.split(name) for domain, pictures in self.pictures.items()}


@dataclass(frozen=True)
class TwoDomains:
    """Faces of one source and one target, each with a split to learn from and one to score, and tasks of both.

    looks: what the source's faces are, and the target's.
    """

    source: FaceSet
    target: FaceSet
    tasks: tuple[Task, ...]
    looks: tuple[str, str] = ("source", "target")

    @property
    def about(self) -> str:
        """One line for a reader: both looks, how many faces of each to learn from and to score, and the tasks."""
        n, n_test = (len(self.source.split(split)) for split in ("train", "test"))
        asked = ", ".join(task.name for task in self.tasks)
        return f"from {' to '.join(self.looks)}; of each {n:,} to learn from and {n_test:,} to test; tasks: {asked}"


@dataclass(frozen=True)
class Course:
    """The profile's data and networks for one lesson; made by `start`."""

    lesson: str
    profile: settings.Profile
    device: torch.device
    budget: Budget
    seed: int = 0

    @property
    def banner(self) -> str:
        """One line: lesson, profile, what stands for photos, network and features."""
        what = (
            "rendered portraits, facenet-mini, simulated FaceNet features"
            if self.profile == "laptop"
            else "FairFace photos, FaceNet, its embeddings"
        )
        return f"Lesson {self.lesson} · profile {self.profile} · {what} · computing on {self.device.type}"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the faces have labels for; the first one is where the lessons begin."""
        return (SKIN_TONE, GENDER, AGE_BAND) if self.profile == "laptop" else (RACE, GENDER, AGE_BAND)

    @property
    def feature_tasks(self) -> tuple[Task, ...]:
        """The tasks that the features have labels for: race, gender, age band in both profiles."""
        return RACE, GENDER, AGE_BAND

    @property
    def how(self) -> dict:
        """Options of `experiments.fine_tune` and `fine_tune_and_score` for profile and device, from `budget`."""
        precision = "bf16" if uses_bf16("auto", self.device) else "fp32"
        sizes = {"epochs": self.budget.epochs, "batch_size": self.budget.batch_size}
        return sizes | {"precision": precision, "channels_last": True}

    def faces(self, style: str = "photo", sizes: tuple[int, int, int] | None = None) -> FaceSet:
        """Faces with labels and fixed splits, at the backbone's image size.

        sizes: in train, validation and test, by default `budget.faces`; fewer for a lesson that only shows some.
        """
        sizes = sizes or self.budget.faces
        if self.profile == "laptop":
            return _portraits(sizes, seed=self.seed, size=FaceNetMini.image_size, style=style, per_person=1)
        return _limited(photos("fairface"), sizes, self.seed)

    def many_faces(self, size: int) -> FaceSet:
        """`budget.many` small faces, `size` pixels a side, for a network that learns from nothing; all in `train`.

        Portraits are of other people than those of `faces`; photos are all that there are, those of `faces` included.
        """
        sizes = (self.budget.many, 0, 0)
        if self.profile == "laptop":
            return render_portraits(sizes, seed=self.seed + 1, size=size, per_person=1)
        return _limited(photos("fairface").resized(size), sizes, self.seed)

    def features(self) -> FeatureSet:
        """FaceNet features with race, gender and age band, and fixed splits (sizes: `budget.features`)."""
        if self.profile == "laptop":
            drawn = FeatureModel.load().draw(sum(self.budget.features), seed=self.seed)
            drawn.labels["split"] = np.repeat(SPLITS, self.budget.features)
            return drawn
        return _limited(embed(self.backbone(), photos("fairface"), flip=True), self.budget.features, self.seed)

    def audit_features(self) -> FeatureSet:
        """As `features`, in parts that are large enough to be cut into groups (sizes: AUDIT).

        Photos are FairFace's training photos, split anew, once: its test photos here are too few, and easy for race.
        """
        if self.profile == "laptop":
            found = FeatureModel.load().draw(sum(AUDIT), seed=self.seed)
        else:
            found = _limited(embed(self.backbone(), photos("fairface"), flip=True), (sum(AUDIT), 0, 0), self.seed)
            found = found.select(np.random.default_rng(self.seed).permutation(len(found)))
        found.labels["split"] = np.repeat(SPLITS, AUDIT)
        return found

    def domains(self) -> Domains:
        """Pictures beside faces: skin, things and words.

        Drawn ones in profile laptop. In profile full things and words are photos and captchas, and there are photos
        of lesions; the skin is drawn there as well, since no box belongs to the photos.
        """
        if self.profile == "laptop":
            return Domains(drawn_pictures(DRAWN, self.seed), DRAWN_DOMAINS, DRAWN_RECIPE)
        real, skin = real_domains(), DRAWN_DOMAINS[0]
        domains = (skin, *real.domains)
        # As many pictures of each domain as in the record, in two thirds of its steps: a lesson has less time.
        rows = real.recipe.batch_size // len(real.domains)
        recipe = replace(real.recipe, steps=real.recipe.steps * 2 // 3, batch_size=rows * len(domains))
        return Domains({skin.name: SMALL_RENDERERS[skin.name](DRAWN, self.seed)} | real.pictures, domains, recipe)

    def two_domains(self) -> TwoDomains:
        """Faces that look different in source and target: rendered photos, and sketches of other people.

        In profile full FairFace's photos, and others of them in low light. Both at the size of facenet-mini, before it
        gets dark: a photo that is made smaller loses noise. They are for that network, which learnt from such photos.
        FaceNet learnt from others: with BatchNorm statistics of clean FairFace photos it tells gender there 4 to 6
        points worse than with its own (800 photos, two draws), so that adapting them costs it more than low light does.
        """
        sizes = TWO_DOMAINS[self.profile]
        if self.profile == "laptop":
            return portrait_domains(sizes, FaceNetMini.image_size, self.seed)
        train, validation, test = (2 * n for n in sizes)
        faces = _limited(photos("fairface"), (train, validation, test), self.seed).resized(FaceNetMini.image_size)
        source, target = (faces.select(np.arange(place, len(faces), 2)) for place in range(2))
        looks = "clean photos", "other ones with a quarter of the light and noise of 4 %"
        return TwoDomains(source, low_light(target, 0.25, 0.04, self.seed), (RACE, GENDER, AGE_BAND), looks)

    def sources(self) -> dict[str, tuple[FaceSet, Task]]:
        """Small drawn pictures with labels, of which a small network can be taught something: things, and letters.

        The classes are others than those of `targets`. The same in both profiles.
        """
        return {
            "things": _things(SOURCES, THINGS[:6], self.seed + 1),
            "letters": _symbols(SOURCES, LETTERS, self.seed + 1),
        }

    def targets(self) -> dict[str, tuple[FaceSet, Task]]:
        """Pictures and what is asked of them, with splits `train` and `test`: faces, things and something else.

        Drawn ones of 32 × 32 pixels in profile laptop: portraits, other things and other symbols than in `sources`.
        In profile full FairFace's photos, CIFAR-10's and those of lesions.
        """
        n, n_test = TARGETS[self.profile]
        if self.profile == "laptop":
            faces = render_portraits((n, 0, n_test), self.seed + 2, 32, per_person=1)
            things = _things(n + n_test, THINGS[6:], self.seed + 2)
            symbols = _symbols(n + n_test, DIGITS, self.seed + 2)
            return {"gender": (faces, GENDER), "skin tone": (faces, SKIN_TONE)} | {
                name: (_in_two(data, n), task) for name, (data, task) in {"things": things, "digits": symbols}.items()
            }
        sizes = (n, 0, n_test)
        faces, things, lesions = (
            _limited(photos(name), sizes, self.seed) for name in ("fairface", "objects", "lesions")
        )
        asked = {"things": (things, "object"), "lesions": (lesions, "diagnosis")}
        return {"gender": (faces, GENDER), "race": (faces, RACE)} | {
            name: (data, class_task(data, column)) for name, (data, column) in asked.items()
        }

    def networks(self) -> dict[str, Pretrained]:
        """Networks with weights, in evaluation mode: facenet-mini, in profile full FaceNet and one for ImageNet, too.

        Where the packages for the last one are not installed, it is left out, and a line says so.
        """
        if self.profile == "laptop":
            return {"facenet-mini": FaceNetMini.from_pretrained()}
        found: dict[str, Pretrained] = {"FaceNet": FaceNet.from_pretrained()}
        try:
            found["ImageNet"] = EfficientNetLite0.from_pretrained()
        except ConfigError as error:
            print(f"The network for ImageNet is left out: {error}")
        return found | {"facenet-mini": FaceNetMini.from_pretrained()}

    def backbone(self) -> Backbone:
        """The pretrained network, a fresh copy each time."""
        return FaceNetMini.from_pretrained() if self.profile == "laptop" else FaceNet.from_pretrained()

    def scratch(self, seed: int = 0) -> Backbone:
        """The same network as `backbone` with random weights: what there is without transfer."""
        settings.seed_everything(seed)
        return FaceNetMini() if self.profile == "laptop" else FaceNet()


def start(lesson: str) -> Course:
    """Sets seeds and determinism, prints the banner and returns the Course of lesson `NN` (two digits).

    The first lesson, in a folder to work in, also shows which exercises were correct. Raises ConfigError for anything
    but two digits.
    """
    if not (len(lesson) == 2 and lesson.isdecimal()):
        raise ConfigError(f"lesson {lesson!r}: use the number as in the file name, such as '03'.")
    name = settings.profile()
    device = settings.device()
    budget = _LAPTOP if name == "laptop" else _FULL_GPU if device.type == "cuda" else _FULL
    course = Course(lesson, name, device, budget)
    settings.seed_everything(course.seed)
    torch.use_deterministic_algorithms(name == "laptop", warn_only=True)
    memory: Any = torch.utils.deterministic
    memory.fill_uninitialized_memory = False  # a net for bugs, which takes time in every step
    print(course.banner)
    if found_work() and lesson == find_lessons()[0].number:
        progress()
    return course


def _limited(data, sizes: tuple[int, int, int], seed: int):
    """At most `sizes` rows of each split, drawn once and kept in their order."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, size in zip(SPLITS, sizes, strict=True):
        where = np.flatnonzero((data.labels["split"] == split).to_numpy())
        rows.append(np.sort(rng.permutation(where)[:size]))
    return data.select(np.concatenate(rows))


_portraits = cache(render_portraits)


AUDIT = (7000, 4000, 5000)
TWO_DOMAINS: dict[settings.Profile, tuple[int, int, int]] = {"laptop": (800, 0, 400), "full": (1500, 0, 500)}


def portrait_domains(
    n: tuple[int, int, int],
    size: int,
    seed: int,
    styles: tuple[str, str] = ("photo", "sketch"),
    glasses: tuple[str, ...] | None = GLASSES.classes,
) -> TwoDomains:
    """Rendered portraits of different people in two styles. n: as in `render_portraits`. glasses: who wears some, half
    of the people, or as many as wear them at each age."""
    wish = {GLASSES.name: glasses} if glasses else None
    source, target = (
        render_portraits(n, 1000 + 2 * seed + place, size, style, wish) for place, style in enumerate(styles)
    )
    looks = tuple(f"rendered portraits ({style})" for style in styles)
    return TwoDomains(source, target, (EXPRESSION, GLASSES, GENDER), (looks[0], f"{looks[1]} of other people"))


# --- sources and targets of a network ---------------------------------------------------------------------------------

SOURCES = 1500
TARGETS: dict[settings.Profile, tuple[int, int]] = {"laptop": (500, 500), "full": (1000, 500)}
LETTERS = "abcdefghkm"


def _things(n: int, names: tuple[str, ...], seed: int) -> tuple[FaceSet, Task]:
    """n small drawn things of these kinds, at most; all in `train`."""
    drawn = render_objects((round(1.1 * n * len(THINGS) / len(names)), 0, 0), seed, size=32)
    wanted = np.flatnonzero(drawn.labels[OBJECT.name].isin(names))[:n]
    return drawn.select(wanted), Task(OBJECT.name, "multiclass", names)


def _symbols(n: int, alphabet: str, seed: int) -> tuple[FaceSet, Task]:
    """n small pictures of one symbol each; all in `train`."""
    drawn = render_words(n, seed, alphabet, lengths=1, size=(32, 32))
    drawn.labels["split"] = "train"
    return drawn, Task("text", "multiclass", tuple(alphabet))


def _in_two(data: FaceSet, n: int) -> FaceSet:
    """The same with the first n rows in `train` and the others in `test`."""
    data.labels["split"] = np.where(np.arange(len(data)) < n, "train", "test")
    return data


# --- pictures beside faces -------------------------------------------------------------------------------------------

DRAWN = (400, 0, 200)
DIGITS = "2345678"
DRAWN_DOMAINS = (
    Domain("skin", (LESION, Task("box", "box"))),
    Domain("things", (OBJECT,)),
    Domain("words", (Task("text", "string", tuple(DIGITS)),)),
)
DRAWN_RECIPE = Recipe(lr=3e-3, heads_lr=1e-2, steps=80, batch_size=48, weight_decay=0.01)
# Height and width. A captcha keeps most of its width: its five symbols are read at a column for every eighth pixel.
REAL_SIZES = {"lesions": (64, 64), "things": (32, 32), "words": (32, 192)}
# Photos may be mirrored, moved and lit a little otherwise, a text is only moved and lit. The rates were chosen on
# validation pictures, with 600 steps and one seed: of a network for each domain, trunk 0.003 among 0.001 and 0.003; of
# parallel adapters, 0.01 among 0.003, 0.01 and 0.03.
REAL_RECIPE = replace(
    DRAWN_RECIPE,
    steps=600,
    augment={"lesions": Augment(), "things": Augment(shift=0.1), "words": Augment(flip=0, shift=0.02)},
)

# Small pictures of the drawn domains: numbers in train, validation and test, and a seed, to pictures.
SMALL_RENDERERS: dict[str, Callable[[tuple[int, int, int], int], FaceSet]] = {
    "skin": partial(render_lesions, size=32),
    "things": partial(render_objects, size=32),
    "words": partial(render_words, alphabet=DIGITS, lengths=(2, 3), size=(32, 64)),
}


def drawn_pictures(n: tuple[int, int, int], seed: int = 0) -> dict[str, FaceSet]:
    """Small pictures of the three drawn domains by name: `n` of each in train, validation and test."""
    return {name: render(n, seed) for name, render in SMALL_RENDERERS.items()}


def real_domains() -> Domains:
    """Photos of lesions, CIFAR-10 and captchas, small ones (REAL_SIZES); raises DataError where a set is missing."""
    sets = {"lesions": photos("lesions"), "things": photos("objects"), "words": photos("words")}
    tasks = {
        "lesions": class_task(sets["lesions"], "diagnosis"),
        "things": class_task(sets["things"], "object"),
        "words": Task("text", "string", tuple(ALPHABET)),
    }
    return Domains(
        {name: pictures.resized(REAL_SIZES[name]) for name, pictures in sets.items()},
        tuple(Domain(name, (task,)) for name, task in tasks.items()),
        REAL_RECIPE,
    )
