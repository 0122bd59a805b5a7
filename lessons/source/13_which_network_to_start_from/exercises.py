"""Exercises of lesson 13, which network to start from."""

from __future__ import annotations

import numpy as np

from facekit.course.exercises import define_experiment, define_sorting, define_values

_begin = define_sorting(
    "13.1",
    "Where would you begin?",
    hints=(
        "What had each network to tell apart when it was taught? Does the new task need the same?",
        "A network is taught to answer the same whatever the light is. What does it then know of the light?",
        "One of the four is a matter of brightness alone; pixels have it, and networks were taught to ignore it.",
    ),
    kinds=("faces", "things", "letters", "none"),
    cases={
        "beard": ("faces", "what differs between faces was kept"),
        "bird": ("things", "shapes and parts tell birds apart, too"),
        "plate": ("letters", "strokes are strokes"),
        "exposure": ("none", "brightness is what every one of them was taught to ignore"),
    },
    ask="What did each network have to tell apart when it was taught, and what did it learn to ignore?",
    others=[{"beard": "things"}, {"bird": "faces"}, {"plate": "things"}, {"exposure": "faces"}],
)


def _lost(real: list[float], said: list[float]) -> float:
    return 100 * (max(real) - real[int(np.argmax(said))])


_points_lost = define_values(
    "13.2",
    "What trust in a score costs",
    hints=(
        "`np.argmax(said)` is the place of the network that you take.",
        "The best accuracy less the accuracy at that place, times 100.",
    ),
    right=[_lost],
    cases=[([0.5, 0.7, 0.6], [3.0, 1.0, 2.0]), ([0.5, 0.7, 0.6], [1.0, 2.0, 3.0]), ([0.4, 0.3], [-0.1, -0.2])],
    asked="for accuracies 0.5, 0.7, 0.6 and scores 3, 1, 2",
    mistakes=[
        (lambda real, said: _lost(real, said) / 100, "this is a share; a point is a hundredth."),
        (lambda real, said: 100 * real[int(np.argmax(said))], "this is what you get, not what you lose."),
        (lambda real, said: 100 * (max(real) - min(real)), "the score does not always choose the worst network."),
        (lambda real, said: 100 * (max(said) - said[int(np.argmax(real))]), "these are scores, not points."),
        (lambda real, said: -_lost(real, said), "what is lost is 0 or more."),
    ],
    others=[(lambda real, said: 0.0, "expected 20, got 0")],
    praise="20 points: a score that puts the worst network first is dear.",
)

_prepared = define_values(
    "13.3",
    "Prepare a pixel",
    hints=("Bring it to 0 … 1 first: divide by 255.", "Then take away the mean, and divide by the spread."),
    right=[lambda pixel, mean, std: (pixel / 255 - mean) / std],
    cases=[(255.0, 0.5, 0.5), (0.0, 0.485, 0.229), (51.0, 0.2, 0.25)],
    asked="for the pixel 255, mean 0.5 and std 0.5",
    mistakes=[
        (lambda pixel, mean, std: (pixel - mean) / std, "the pixel still goes from 0 to 255."),
        (lambda pixel, mean, std: pixel / 255, "this is the range from 0 to 1; mean and spread are missing."),
        (lambda pixel, mean, std: pixel / 255 / std - mean, "first the mean, then the spread."),
        (lambda pixel, mean, std: (pixel / 255 + mean) / std, "the mean is taken away, not added."),
        (lambda pixel, mean, std: (pixel / 255 - mean) * std, "divide by the spread."),
    ],
    others=[(lambda pixel, mean, std: 0.0, "expected 1, got 0")],
    praise="255 becomes 1, and the darkest pixel -1.",
)

_hours = define_values(
    "13.4",
    "Will it be ready by the morning?",
    hints=("Each photo is embedded twice.", "Seconds are pictures / pictures a second; an hour has 3,600 of them."),
    right=[lambda photos, per_second: 2 * photos / per_second / 3600],
    cases=[(360_000, 50.0), (7200, 1.0), (1000, 100.0)],
    asked="for 360,000 photos at 50 a second",
    mistakes=[
        (lambda photos, per_second: photos / per_second / 3600, "the mirror images are missing."),
        (lambda photos, per_second: 2 * photos / per_second, "these are seconds."),
        (lambda photos, per_second: 2 * photos / per_second / 60, "these are minutes."),
        (lambda photos, per_second: 2 * photos * per_second / 3600, "a faster network takes less time, not more."),
    ],
    others=[(lambda photos, per_second: 0.0, "expected 4, got 0")],
    praise="4 hours; a network that is ten times as slow needs two days.",
)

_experiment = define_experiment(
    "13.5",
    "Choose for a job",
    hints=(
        'A function of `seed` that returns {name: accuracy} for "pixels" and two networks; `truth` above is nearly it.',
        "100 labels instead of N; the same draw of labels for every network.",
        "`over_seeds(my_function, seeds=range(3))`; the solution compares `things` with facenet-mini.",
    ),
    baseline="pixels",
)
