"""Exercises of lesson 04, fine-tuning."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from facekit.course.exercises import as_tensor, define, define_experiment, define_values, kind_of, require
from facekit.models.backbones.base import Backbone


def _covers(draw, channels=slice(None), value=128):
    """An answer to 04.1: `draw` gives top, left, height and width of the square, of the photo's height and width."""

    def covered(photo):
        photo = photo.clone()
        top, left, height, width = draw(*photo.shape[1:])
        photo[channels, top : top + height, left : left + width] = value
        return photo

    return covered


def _place(size: int, side: int) -> int:
    return int(torch.randint(size - side + 1, ()))


def _anywhere(height: int, width: int) -> tuple[int, int, int, int]:
    side = height // 4
    return _place(height, side), _place(width, side), side, side


def _in_place(photo):
    top, left, side, _ = _anywhere(*photo.shape[1:])
    photo[:, top : top + side, left : left + side] = 128
    return photo


@define(
    "04.1",
    "A transform of your own",
    hints=(
        "`photo.clone()` is a copy; `photo.shape` is (3, height, width).",
        "The square is inside if its first row is from 0 to height - side. `torch.randint(height - side + 1, ())` is.",
        "`photo[:, top : top + side, left : left + side] = 128` covers it in all three channels.",
    ),
    right=lambda: [_covers(_anywhere)],
    wrong=lambda: [
        (_in_place, "a copy"),
        (_covers(lambda h, w: (0, 0, h // 4, h // 4)), "same place"),
        (_covers(lambda h, w: (_place(h, h // 4), 0, h // 4, h // 4)), "same place"),
        (_covers(lambda h, w: (_place(h, h // 4), _place(h, h // 4), h // 4, h // 4)), "right edge"),
        (_covers(lambda h, w: (int(torch.randint(h, ())), int(torch.randint(w, ())), h // 4, h // 4)), "wholly inside"),
        (_covers(lambda h, w: (*_anywhere(h, w)[:2], h // 2, h // 2)), "quarter"),
        (_covers(_anywhere, channels=0), "channels"),
        (_covers(_anywhere, value=0), "128"),
        (lambda photo: photo.float(), "uint8"),
        (lambda photo: photo[:, ::2, ::2], "shape"),
        (lambda photo: photo.clone(), "nothing is covered"),
    ],
)
def _own_transform(function):
    height, width = 16, 24
    photo = torch.arange(3 * height * width, dtype=torch.int64).remainder(100).to(torch.uint8).view(3, height, width)
    places = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(300):
            given = photo.clone()
            answer = as_tensor(function(given), (3, height, width))
            require(answer.dtype == torch.uint8, f"expected uint8, not {answer.dtype}.")
            require(torch.equal(given, photo), "the photo itself was changed; work on a copy.")
            other = answer != photo
            require(other.any(), "nothing is covered.")
            require(bool((answer[other] == 128).all()), "the square should have the value 128.")
            require(bool((other == other[0]).all()), "cover the square in all three channels.")
            rows, columns = (torch.nonzero(other[0].any(axis)).flatten().tolist() for axis in (1, 0))
            size = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
            whole = size == (len(rows), len(columns)) and int(other[0].sum()) == size[0] * size[1]
            require(whole, "what is covered is no square.")
            edge = rows[-1] == height - 1 or columns[-1] == width - 1
            require(size == (4, 4) or not (edge and max(size) <= 4), "the square should lie wholly inside the photo.")
            require(
                size == (4, 4), f"of a photo 16 high, 4 x 4 should be covered (a quarter), not {size[0]} x {size[1]}."
            )
            places.append((rows[0], columns[0]))
    tops, lefts = (set(each) for each in zip(*places, strict=True))
    require(len(tops) > 1 and len(lefts) > 1, "the square is always at the same place, or in the same row or column.")
    require(max(lefts) == width - 4, "the square never reaches the right edge; a photo can be wider than high.")
    require(max(tops) == height - 4, "the square never reaches the lower edge.")
    return "300 squares of a quarter of the height, all inside, each somewhere else; the photo stayed as it was."


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
    "A loop without a leak",
    hints=(
        "`requires_grad` is about weights. Which mode makes BatchNorm use its stored statistics and leave them alone?",
        "`head.train()` is right for the head; the backbone needs another mode.",
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


_experiment = define_experiment(
    "04.4",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `last block` and your way. `with_change` above is nearly what you need.",
        "Score on `faces.split('validation').resized(budget.size)`, and return a dictionary {name: accuracy}.",
        "`over_seeds(my_function, seeds=range(3))`; the solution takes `covered` of exercise 04.1 as the transform.",
    ),
    baseline="last block",
)
