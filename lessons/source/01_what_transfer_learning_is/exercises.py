"""Exercises of lesson 01, what transfer learning is."""

from __future__ import annotations

import copy

import torch
from torch import nn

from facekit.course.exercises import define, define_experiment, kind_of, require

# Situation: source task, target task, what differs between source and target (as the lesson words the situations).
SITUATIONS = {
    "A": ("person", "age", "both"),
    "B": ("gender", "gender", "domain"),
    "C": ("none", "gender", "nothing"),
    "D": ("gender", "age", "task"),
}
_EXPLANATIONS = {
    "A": "VGGFace2 is another collection of photos than FairFace, and persons are other classes than age bands.",
    "B": "the classes stay, the pictures become sketches.",
    "C": "random weights come from no source, so nothing is carried over and nothing can differ.",
    "D": "the photos are of the same kind; only the question changes.",
}
_WORDS = {"person", "age", "gender", "none"}, {"person", "age", "gender", "none"}, {"task", "domain", "both", "nothing"}


@define(
    "01.1",
    "Source and target",
    hints=(
        "The source is where the weights come from that training starts with; random weights come from nowhere.",
        "Domain: which pictures. Task: which classes. Compare both, situation by situation.",
    ),
    right=lambda: [SITUATIONS, {key: list(value) for key, value in SITUATIONS.items()}],
    wrong=lambda: [
        (SITUATIONS | {"A": ("age", "person", "both")}, "exchanged"),
        (SITUATIONS | {"A": ("person", "age", "task")}, "another collection"),
        (SITUATIONS | {"B": ("gender", "gender", "both")}, "the classes stay"),
        (SITUATIONS | {"C": ("gender", "gender", "nothing")}, "from no source"),
        (SITUATIONS | {"D": ("gender", "age", "both")}, "only the question"),
        (SITUATIONS | {"D": ("gender", "age bands", "task")}, "age bands"),
        (SITUATIONS | {"D": ("gender", "age")}, "three words"),
        ({"A": ("person", "age", "both")}, "B, C, D"),
        ("person", "dictionary"),
    ],
)
def _source_and_target(answer):
    require(isinstance(answer, dict), f"expected a dictionary, not {kind_of(answer)}.")
    absent = [key for key in SITUATIONS if key not in answer]
    require(not absent, f"no answer for {', '.join(absent)}.")
    for key, (source, target, differs) in SITUATIONS.items():
        given = answer[key]
        fits = isinstance(given, tuple | list) and len(given) == 3
        require(fits, f"{key}: expected three words, (source task, target task, what differs).")
        for word, allowed in zip(given, _WORDS, strict=True):
            require(word in allowed, f"{key}: {word!r} is none of {', '.join(sorted(allowed))}.")
        exchanged = tuple(given[:2]) == (target, source) and source != target
        require(not exchanged, f"{key}: source and target are exchanged; the target is what is wanted in the end.")
        require(given[0] == source, f"{key}: another source; {_EXPLANATIONS[key]}")
        require(given[1] == target, f"{key}: the target is what the network is wanted for in the end.")
        require(given[2] == differs, f"{key}: {given[2]!r} is not what differs; {_EXPLANATIONS[key]}")
    return "C is no transfer at all, and B would be even without a new head."


def _network(n_classes: int) -> nn.ModuleDict:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))
    return nn.ModuleDict({"body": body, "head": nn.Linear(6, n_classes)})


def _transfer(state, model, takes=lambda name: True, says=None):
    """Copies what fits and is taken; returns the names, or what `says` makes of the state dict."""
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    fitting = {key: value for key, value in fitting.items() if takes(key)}
    model.load_state_dict(fitting, strict=False)
    return says(state) if says else list(fitting)


def _in_a_loop(state, model):
    copied = []
    for name, tensor in model.state_dict().items():
        if name in state and state[name].shape == tensor.shape:
            tensor.copy_(state[name])
            copied.append(name)
    return copied


@define(
    "01.2",
    "Transfer what fits",
    hints=(
        "`own = model.state_dict()` has the model's names and tensors; compare `own[name].shape` with the other's.",
        "Collect what fits in a dictionary and give it to `model.load_state_dict(…, strict=False)`.",
        "A name that the model does not have must be skipped before its shape is looked up.",
    ),
    right=lambda: [_transfer, _in_a_loop],
    wrong=lambda: [
        (lambda state, model: model.load_state_dict(state, strict=False) and list(state), "size mismatch"),
        (lambda state, model: _transfer(state, model, says=list), "not copied"),
        (lambda state, model: _transfer(state, model, dict(model.named_parameters()).__contains__), "BatchNorm"),
        (lambda state, model: _transfer(state, model, lambda name: not name.startswith("head")), "head"),
        (lambda state, model: _transfer(state, copy.deepcopy(model)), "random values"),
        (lambda state, model: 24, "list of names"),
        (lambda state, model: _transfer(state, model) and None, "list of names"),
    ],
    in_place=True,  # None is a forgotten return
)
def _transferred(function):
    source, model = _network(5), _network(3)
    for tensor in source.state_dict().values():
        tensor += 1  # fresh BatchNorms are all alike: without this nobody could see whether they were copied
    state = source.state_dict() | {"decoder.weight": torch.ones(2, 2)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = function(state, model)
    require(
        isinstance(copied, list | tuple | set), f"expected a list of names, got {kind_of(copied)}; is there a return?"
    )
    fits = {name for name in before if name.startswith("body.")}
    after = model.state_dict()
    same = {name for name in fits if torch.equal(after[name], state[name])}
    learnt = {name for name, _ in model.named_parameters()} & fits
    require(same, "the list is there, but the model still has its random values.")
    require(
        same != learnt, "the weights are copied, but BatchNorm's mean and variance are not; they are no parameters."
    )
    require(same == fits, f"not copied although it fits: {', '.join(sorted(fits - same))}.")
    extra = set(copied) - fits
    require(not extra, f"in the list, but not copied: {', '.join(sorted(extra))}.")
    require(set(copied) == fits, f"copied, but not in the list: {', '.join(sorted(fits - set(copied)))}.")
    # The same number of classes: now the head fits, too, and the caller may want it (another domain, the same task).
    twin = _network(5)
    copied = function(state, twin)
    complete = {"head.weight", "head.bias"} <= set(copied) and torch.equal(twin["head"].weight, source["head"].weight)
    require(complete, "with the same classes the head fits and should be copied; decide by name and shape alone.")
    return "names and shapes decide; the list lets you see what moved."


_experiment = define_experiment(
    "01.3",
    "Your own experiment",
    hints=(
        "Begin with one seed: a function of `seed` that draws `few_labels` and tries two of METHODS on them.",
        "`METHODS[name](few, task, seed)` gives a network, `accuracy(network, rows, task)` its score.",
        "`over_seeds(my_function, seeds=range(3))`; the solution takes age as the target.",
    ),
    baseline="from scratch",
)
