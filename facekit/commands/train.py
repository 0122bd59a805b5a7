"""`python -m facekit train`: training without a notebook, on one process or under torchrun on several."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.catalogue import stored
from facekit.data.sets import SPLITS, STRING, FaceSet, FeatureSet, LabelledSet, Split
from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import fit_temperature, temperature_scaled
from facekit.evaluation.groups import SMALL
from facekit.evaluation.metrics import evaluate
from facekit.evaluation.thresholds import fit_thresholds
from facekit.models.backbones.base import Backbone
from facekit.models.build import BACKBONES, Base, sized
from facekit.models.folder import MODEL, began_with, described, write
from facekit.models.staged import Staged
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE, Joint, Task
from facekit.training import checkpoint
from facekit.training.augment import augment_for
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.distributed import process_group
from facekit.training.loop import fit
from facekit.training.plans import Plan
from facekit.training.scoring import predict
from facekit.training.shares import Sampling
from facekit.transfer.table import row, table

Data = TypeVar("Data", bound=LabelledSet)
TASKS = {task.name: task for task in (GENDER, RACE, AGE_BAND, SKIN_TONE)}
WRITTEN = (*checkpoint.WRITTEN, MODEL)
FEWEST = 20  # labels that a temperature is fitted on


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
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{option} takes a number, got {text!r}.")
    return value


def train(
    data: str | dict[str, str] = "portraits",
    out: Path = Path("run"),
    tasks: str | list[str] | dict[str, str | list[str]] = "gender",
    method: str = "hard",
    groups: str | list[str] | None = None,
    equal: Literal["true_positive_rate", "false_positive_rate", "selection_rate"] | None = None,
    parameters: dict[str, float] | None = None,
    backbone: str = "mini",
    weights: Path | None = None,
    plan: str | None = None,
    since: str | None = None,
    factor: float = 1.0,
    epochs: int = 5,
    steps: int | None = None,
    lr: float = 1e-3,
    batch_size: int = 64,
    sampling: float | str | dict[str, float] = "uniform",
    size: int | list[int] | dict[str, int | list[int]] | None = None,
    weight_decay: float = 0.01,
    hidden: int = 0,
    dropout: float = 0.0,
    augment: bool | Literal["strong"] = False,
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
    `out` is then the model, which `facekit.load("run")` gives back: best.safetensors, the network of the best epoch,
    and model.json, which says what it answers, how it was made and how well it does. Beside them are log.csv and what
    --resume needs; of a method that trains a network for each set, a folder in `out` is the model of each.

    Some methods learn from several sets, each with a name: `--data.NAME FOLDER` for each, and where they differ
    `--tasks.NAME COLUMNS`, `--size.NAME PIXELS`, `--sampling.NAME SHARE`. One that learns from photos without labels
    (`contrastive`) looks at no task; what it leaves behind another run starts from with `--weights`.

    Args:
        data: Folder of a packed set (photos or embeddings), or `portraits` to render faces; of several sets by name.
        out: Folder for the results of this run.
        tasks: Label columns to learn, separated by commas (or a list in the configuration file); gender, race, age and
            skin_tone have their fixed classes, `text` is what is written in a picture, `box` stands for four columns,
            any other column is a number or a set of classes as `pack` printed. By name, or the same of every set.
        method: How the tasks' losses and networks go together: hard, single, soft, cross_stitch, uncertainty … ;
            `python -m facekit methods` lists all with their parameters.
        groups: Label column whose classes are the groups that a method minds (group_dro), or several separated by
            commas, whose combinations are; the best epoch is then that whose worst group has the lowest loss.
        equal: Rate that thresholds by group make equal on validation, for tasks of two classes; the model keeps them
            beside the temperature (`Model.decided`). With --groups, which any method then takes.
        parameters: Of the method, by name; each may also stand as an option of its own, as `--strength 0.1`.
        backbone: Network below the heads: mini, facenet, efficientnet-lite0 (of the extra imagenet), or a
            classification network of torchvision with its weights for ImageNet, as torchvision:resnet18; none if the
            data are embeddings.
        weights: File with the network's weights, where they are not in their usual place; not with plan scratch and
            not without a network.
        plan: probe (where neither you nor the method says another), last_layer, last_block, gradual, discriminative,
            probe_then_fine_tune, everything or scratch; with scratch the network starts from random weights. Methods
            for several domains have a plan of their own.
        since: Lowest stage that is trained, as mixed_6a of facenet; those below it stay as they are, whatever the plan.
        factor: How many times slower each stage learns than the one above it, beside what the plan says.
        epochs: Passes over the training split, over all phases of the plan together. With more of them and --resume
            true a run goes on, also a finished one: the further epochs are one more phase, which trains what the last
            one did, with rates that rise and fall once more from the same peak.
        steps: Of an epoch; by default a pass, of several sets over the one that takes longest.
        lr: Peak learning rate of the heads, and of what else a domain owns; the plan says the others.
        batch_size: Rows a step, of all sets and processes together.
        sampling: How several sets share a step: uniform, proportional to their rows, a temperature between the two (1
            is proportional), or a share by name.
        size: Side in pixels that photos are brought to, or '[height, width]'; by default the network's own; pictures of
            several domains keep their form, with a shorter side of at most that.
        weight_decay: AdamW's.
        hidden: Units of the heads' hidden layer, 0 for linear heads.
        dropout: In the heads.
        augment: Flip, shift and relight the training photos, as far as their labels stay true; strong also turns and
            scales them, and covers parts.
        precision: bf16 computes in bfloat16 where it is safe.
        channels_last: Memory layout of convolutions.
        compile: Use torch.compile.
        seed: Of the heads' first weights, the order, augmentation and dropout.
        device: Where to compute, by default as everywhere in facekit.
        resume: Go on with the run in `out`: one that was stopped, or a finished one with more epochs.
        portraits: Faces to render for `portraits`.

    Examples:
        python -m facekit train --tasks gender,age --out run
        python -m facekit train --tasks gender,age --method soft --strength 0.1 --plan everything --out soft
        python -m facekit train --data packed/fairface-160 --backbone facenet --tasks race --plan last_block --out run
        python -m facekit train --backbone facenet --plan discriminative --since mixed_6a --augment strong --out run
        python -m facekit train --tasks gender --groups skin_tone --equal true_positive_rate --out run
        python -m facekit train --backbone torchvision:resnet18 --weights resnet18-f37072fd.pth --tasks race --out run
        python -m facekit train --method group_dro --groups skin_tone --weight_decay 0.5 --out run
        python -m facekit train --method contrastive --plan scratch --size 32 --epochs 50 --out seen
        python -m facekit train --weights seen/best.safetensors --tasks skin_tone --out run
        python -m facekit train --method series_adapters --data.a cifar --tasks.a object --data.b words --tasks.b text
        torchrun --nproc-per-node 8 -m facekit train --data packed/fairface-160 --backbone facenet --plan everything
    """
    if weights is not None and (plan == "scratch" or backbone == "none"):
        which = f"plan {plan}" if plan == "scratch" else f"backbone {backbone}"
        raise ConfigError(f"{which} uses no weights, but you name {weights}; leave out one of the two.")
    if not 1 <= factor < math.inf:
        raise ConfigError(f"factor must be 1 or more, got {factor}; with 1 the rates are those of the plan.")
    chosen = row(method)
    kind = BACKBONES[backbone] if backbone != "none" else None
    folders: dict[str | None, str] = {name: f for name, f in data.items()} if isinstance(data, dict) else {None: data}
    if not folders:
        raise ConfigError("data names no set; give a folder, `portraits`, or a folder for each name.")
    names = [name for name in folders if name is not None]
    chosen.check_sets(names)
    labelled = [name for name in folders if name not in chosen.unlabelled]
    for option, said, known in (("sampling", sampling, names), ("size", size, names), ("tasks", tasks, labelled)):
        check_names(option, said, known)
    if sampling != "uniform" and not names:
        raise ConfigError(f"sampling {sampling!r} shares a step among several sets, and there is one.")
    if (chosen.names is None or not labelled) and (hidden or dropout):
        which = f"the heads of {chosen.key} have" if labelled else f"{chosen.key} has no heads, and so"
        raise ConfigError(f"{which} neither hidden layers nor dropout; leave these out.")
    if equal is not None and (groups is None or names):
        raise ConfigError("equal is about groups of one set; name the label column with them, --groups race.")
    if chosen.grouped and groups is None or not (chosen.grouped or equal or groups is None):
        says = "minds groups; name the label column with them, --groups race" if groups is None else "looks at none"
        raise ConfigError(f"the method {chosen.key} {says}.")
    with process_group(device) as world, world.writing(out, *WRITTEN):
        faces = {name: load_data(folder, portraits, backbone) for name, folder in folders.items()}
        sought = {name: tasks_of(of_set(tasks, name), data, name in labelled) for name, data in faces.items()}
        group_task: Task | None = None
        if groups is not None:
            faces[None], group_task = with_groups(groups, faces[None])
        minded = group_task if chosen.grouped else None
        if equal is not None and not any(len(task.classes) == 2 for task in sought[None]):
            raise ConfigError(f"thresholds that make {equal} equal are for tasks of two classes; {tasks} has none.")
        strong = augment == "strong"
        changes: Any = {name: augment_for(wanted, strong) for name, wanted in sought.items()} if augment else None
        config = TrainConfig(
            batch_size,
            weight_decay,
            precision,
            channels_last,
            compile,
            changes.get(None, changes) if changes else None,
            seed,
            device,
            cast(Sampling, sampling),
            steps,
        )
        sizes = {name: int((data.labels["split"] == "train").sum()) for name, data in faces.items()}
        if empty := [folders[name] for name, rows in sizes.items() if not rows]:
            raise DataError(f"{empty[0]} has no rows in the split 'train'; there is nothing to learn from.")
        for group, own in chosen.runs(sizes, config):
            settings.seed_everything(seed)
            network: Backbone | None = None
            began: dict[str, Any] | None = None
            if kind is not None:
                network = kind() if plan == "scratch" else kind.from_pretrained(weights)
                began = None if plan == "scratch" else began_with(backbone, weights)
            sets = {name: sized(faces[name], network, of_set(size, name), chosen.names is None) for name in group}
            width = network.embedding_dim if network is not None else sets[group[0]].inputs.shape[1]
            parts = {side: of_split(sets, side) for side in SPLITS}
            wanted = {name: sought[name] for name in group}
            every = [task for each in wanted.values() for task in each]
            base = Base(network, width, hidden, dropout)
            model, learner = chosen.trained(
                base.stack,
                partial(base.classifier, every),
                wanted.get(None, wanted),
                own.steps or -(-max(sizes[name] for name in group) // own.batch_size),
                network,
                parts["train"],
                minded,
                **(parameters or {}),
            )
            folder = out if len(group) == len(faces) else out / str(group[0])
            first, *more = lengths(folder, epochs, resume)
            recipe = chosen.planned(model, plan, first, lr, **(parameters or {}))
            depths = {stage: depth for depth, stage in enumerate(reversed(list(model.stages)))}
            recipe = recipe.faster({stage: factor**-depth for stage, depth in depths.items()})
            recipe = recipe if since is None else recipe.since(since, list(model.stages))
            for longer in more:
                recipe = recipe.extended(longer)
            if world.first:
                print(recipe.table(model).to_string(index=False))
            checks = {name: part for name, part in parts["validation"].items() if wanted[name]}
            with world.writing(folder, *WRITTEN):
                result = fit(model, learner, parts["train"], checks, recipe, own, folder, resume)
                if world.first:
                    by = None if equal is None or group_task is None else (equal, group_task)
                    scores, fitted = report(model, wanted, parts, result, own, by)
                    about = {
                        "method": chosen.key,
                        "parameters": chosen.checked(parameters or {}),
                        "network": {
                            "backbone": None if network is None else backbone,
                            **{"width": width, "hidden": hidden, "dropout": dropout, "started_from": began},
                        },
                        "sets": [
                            described(name, faces[name], wanted[name], fitted[name], of_set(size, name), part)
                            for name, part in sets.items()
                        ],
                        "recipe": recipe_of(recipe, lr, own, minded, result, world.size)
                        | {"extended_after": [first, *more][:-1]},
                        "scores": scores,
                    }
                    write(folder, about)
                    for note in (note for name in group for note in few_labels(wanted[name], faces[name])):
                        print(note)
    return 0


def lengths(folder: Path, epochs: int, resume: bool) -> list[int]:
    """How many epochs the run in a folder has been given, each time that it was, up to these.

    Raises ConfigError where it was given more.
    """
    given = checkpoint.given(folder) if resume else []
    if given and epochs < given[-1]:
        raise ConfigError(
            f"{folder} was given {given[-1]} epochs, and --epochs {epochs} is fewer: what was trained is not taken "
            f"back. Leave it at --epochs {given[-1]}, give more, or train into another folder."
        )
    return given if given and epochs == given[-1] else [*given, epochs]


def check_names(option: str, said: object, names: Sequence[str | None]) -> None:
    """Raises ConfigError where something is said by name of a set that is not there."""
    if isinstance(said, dict) and (unknown := sorted(set(said) - set(names))):
        known = ", ".join(name for name in names if name is not None) or "one without a name"
        raise ConfigError(f"{option} are said of {', '.join(unknown)}; the sets are {known}.")


def of_set(said: Any, name: str | None) -> Any:
    """What an option says of one set: the same of all, or by name; None where it says nothing."""
    return said.get(name) if isinstance(said, dict) else said


def tasks_of(columns: str | list[str] | None, data: LabelledSet, labelled: bool) -> list[Task]:
    """The tasks of a set, by the columns that were named; none of one whose labels are not looked at."""
    if not labelled:
        return []
    names = columns.split(",") if isinstance(columns, str) else columns or []
    return [task_of(name.strip(), data) for name in names]


def with_groups(columns: str | list[str], data: Data) -> tuple[Data, Task]:
    """The groups as a task: the classes of a column, or the combinations of several; the set then has their column."""
    parts = tasks_of(columns, data, labelled=True)
    if len(parts) == 1:
        return data, parts[0]
    joint = Joint(tuple(parts))
    return replace(data, labels=joint.add_to(data.labels)), joint.task


def of_split(sets: Mapping[str | None, Data], side: Split) -> dict[str | None, Data]:
    """The rows of one split, of those sets that have any."""
    return {name: data.split(side) for name, data in sets.items() if (data.labels["split"] == side).any()}


def load_data(data: str, portraits: int, backbone: str) -> FaceSet | FeatureSet:
    """The set that `train` was told to use; raises ConfigError where it does not go with the backbone."""
    found = stored(data, portraits)
    if isinstance(found, FeatureSet) != (backbone == "none"):
        remedy = "use backbone none" if isinstance(found, FeatureSet) else f"choose one of {BACKBONES.told()}"
        raise ConfigError(f"{data} is a {found.kind}, which does not go with backbone {backbone!r}; {remedy}.")
    return found


def few_labels(tasks: Sequence[Task], data: LabelledSet) -> list[str]:
    """What is to be said of tasks with fewer than `FEWEST` labels to learn from or to be judged by."""
    notes = []
    for task in (task for task in tasks if task.columns[0] in data.labels):
        known = data.labels[task.columns[0]].notna()
        counts = {split: int((known & (data.labels["split"] == split)).sum()) for split in SPLITS}
        if min(counts.values()) < FEWEST:
            told = ", ".join(f"{count} labels in {split}" for split, count in counts.items())
            notes.append(
                f"note: {task.name} has {told}; what is learnt from or measured on fewer than {FEWEST} is "
                "mostly chance. Label more photos, or share them out with a column split."
            )
    return notes


def task_of(name: str, data: LabelledSet) -> Task:
    """The task of a label column: a known one, else a number (scaled by its spread in the training rows) or classes.

    `text` is a text, and a name that is no column but has the four of a box is a box.

    Raises DataError if there is no such column, or if its training rows have fewer than two different labels.
    """
    if name not in data.labels:
        if name in TASKS:
            return TASKS[name]  # where it is looked at, it is said that the column is not there
        box = Task(name, "box")
        if set(box.columns) <= set(data.labels):
            return box
        raise DataError(f"no label column {name!r}; the table has {', '.join(map(str, data.labels.columns))}.")
    column = data.labels[name]
    seen = column[data.labels["split"] == "train"].dropna()
    if seen.nunique() < 2:
        only = f"only {str(seen.iloc[0])!r} in {len(seen)} rows" if len(seen) else "none"
        raise DataError(
            f"column {name!r} has fewer than two different labels in the split 'train', {only}: there is nothing to "
            "tell apart; name another column, or pack photos of at least two."
        )
    if name in TASKS:
        return TASKS[name]
    if name == STRING:
        return Task(name, "string", tuple(sorted(set("".join(column.dropna().astype(str))))))
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return Task(name, "regression", scale=float(seen.std()))
    classes = tuple(sorted(column.dropna().unique()))
    if not all(isinstance(label, str) for label in classes):
        raise DataError(f"column {name!r} holds {classes[0]!r}, neither a text nor a number; pack the set again.")
    return Task(name, "multiclass", classes)


def report(
    model: Staged,
    tasks: Mapping[str | None, list[Task]],
    parts: Mapping[Split, Mapping[str | None, LabelledSet]],
    result: FitResult,
    config: TrainConfig,
    by: tuple[str, Task] | None = None,
) -> tuple[list[dict[str, Any]], dict[str | None, dict[str, dict[str, Any]]]]:
    """Prints and returns the scores on validation and test, and what was fitted for each set's tasks, by name.

    A score is a row: `set` where it has a name, `split`, and the columns of `evaluate`. A set whose labels were not
    looked at in training is scored in the tasks that it has labels for. A temperature is fitted on the labels of
    validation, where there are enough of them, in the tasks whose outputs are scores of classes; by: the rate that
    thresholds shall make equal, and the groups.
    """
    print(f"best epoch {result.best_epoch} of {len(result.history)}, {result.steps} steps, {result.seconds:.1f} s")
    everything = [task for each in tasks.values() for task in each]
    tables: list[pd.DataFrame] = []
    fitted: dict[str | None, dict[str, dict[str, Any]]] = {name: {} for name in tasks}
    for side, sets in parts.items():
        for name, part in sets.items() if side != "train" else ():
            scored = tasks[name] or [task for task in everything if set(task.columns) <= set(part.labels)]
            if not scored:
                continue
            one = model.only(name) if name is not None else model
            outputs = predict(one, part, device=config.device, precision=config.precision)
            targets = part.targets(scored)
            where = {"split": side} if name is None else {"set": name, "split": side}
            tables.append(evaluate(scored, outputs, targets).assign(**where))
            for task in tasks[name] if side == "validation" else ():
                seen = targets[task.name][task.known(targets[task.name])]
                if task.softmax and len(seen) >= FEWEST and len(seen.unique()) > 1:
                    heat = fit_temperature(outputs[task.name], targets[task.name])
                    fitted[name][task.name] = {"temperature": heat}
                    if by is not None and len(task.classes) == 2:
                        chances = temperature_scaled(outputs[task.name], heat)[:, 1]
                        cuts = thresholds_of(chances, targets[task.name].numpy(), part.labels, *by)
                        fitted[name][task.name] |= {"thresholds": cuts}
    scores = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if tables:
        print(scores.drop(columns="group").to_string(index=False, float_format="{:.4f}".format))
    return scores.astype(object).where(scores.notna(), None).to_dict("records"), fitted


def thresholds_of(
    scores: np.ndarray, targets: np.ndarray, labels: pd.DataFrame, equal: str, groups: Task
) -> dict[str, Any] | None:
    """Thresholds by group, as the model keeps them, and a line that says so; None where no group has enough rows.

    A group of fewer than `SMALL` rows that the rate is about has none: it would be luck, and tell of single faces.
    """
    about = {"true_positive_rate": targets == 1, "false_positive_rate": targets == 0}.get(equal, targets >= 0)
    names = labels[groups.name].reset_index(drop=True)
    counts = names[about].value_counts()
    kept = names.where(names.isin(counts.index[counts >= SMALL]), None)
    if not kept.notna().any():
        print(f"no thresholds: no group of {groups.name} has {SMALL} validation rows that {equal} is about")
        return None
    found = fit_thresholds(scores, targets, kept, equal)
    told = ", ".join(f"{name} {cut:.2f}" for name, cut in found.items())
    few = sorted(set(names.dropna()) - set(found.index))
    print(f"thresholds for an equal {equal} by {groups.name}: {told}" + (f"; 0.5 for {', '.join(few)}" if few else ""))
    return {"equal": equal, "groups": groups.name, "by_group": found.to_dict()}


def recipe_of(
    recipe: Plan, lr: float, config: TrainConfig, groups: Task | None, result: FitResult, processes: int
) -> dict[str, Any]:
    """How a model was trained, without what changes nothing of it, and what came of it."""
    told = {name: value for name, value in asdict(config).items() if name not in ("device", "compile", "steps")}
    told |= {"steps_an_epoch": config.steps, "groups": None if groups is None else groups.name}
    found = {"best_epoch": result.best_epoch, "steps": result.steps, "moved": result.moved}
    return {"plan": recipe.name, "epochs": recipe.epochs, "lr": lr, **told, "processes": processes} | found
