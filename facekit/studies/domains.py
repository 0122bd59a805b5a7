"""One network for drawn skin, things and words: the record `domains_drawn`."""

from __future__ import annotations

from dataclasses import replace

import torch

from facekit.course.profiles import DRAWN_DOMAINS, drawn_pictures
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.mini import FaceNetMini
from facekit.studies.common import SEEDS
from facekit.studies.runner import Block, Study, study
from facekit.training.augment import Augment
from facekit.training.config import Recipe
from facekit.transfer.domains import METHODS, compare_domains

# Chosen on other pictures (seed 7) and with other seeds: the trunk's rate for "a network each" among 0.001, 0.003 and
# 0.01; that of adapters and heads for "parallel adapters" among 0.003, 0.005, 0.01, 0.02 and 0.03; the length among
# 160, 320, 480, 640 and 800 steps, knowing that adapters learn words more slowly and are further behind in shorter
# trainings. On skin the light alone changes: boxes do not move with the pictures.
RECIPE = Recipe(
    lr=3e-3,
    heads_lr=1e-2,
    steps=640,
    batch_size=48,
    weight_decay=0.01,
    augment={"skin": Augment(flip=0, shift=0), "things": Augment(), "words": Augment(flip=0)},
)


def facenet_mini() -> Backbone:
    """facenet-mini, its numbers in the order in memory that makes convolutions faster."""
    return FaceNetMini.from_pretrained().to(memory_format=torch.channels_last)


@study(photos=False)
def record(train: int = 1000, test: int = 500, steps: int = RECIPE.steps, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `domains_drawn`: a network each, one network, and a frozen trunk with norms and adapters of its own.

    All start from facenet-mini and see the same pictures in the same batches. Takes about twenty minutes on one core;
    what was measured is kept when it is stopped.

    Args:
        train: Pictures of each domain to learn from.
        test: Pictures of each domain that are scored.
        steps: Of AdamW, with 16 pictures of each domain.
        seeds: Of weights and order; the pictures are the same for all.
    """
    pictures, mini = drawn_pictures((train, 0, test)), facenet_mini()
    sides = [{name: data.split(side) for name, data in pictures.items()} for side in ("train", "test")]
    recipe = replace(RECIPE, steps=steps)
    return Study(
        "domains_drawn",
        what="lesions and boxes on skin, ten things, words of two or three digits by networks that start from "
        f"facenet-mini: one each, one for all, and a frozen one with norms or adapters a domain; {steps} steps of 48 "
        "pictures for all domains together, moved and lit a little otherwise each time",
        data=f"pictures of 32 × 32 and 32 × 64 drawn by facekit, {train} of each domain to learn from, {test} to test",
        blocks=[
            Block(f"{method.name}-{seed}", compare_domains, (mini, DRAWN_DOMAINS, *sides, recipe, (seed,), (method,)))
            for seed in seeds
            for method in METHODS
        ],
    )
