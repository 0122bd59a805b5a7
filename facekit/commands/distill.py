"""`python -m facekit distill`: teaches facenet-mini the embeddings of FaceNet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from facekit import records, settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError
from facekit.files import write_json
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed, has_fast_bf16, state_hash
from facekit.tasks import AGE_BAND, GENDER, RACE
from facekit.training import checkpoint
from facekit.training.augment import Augment
from facekit.training.config import TrainConfig
from facekit.training.distributed import process_group
from facekit.training.loop import fit
from facekit.training.plans import plan
from facekit.transfer.distill import (
    Distillation,
    about_weights,
    agreement,
    export,
    more_pictures,
    teacher_views,
    unlabelled,
)
from facekit.transfer.probe import linear_probe

WEIGHTS = "facenet_mini.safetensors"
WRITTEN = (*checkpoint.WRITTEN, WEIGHTS, "config.json", "metrics.json")
ANSWERED = (RACE, GENDER, AGE_BAND)  # tasks of the classifiers that are reused
# Arguments that the weights do not keep: what they name is kept by its content, or decides nothing.
NO_OPTIONS = ("data", "out", "weights", "teacher", "device", "resume")


def distill(
    data: Path,
    out: Path = Path("distill"),
    epochs: int = 30,
    lr: float = 6e-3,
    batch_size: int = 128,
    weight_decay: float = 0.05,
    shift: float = 0.03,
    photos: int | None = None,
    portraits: int = 0,
    blended: int = 0,
    answers: float = 0.0,
    weights: Path | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    teacher: Path | None = None,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
) -> int:
    """Teaches facenet-mini FaceNet's embeddings of the photos in the split `train`.

    No label is used, unless `answers` is positive: the classifiers whose answers the student then has to keep are
    linear probes of race, gender and age band, fitted to the teacher's embeddings of the same photos.

    On several GPUs, or with a process for each core: `torchrun --nproc-per-node N -m facekit distill …` with the same
    options. The folder `out` gets facenet_mini.safetensors (as packaged), log.csv, config.json, metrics.json and what
    --resume needs. The weights are those of the last epoch; validation and test are measured at the end and choose
    nothing.

    Args:
        data: Folder of a packed set of photos.
        out: Folder for the results of this run.
        epochs: Passes over the photos, each mirrored or not at random.
        lr: Peak learning rate; it rises in the first tenth of the steps and falls along half a cosine.
        batch_size: Photos a step, of all processes together.
        weight_decay: AdamW's.
        shift: Largest move of the student's photos along each axis, as a fraction of the side.
        photos: Learn from the first so many photos only.
        portraits: Learn from so many rendered portraits as well, half of them sketches.
        blended: Learn from so many blends of two pictures as well.
        answers: Weight of the difference between what classifiers say about the student's and the teacher's embeddings.
        weights: File with facenet-mini's weights to go on from, instead of new ones.
        precision: bf16 computes teacher and student in bfloat16; auto where the hardware has it.
        teacher: File with FaceNet's weights, where they are not in their usual place.
        seed: Of the first weights, the order, the views and the shifts.
        device: Where to compute, by default as everywhere in facekit.
        resume: Go on with the run that was stopped in `out`.

    Examples:
        python -m facekit distill packed/fairface-160 --out mini
        torchrun --nproc-per-node 8 -m facekit distill packed/fairface-160 --epochs 12 --portraits 6000
    """
    options = {name: value for name, value in locals().items() if name not in NO_OPTIONS}
    with process_group(device) as world, world.writing(out, *WRITTEN):
        if precision == "auto":
            precision = "bf16" if has_fast_bf16(world.device) else "fp32"
        config = TrainConfig(
            batch_size,
            weight_decay,
            precision,
            channels_last=True,
            augment=Augment(flip=0, shift=shift, brightness=0, contrast=0) if shift else None,
            seed=seed,
            device=device,
        )
        faces = FaceSet.load(Path(data))
        rows = np.flatnonzero((faces.labels["split"] == "train").to_numpy())[:photos]
        if len(rows) < 2:
            raise DataError(f"{data} has {len(rows)} photos in the split 'train'; there is nothing to learn from.")
        taught = faces.select(rows)
        more = more_pictures(taught, portraits, blended, seed)
        facenet = FaceNet.from_pretrained(teacher)
        if world.first:  # the others then find the embeddings in the cache
            for pictures in (faces, *more):
                teacher_views(facenet, pictures, precision, device=world.device)
        world.wait()
        targets, *others = (teacher_views(facenet, part, precision, device=world.device) for part in (faces, *more))
        views = [[view.features[rows] for view in targets], *([view.features for view in part] for part in others)]
        everything = torch.from_numpy(np.concatenate([np.stack(part) for part in views], axis=1))
        heads = linear_probe(targets[0].select(rows), ANSWERED).heads if answers else None
        method = Distillation(everything, heads, answers)
        settings.seed_everything(seed)
        student = FaceNetMini() if weights is None else FaceNetMini.from_pretrained(weights)
        pictures = unlabelled(np.concatenate([part.resized(student.image_size).images for part in (taught, *more)]))
        del taught, more
        about = {
            "command": "distill",
            "options": options | {"precision": precision},
            "started_from": None if weights is None else about_weights(weights),
            "processes": world.size,
            "trained_on": len(rows),
            "pictures": len(pictures),
            "source": faces.manifest.get("name", faces.manifest.get("source")),
            "data_sha256": faces.content_hash(),
            "teacher": facenet.name,
            "teacher_sha256": state_hash(facenet),
            "hardware": records.hardware(),
            "torch": torch.__version__,
            "git_commit": records.git_commit(),
        }
        if world.first:
            size = sum(p.numel() for p in student.parameters())
            print(f"{len(rows):,} photos of {len(pictures):,} pictures, {size:,} parameters, {precision}")
        recipe = plan("scratch", list(student.stages), epochs, lr)
        result = fit(student, method, pictures, None, recipe, config, out, resume)
        if world.first:
            report(student, faces, targets[0], about | {"seconds": round(result.seconds, 1)}, Path(out))
    return 0


def report(student: FaceNetMini, faces: FaceSet, teacher: FeatureSet, about: dict, out: Path) -> None:
    """Exports the weights; prints and writes (`metrics.json`) the cosine to the teacher's embeddings by split."""
    path = export(student, out / WEIGHTS, about)
    packaged = FaceNetMini.from_pretrained(path)
    found = {}
    for name in ("validation", "test"):
        mask = (faces.labels["split"] == name).to_numpy()
        if mask.any():
            mine = embed(packaged, faces.select(mask), cache=False, precision="fp32")
            found[name] = agreement(mine, teacher.select(mask))
            print(f"cosine to the teacher on {mask.sum():,} photos of {name}: {found[name]:.4f}")
    write_json(out / "config.json", {name: value for name, value in about.items() if name != "seconds"})
    write_json(out / "metrics.json", about | {"cosine": found})
    print(f"wrote {path} ({path.stat().st_size:,} bytes)")
