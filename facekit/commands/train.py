"""`python -m facekit train`: training without a notebook, on one process or under torchrun on several."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import nn

from facekit import settings
from facekit.data.portraits import render_portraits
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, LabelledSet, read_manifest
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import evaluate
from facekit.files import write_json
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import Stack, mlp, stack_of
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE, Task
from facekit.training.augment import Augment
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.distributed import process_group
from facekit.training.loop import fit
from facekit.training.plans import plan as make_plan
from facekit.training.scoring import predict
from facekit.transfer.sharing import with_stitch_rate
from facekit.transfer.table import row, table

TASKS = {task.name: task for task in (GENDER, RACE, AGE_BAND, SKIN_TONE)}
BACKBONES: dict[str, type[FaceNet] | type[FaceNetMini]] = {"facenet": FaceNet, "mini": FaceNetMini}


def prepare(arguments: list[str]) -> list[str]:
    """Options that are parameters of a method, `--strength 0.1`, as entries of the option `parameters`."""
    names = {name for each in table().values() for name in each.parameters}
    found: dict[str, float] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option.startswith("--") and option[2:].replace("-", "_") in names:
            found[option[2:].replace("-", "_")] = _number(option, value or next(words, ""))
        else:
            rest.append(word)
    return rest + (["--parameters", json.dumps(found)] if found else [])


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option} takes a number, got {text!r}.") from None


def train(
    data: str = "portraits",
    out: Path = Path("run"),
    tasks: str | list[str] = "gender",
    method: str = "hard",
    parameters: dict[str, float] | None = None,
    backbone: Literal["facenet", "mini", "none"] = "mini",
    weights: Path | None = None,
    plan: str = "probe",
    epochs: int = 5,
    lr: float = 1e-3,
    batch_size: int = 64,
    weight_decay: float = 0.01,
    hidden: int = 0,
    dropout: float = 0.0,
    augment: bool = False,
    precision: Precision = "fp32",
    channels_last: bool = False,
    compile: bool = False,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    portraits: int = 1000,
) -> int:
    """Trains heads, and as much of a network below them as the plan says, on photos or embeddings with labels.

    On several GPUs or machines: `torchrun --nproc-per-node N -m facekit train …` with the same options. The folder
    `out` gets the model of the best epoch (best.safetensors), log.csv, metrics.json and what --resume needs.

    Args:
        data: Folder of a packed set (photos or embeddings), or `portraits` to render faces.
        out: Folder for the results of this run.
        tasks: Label columns to learn, separated by commas (or a list in the configuration file); gender, race, age and
            skin_tone have their fixed classes, any other column is a number or a set of classes as its labels say.
        method: How the tasks' losses and networks go together: hard, single, soft, cross_stitch, uncertainty … ;
            `python -m facekit methods` lists all with their parameters.
        parameters: Of the method, by name; each may also stand as an option of its own, as `--strength 0.1`.
        backbone: Network below the heads; none if the data are embeddings.
        weights: File with the network's weights, where they are not in their usual place; not with plan scratch and
            not without a network.
        plan: probe, last_layer, last_block, gradual, discriminative, probe_then_fine_tune, everything or scratch; with
            scratch the network starts from random weights.
        epochs: Passes over the training split, over all phases of the plan together.
        lr: Peak learning rate of the heads; the plan says the others.
        batch_size: Rows a step, of all processes together.
        weight_decay: AdamW's.
        hidden: Units of the heads' hidden layer, 0 for linear heads.
        dropout: In the heads.
        augment: Flip, shift and relight the training photos.
        precision: bf16 computes in bfloat16 where it is safe.
        channels_last: Memory layout of convolutions.
        compile: Use torch.compile.
        seed: Of the heads' first weights, the order, augmentation and dropout.
        device: Where to compute, by default as everywhere in facekit.
        resume: Go on with the run that was stopped in `out`.
        portraits: Faces to render for `portraits`.

    Examples:
        python -m facekit train --tasks gender,age --out run
        python -m facekit train --tasks gender,age --method soft --strength 0.1 --plan everything --out soft
        python -m facekit train --data packed/fairface-160 --backbone facenet --tasks race --plan last_block --out run
        torchrun --nproc-per-node 8 -m facekit train --data packed/fairface-160 --backbone facenet --plan everything
    """
    config = TrainConfig(
        batch_size, weight_decay, precision, channels_last, compile, Augment() if augment else None, seed, device
    )
    if weights is not None and (plan == "scratch" or backbone == "none"):
        which = f"plan {plan}" if plan == "scratch" else f"backbone {backbone}"
        raise ConfigError(f"{which} uses no weights, but you name {weights}; leave out one of the two.")
    with process_group(device) as world:
        faces = load_data(data, portraits, backbone)
        names = tasks.split(",") if isinstance(tasks, str) else tasks
        chosen = [task_of(name.strip(), faces) for name in names]
        settings.seed_everything(seed)
        network: Backbone | None = None
        width = faces.inputs.shape[1]
        if isinstance(faces, FaceSet):
            kind = BACKBONES[backbone]
            network = kind() if plan == "scratch" else kind.from_pretrained(weights)
            faces, width = faces.resized(network.image_size), network.embedding_dim

        def stack() -> Stack:
            return mlp(width, (hidden,), dropout) if network is None else stack_of(network)

        def classifier() -> Classifier:
            return Classifier(network, Heads(width, chosen, hidden, dropout))

        parts: dict[str, LabelledSet] = {
            name: faces.split(name) for name in SPLITS if (faces.labels["split"] == name).any()
        }
        if "train" not in parts:
            raise DataError(f"{data} has no rows in the split 'train'; there is nothing to learn from.")
        steps = -(-len(parts["train"]) // batch_size)
        model, learner = row(method).trained(stack, classifier, chosen, steps, **(parameters or {}))
        recipe = with_stitch_rate(make_plan(plan, list(model.stages), epochs, lr))
        if world.first:
            print(recipe.table(model).to_string(index=False))
        result = fit(model, learner, parts["train"], parts.get("validation"), recipe, config, out, resume)
        if world.first:
            report(model, chosen, parts, result, config, out)
    return 0


def load_data(data: str, portraits: int, backbone: str) -> FaceSet | FeatureSet:
    """The set that `train` was told to use; raises ConfigError where it does not go with the backbone."""
    kinds: dict[str, type[FaceSet] | type[FeatureSet]] = {cls.kind: cls for cls in (FaceSet, FeatureSet)}
    if data == "portraits":
        found: FaceSet | FeatureSet = render_portraits(portraits)
    elif (kind := read_manifest(Path(data)).get("kind")) in kinds:
        found = kinds[kind].load(Path(data))
    else:
        raise DataError(f"{data} holds a {kind!r}; train takes a {' or a '.join(kinds)}.")
    if isinstance(found, FeatureSet) != (backbone == "none"):
        remedy = "use backbone none" if isinstance(found, FeatureSet) else f"choose one of {', '.join(BACKBONES)}"
        raise ConfigError(f"{data} is a {found.kind}, which does not go with backbone {backbone!r}; {remedy}.")
    return found


def task_of(name: str, data: LabelledSet) -> Task:
    """The task of a label column: a known one, else a number (scaled by its spread in the training rows) or classes.

    Raises DataError if there is no such column, or if its training rows have fewer than two different labels.
    """
    if name in TASKS:
        return TASKS[name]
    if name not in data.labels:
        raise DataError(f"no label column {name!r}; the table has {', '.join(map(str, data.labels.columns))}.")
    column = data.labels[name]
    seen = column[data.labels["split"] == "train"].dropna()
    if seen.nunique() < 2:
        raise DataError(f"column {name!r} has fewer than two different labels in the split 'train'.")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return Task(name, "regression", scale=float(seen.std()))
    return Task(name, "multiclass", tuple(sorted(column.dropna().unique())))


def report(
    model: nn.Module,
    tasks: list[Task],
    parts: dict[str, LabelledSet],
    result: FitResult,
    config: TrainConfig,
    out: Path,
) -> None:
    """Prints and writes (`metrics.json`) the scores on validation and test, with a column `split`."""
    print(f"best epoch {result.best_epoch} of {len(result.history)}, {result.steps} steps, {result.seconds:.1f} s")
    tables = []
    for name, part in parts.items():
        if name != "train":
            outputs = predict(model, part, device=config.device, precision=config.precision)
            tables.append(evaluate(tasks, outputs, part.targets(tasks)).assign(split=name))
    scores = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if tables:
        print(scores.drop(columns="group").to_string(index=False, float_format="{:.4f}".format))
    about = {name: getattr(result, name) for name in ("best_epoch", "steps", "seconds", "moved")}
    metrics = json.loads(scores.to_json(orient="records", double_precision=15))
    write_json(out / "metrics.json", {"configuration": asdict(config), **about, "metrics": metrics})
