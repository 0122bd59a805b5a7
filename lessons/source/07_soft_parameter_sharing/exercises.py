"""Exercises of lesson 07, soft parameter sharing."""

from __future__ import annotations

import torch

from facekit.course.exercises import as_number, as_tensor, define, define_experiment, define_values, require


def _penalty_right(a, b, strengths):
    return sum(strengths.get(name, 0) * (a[name] - b[name]).square().sum() for name in a)


@define(
    "07.1",
    "The penalty, layer by layer",
    hints=(
        "One term a layer: its λ times the sum of the squared differences of its weights.",
        "`(a[name] - b[name]).square().sum()` is the squared distance of one layer.",
        "`strengths.get(name, 0)` is 0 for a layer that no strength is given for; add up over the names in `a`.",
    ),
    right=lambda: [
        _penalty_right,
        lambda a, b, strengths: torch.stack([v * (a[k] - b[k]).norm() ** 2 for k, v in strengths.items()]).sum(),
    ],
    wrong=lambda: [
        (lambda a, b, s: sum(s.get(k, 0) * (a[k] - b[k]).norm() for k in a), "not squared"),
        (lambda a, b, s: sum(s.get(k, 0) * (a[k] - b[k]).square().mean() for k in a), "mean"),
        (lambda a, b, s: sum((a[k] - b[k]).square().sum() for k in a), "without their strengths"),
        (lambda a, b, s: sum(s.get(k, 1) * (a[k] - b[k]).square().sum() for k in a), "counts 0"),
        (lambda a, b, s: _penalty_right(a, b, s).detach(), "gradient"),
        (lambda a, b, s: _penalty_right(a, b, s).item(), "tensor"),
        (lambda a, b, s: sum(s.get(k, 0) * (a[k].square().sum() - b[k].square().sum()) for k in a), "difference first"),
    ],
)
def _penalty(function):
    a = {"layer_1": torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True), "layer_2": torch.tensor([3.0, 5.0])}
    b = {"layer_1": torch.tensor([[1.0, 0.0], [2.0, 1.0]]), "layer_2": torch.tensor([0.0, 1.0])}
    both = function(a, b, {"layer_1": 0.5, "layer_2": 0.1})
    require(isinstance(both, torch.Tensor), f"expected a tensor with one number, got {type(both).__name__}.")
    value = as_number(both.detach())
    asked = "for squared distances 8 and 25 and strengths 0.5 and 0.1"
    require(abs(value - (0.5 * 8**0.5 + 0.1 * 5)) > 1e-5, f"{asked} these are distances, not squared ones.")
    require(abs(value - (0.5 * 2 + 0.1 * 12.5)) > 1e-5, f"{asked} this takes the mean over the weights, not the sum.")
    require(abs(value - 33) > 1e-5, f"{asked} this adds the squared distances without their strengths.")
    lengths = sum(s * (a[k].square().sum() - b[k].square().sum()) for k, s in (("layer_1", 0.5), ("layer_2", 0.1)))
    require(abs(value - float(lengths.detach())) > 1e-5, "these are lengths; take the difference first, then square.")
    require(abs(value - 6.5) < 1e-5, f"{asked} expected 0.5 · 8 + 0.1 · 25 = 6.5, got {value:.4g}.")
    one = as_number(torch.as_tensor(function(a, b, {"layer_1": 0.5})).detach())
    require(abs(one - 4) < 1e-5, f"a layer without a strength counts 0: expected 0.5 · 8 = 4, got {one:.4g}.")
    require(both.requires_grad, "the result has no gradient; do not detach it, the optimiser needs it.")
    found = torch.autograd.grad(both, a["layer_1"])[0]
    wanted = 2 * 0.5 * (a["layer_1"] - b["layer_1"]).detach()
    require(torch.allclose(found, wanted), f"its gradient should be {wanted.tolist()}, not {found.tolist()}.")
    return "0.5 · 8 + 0.1 · 25 = 6.5, with the gradient 2λ(a - b)."


_largest_rate = define_values(
    "07.2",
    "How large may a step be?",
    hints=(
        "Network i moves by -η · 2λ · Σ_j (w_i - w_j); with T networks the sum is T times (w_i - the mean of all).",
        "The mean stays where it is, so every step multiplies each distance from it by 1 - 2λTη.",
        "It does not grow as long as 1 - 2λTη is not below -1.",
    ),
    right=[lambda s, n: 1 / (s * n), lambda lam, t: 2 / (2 * lam * t)],
    cases=[(5.0, 3), (0.5, 3), (0.5, 6)],
    asked="for λ = 5 and 3 networks",
    mistakes=[
        (lambda s, n: 1 / n, "this is the same for every λ; the limit depends on λ."),
        (lambda s, n: s * n, "a stronger pull needs a smaller rate, not a larger one."),
        (
            lambda s, n: 1 / (2 * s),
            "this is the same for 3 and 6; it depends on the number of networks, which all pull.",
        ),
        (lambda s, n: 2 / (s * n), "the distances grow at this rate; how much does a step multiply them by?"),
        (lambda s, n: 1 / (2 * s * n), "all meet in one single step at this rate; twice as much still shrinks."),
        (
            lambda s, n: 1 / (2 * s * (n - 1)),
            "you counted who pulls; but they move themselves, too. At two it is 1/(2λ).",
        ),
    ],
    others=[(lambda s, n: 1 / (s * n**2), "expected 0.06667")],
    praise="λTη may be 1 at most; for two networks that is 2λη ≤ 1.",
)


_PASSED_ON = torch.tensor([[[1.0, 2.0, 3.0]], [[10.0, 0.0, -10.0]]])
_stitch = define_values(
    "07.3",
    "A cross-stitch unit",
    hints=(
        "Task i passes on Σ_j α_ij x_j: row i of `alpha` says what it takes from each of the tasks.",
        "For one task: `sum(alpha[i, j] * x[j] for j in range(len(x)))`.",
        '`torch.einsum("ij,jnd->ind", alpha, x)` does it for all tasks at once.',
    ),
    right=[
        lambda alpha, x: torch.einsum("ij,jnd->ind", alpha, x),
        lambda alpha, x: torch.stack([sum(w * each for w, each in zip(row, x, strict=True)) for row in alpha]),
        lambda alpha, x: (alpha @ x.flatten(1)).view(x.shape),
    ],
    cases=[(alpha, _PASSED_ON) for alpha in (torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.eye(2))],
    mistakes=[
        (lambda alpha, x: x, "x is returned unchanged."),
        (lambda alpha, x: alpha.diagonal()[:, None, None] * x, "each task passes on only its own; add the others'."),
        (
            lambda alpha, x: torch.einsum("ji,jnd->ind", alpha, x),
            "these are the columns of alpha; what a task takes is in its row.",
        ),
    ],
    others=[(lambda alpha, x: torch.einsum("ij,jnd->nd", alpha, x), "shape")],
    praise="with the identity the networks are independent; with equal rows all pass on the same.",
    read=as_tensor,
)

_experiment = define_experiment(
    "07.4",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `single` and your way.",
        "`learn(seed, 0)` is the single networks; `n=200` learns from 200 rows, `alike=False` from other starts.",
        "`Runs({'single': [net], ...}, [seed]).by_seed(test)['mean'].iloc[0]` is what `over_seeds` wants of one seed.",
    ),
    baseline="single",
)
