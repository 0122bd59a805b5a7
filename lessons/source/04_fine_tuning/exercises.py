"""Exercises of lesson 04, fine-tuning."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from facekit.course.exercises import as_tensor, as_whole_number, define, define_values, kind_of, require
from facekit.models.backbones.base import Backbone

_numbers_that_move = define_values(
    "04.1",
    "How much moves?",
    hints=(
        "`last_block` trains the last three stages: the head, the layer that makes the embedding, and one block.",
        "Add up the sizes of `repeat_3`, `embedding` and `heads`.",
    ),
    right=[10_526_727, 9_604_608 + 918_528 + 3_591],
    mistakes=[
        (9_604_608, "this is the block alone; the stages above it are trained, too."),
        (9_604_608 + 918_528, "the head is missing: every plan trains it."),
        (918_528 + 3_591, "this is what the plan `last_layer` trains; one block more."),
        (23_486_223, "this is everything; the stages below the last block are frozen."),
        (23_486_223 - 10_526_727, "these are the frozen ones; asked for is what is trained."),
    ],
    others=[(42, "other")],
    otherwise="the sum is some other number.",
    praise="that is 45% of the network: the last block alone holds 41% of FaceNet.",
    read=as_whole_number,
)


def _rates(function, stages, lr, factor):
    answer = function(list(stages), lr, factor)
    require(isinstance(answer, dict), f"expected a dict of stage to learning rate, not {kind_of(answer)}.")
    missing = [stage for stage in stages if stage not in answer]
    require(not missing, f"no rate for {', '.join(missing)}; every stage needs one.")
    require(len(answer) == len(stages), f"{len(answer)} rates for {len(stages)} stages.")
    return torch.tensor([float(answer[stage]) for stage in stages], dtype=torch.float64)


def _ladder(power):
    """An answer to 04.2: lr / factor ** power(k, n) for the stage that is k steps below the top of n."""
    return lambda stages, lr, factor: {
        stage: lr / factor ** power(k, len(stages)) for k, stage in enumerate(reversed(stages))
    }


_discriminative_rates = define_values(
    "04.2",
    "Discriminative learning rates",
    hints=(
        "The last stage is 0 steps below the top, the one before it 1 step, and so on.",
        "A stage that is k steps below the top gets lr / factor ** k.",
        "`for k, stage in enumerate(reversed(stages))` counts from the top.",
    ),
    right=[
        _ladder(lambda k, n: k),
        lambda stages, lr, factor: {s: lr * factor ** (i + 1 - len(stages)) for i, s in enumerate(stages)},
    ],
    cases=[(["stem", "block", "embedding", "heads"], 0.8, 2.0), (["heads"], 0.3, 2.6)],
    asked="for 4 stages, lr 0.8 and factor 2",
    mistakes=[
        (_ladder(lambda k, n: 0), "every stage gets the same rate; the lower ones should be slower."),
        (_ladder(lambda k, n: n - 1 - k), "the wrong end is slow: the stages come from the input to the output."),
        (_ladder(lambda k, n: k + 1), "the top stage gets lr itself; all are one step too slow."),
        (
            lambda stages, lr, factor: {s: lr / (factor * k or 1) for k, s in enumerate(reversed(stages))},
            "each step down divides once more, by a power of the factor.",
        ),
    ],
    others=[
        (lambda stages, lr, factor: {stages[-1]: lr}, "no rate for"),
        (lambda stages, lr, factor: [lr / factor**k for k in range(len(stages))], "expected a dict"),
        (lambda stages, lr, factor: dict.fromkeys(stages, 0.0), "expected [0.1, 0.2, 0.4, 0.8]"),
    ],
    praise="with lr 0.8 and factor 2, four stages learn at 0.1, 0.2, 0.4 and 0.8.",
    run=_rates,
    read=as_tensor,
)


class _Tiny(Backbone):
    """A backbone with everything that can leak: both kinds of BatchNorm, and dropout."""

    name = "tiny"
    image_size = 8
    embedding_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 6), nn.BatchNorm1d(6))

    @property
    def stages(self) -> dict[str, list[nn.Module]]:
        return {"first": [self.first], "embedding": [self.last]}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.last(self.first(self.prepare(images))))


def _loop(before=lambda backbone: None, each=lambda backbone: None, learns=True):
    """An answer to 04.3: a loop that does `before` once, and `each` before every step."""

    def train_head(backbone, head, photos, targets, steps=3):
        optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
        backbone.requires_grad_(False)
        before(backbone)
        for _ in range(steps):
            each(backbone)
            head.train()
            loss = F.cross_entropy(head(backbone(photos)), targets)
            optimiser.zero_grad()
            loss.backward()
            if learns:
                optimiser.step()

    return train_head


def _eval_only(*kinds):
    """Training mode, but the modules of these kinds in evaluation mode."""

    def mode(backbone: nn.Module) -> None:
        for module in backbone.train().modules():
            if isinstance(module, kinds):
                module.eval()

    return mode


@define(
    "04.3",
    "Mend the leak",
    hints=(
        "`requires_grad` is about weights. Which mode makes BatchNorm use its stored statistics and leave them alone?",
        "One word in the loop is wrong: what is `backbone.train()` there for?",
        "`backbone.eval()` inside the loop, or once `backbone.freeze()`, which also survives a later `train()`.",
    ),
    right=lambda: [
        _loop(each=lambda backbone: backbone.eval()),
        _loop(before=lambda backbone: backbone.freeze(), each=lambda backbone: backbone.train()),
    ],
    wrong=lambda: [
        (_loop(each=lambda backbone: backbone.train()), "statistics"),
        (_loop(before=lambda backbone: backbone.eval(), each=lambda backbone: backbone.train()), "statistics"),
        (_loop(each=_eval_only(nn.BatchNorm2d)), "BatchNorm1d"),
        (_loop(each=_eval_only(nn.BatchNorm2d, nn.BatchNorm1d)), "dropout"),
        (_loop(each=lambda backbone: backbone.eval(), learns=False), "head"),
        (_loop(each=lambda backbone: backbone.requires_grad_(True).eval()), "gradient"),
    ],
    in_place=True,
)
def _frozen_means_frozen(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, head = _Tiny().train(), nn.Linear(6, 2)
        photos = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
        targets = torch.tensor([0, 1] * 4)
        old, old_head = copy.deepcopy((backbone.state_dict(), head.state_dict()))
        dropout = []
        module = next(module for module in backbone.modules() if isinstance(module, nn.Dropout))
        module.register_forward_hook(lambda module, *_: dropout.append(module.training))
        function(backbone, head, photos, targets)
    moved = [name for name, value in backbone.state_dict().items() if not torch.equal(value, old[name])]
    require(any(not torch.equal(v, old_head[k]) for k, v in head.state_dict().items()), "the head did not learn.")
    require(not set(moved) & dict(backbone.named_parameters()).keys(), f"weights of the backbone moved: {moved}.")
    only_1d = moved and all(name.startswith("last") for name in moved)
    require(not only_1d, f"{', '.join(moved)} moved: FaceNet's last BatchNorm is a BatchNorm1d.")
    require(not moved, f"the statistics of BatchNorm still moved: {', '.join(moved)}.")
    require(not any(dropout), "nothing moved, but dropout is still on in the backbone: its features are noisy.")
    wants = [name for name, p in backbone.named_parameters() if p.requires_grad or p.grad is not None]
    require(not wants, "nothing moved, but the backbone still computes gradients, which is most of the work.")
    return "weights, statistics and dropout of the backbone stand still; only the head learns."
