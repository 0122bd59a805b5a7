# %% [markdown]
# # 07 · Soft parameter sharing
#
# Every task gets a network of its own, and a penalty draws the networks together. One number leads from independent
# networks to a single one. You measure what lies between, and whether it pays.

# %% [markdown]
# ## What you will be able to do
#
# - train one network for each task with a penalty on their distance, by hand and with facekit
# - say what the two ends of the dial are, and check that they are reached
# - choose the strength of the penalty without fooling yourself
# - say what cross-stitch units and the trace norm do otherwise
# - count what soft sharing costs beside hard sharing
# - recognise three ways in which it goes wrong

# %% [markdown]
# ## What you need
#
# [Hard sharing](glossary.md#hard-sharing), several [heads](glossary.md#head) on one network, from
# [lesson 06](06_hard_parameter_sharing.ipynb). [Embeddings](glossary.md#embedding) from
# [lesson 03](03_feature_extraction.ipynb). Every term stands in the [glossary](glossary.md).

# %% [markdown]
# ## The idea
#
# ![Three pictures of two networks, gender and age. Left, λ is 0 and nothing connects them. Middle, springs connect their layers, the heads are free. Right, λ is large and both lie on each other as one network with two heads](figure.svg)
#
# Hard sharing decides before training which layers serve all tasks. **Soft parameter sharing**
# ([glossary](glossary.md#soft-sharing)) leaves every task its own copy of every layer. It only asks the copies to stay
# close. A [penalty](glossary.md#penalty) is added to the losses of the tasks:
#
# $$L = \sum_{t} L_t \;+\; \lambda \sum_{\text{layers}} \; \sum_{s<t} \lVert w_s - w_t \rVert^2$$
#
# Here $w$ are the weights and biases of a layer, and $s$ and $t$ are two tasks. Think of a spring between every weight
# and its counterpart in the other network. Where both tasks want the same weight, the spring costs nothing. Where they
# do not, it is stretched until the pull of the data and the pull of the spring are in balance.
#
# - **λ = 0**: the networks are independent.
# - **λ large**: the copies cannot differ. They are one network with a head for each task, which is hard sharing.
#
# The heads have no spring: seven races and two genders have nothing that corresponds.
#
# You know a penalty like this. [Weight decay](glossary.md#weight-decay) pulls every weight towards 0. Soft sharing
# pulls it towards the weight of the other task. Which is the better guess has to be measured.

# %% [markdown]
# ## Build it
#
# ### Two tasks on faces
#
# First on faces that you can look at: 200 with labels, as embeddings of 512 numbers. The tasks are gender and age.

# %%
import copy

import pandas as pd
import torch
from torch import nn

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, side_by_side, with_spread
from facekit.experiments import Runs, few_labels
from facekit.models.embedding import embed
from facekit.records import recorded
from facekit.show import plots
from facekit.training.loop import predict

course, figures = start("07"), lesson("07").figures
faces, pair = course.faces(), course.tasks[1:]  # gender and age
seen = embed(course.backbone(), faces)
labelled, new = few_labels(seen.split("train"), 200, seed=0), seen.split("test")

# %% [markdown]
# Each task gets a network of two hidden layers and a head. The penalty is one line. The loop is the usual one.


# %%
def apart(a, b):
    return sum((p - q).square().sum() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def answers(networks, heads, rows):
    x = 512**0.5 * torch.from_numpy(rows.features)
    return {task.name: head(net(x)) for task, net, head in zip(pair, networks, heads, strict=True)}


def losses(networks, heads, rows):
    said, targets = answers(networks, heads, rows), rows.targets(pair)
    return {task.name: task.loss(said[task.name], targets[task.name]) for task in pair}


# %%
def train_by_hand(rows, strength, steps=40):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    networks = nn.ModuleList(copy.deepcopy(layers) for _ in pair)  # all start from the same weights
    heads = nn.ModuleList(nn.Linear(64, len(task.classes)) for task in pair)
    optimiser, log = torch.optim.AdamW([*networks.parameters(), *heads.parameters()], lr=3e-3), []
    for _ in range(steps):
        parts, distance = losses(networks, heads, rows), apart(*networks)
        optimiser.zero_grad()
        (sum(parts.values()) + strength * distance).backward()
        optimiser.step()
        log.append({name: part.item() for name, part in parts.items()} | {"squared distance": distance.item()})
    return networks, heads, pd.DataFrame(log)


by_hand = {strength: train_by_hand(labelled, strength) for strength in (0, 0.01, 1)}
plots.show(figures.curves(by_hand), "Loss of gender, loss of age and squared distance over 40 steps, for three λ.")

# %% [markdown]
# Both losses fall, more slowly with a strong spring. The distance starts at 0, for both networks begin alike. Without a
# spring it grows and grows. On new faces:


# %% tolerance=0.06
def accuracies(networks, heads, rows):
    said, targets = answers(networks, heads, rows), rows.targets(pair)
    return {name: (each.argmax(1) == targets[name]).double().mean().item() for name, each in said.items()}


pd.DataFrame({f"λ = {λ:g}": accuracies(*by_hand[λ][:2], new) for λ in by_hand}).T.round(2)

# %% [markdown]
# One seed and a few hundred faces: differences of a few hundredths may be chance. What the networks drawn together (λ = 1)
# say of faces, six right answers above and six wrong ones below, first gender, then age:

# %%
said = answers(*by_hand[1][:2], new)
for task in pair:
    names = task.decode(task.predict(said[task.name]))[task.name]
    fig = plots.right_and_wrong(faces.split("test").images, new.labels[task.name], names)
    plots.show(fig, f"Faces with their label for {task.name} and the answer: six right ones, then six wrong ones.")

# %% [markdown]
# Wrong ages are mostly a neighbour of the right one.
#
# ### Does the spring pull as announced?
#
# The gradient of λ‖a - b‖² with respect to a is 2λ(a - b), and the opposite with respect to b.

# %%
a, b = by_hand[0][0]
pull = torch.autograd.grad(0.3 * apart(a, b), [*a.parameters()])
expected = [2 * 0.3 * (p - q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
print("the gradient is 2λ(a - b):", all(map(torch.allclose, pull, expected)))

# %% [markdown]
# ### The same with facekit
#
# `SharedNet` with `shared=0` has a copy of every layer for each task. `SoftSharing` is the loss with the penalty, over
# all pairs of tasks. With our weights in it, it must give our loss.

# %% tolerance=0.01
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from facekit.models.multitask import CrossStitch, SharedNet, mlp, sharing_costs
from facekit.training.batches import Batches
from facekit.transfer.sharing import SoftSharing, train_shared

networks, heads, _ = by_hand[0.01]
net = SharedNet(mlp(512, (64, 64)), pair, shared=0)
ours = parameters_to_vector([*networks.parameters(), *heads.parameters()])
vector_to_parameters(ours, [*net.towers.parameters(), *net.outputs.parameters()])
batch = next(Batches(labelled, pair, len(labelled)).epoch())
mine = sum(losses(networks, heads, labelled).values()) + 0.01 * apart(*networks)
theirs, _ = SoftSharing(pair, 0.01).loss(net, batch)
print(f"loss by hand {mine:.3f}, of facekit {theirs:.3f}; equal: {torch.allclose(mine, theirs, atol=1e-5)}")

# %% [markdown]
# ## Run it
#
# ### The whole dial
#
# From here on the rows are **drawn**: made by a statistical model of FaceNet's features, no real person behind any of
# them. (In profile full they are embeddings of photos.) They have race, gender and age. Every run learns from 1,000
# labelled rows, for each [seed](glossary.md#seed) others. All methods of a seed get the same rows, the same start and
# the same batches. So they can be compared seed by seed.

# %%
features, tasks = course.features(), course.feature_tasks
train, validation, test = (features.split(part) for part in ("train", "validation", "test"))
seeds, STRENGTHS = range(4), (0, 0.003, 0.01, 0.03, 0.1, 1)


def learn(seed, strength, tasks=tasks, kind=SharedNet, shared=0, dropout=0.3, alike=True, n=1000):
    torch.manual_seed(seed)
    net = kind(mlp(512, (64, 64), dropout), tasks, shared)
    net = net if alike else net.start_apart()
    return train_shared(net, SoftSharing(tasks, strength), few_labels(train, n, seed), steps=120, seed=seed, lr=3e-3)


found = {strength: [learn(seed, strength) for seed in seeds] for strength in STRENGTHS}
found["hard"] = [learn(seed, 0, shared=None) for seed in seeds]

# %% [markdown]
# `Runs` scores the trained networks. It also measures the **relative distance** of the copies of a layer: 0 for equal
# copies, about 1 for copies that have nothing to do with each other.

# %% tolerance=0.03
runs = Runs(found, seeds)
scored, distances = runs.accuracies(test), runs.distances()
distances.pivot_table("distance", "method", "stage", sort=False).round(2)

# %% [markdown]
# Every step of the dial brings the layers closer. At λ = 1 they are as good as one.
#
# ### Is each end what it should be?
#
# The mean difference between the answers of two networks (probabilities for gender), here without
# [dropout](glossary.md#dropout):

# %% tolerance=0.02
ends = {f"λ = {λ:g}": learn(0, λ, pair, dropout=0) for λ in (0, 1)}
known = {"gender alone": learn(0, 0, pair[:1], dropout=0), "hard sharing": learn(0, 0, pair, shared=None, dropout=0)}
says = {name: predict(net, test)["gender"].softmax(1) for name, net in (ends | known).items()}
pd.DataFrame({end: {name: (says[end] - says[name]).abs().mean().item() for name in known} for end in ends}).T.round(3)

# %% [markdown]
# At λ = 0 gender's network is the one trained alone. At λ = 1 it is nearer to hard sharing, though not equal to it. What
# is left comes up under "What goes wrong".

# %% [markdown]
# ## Look at the result
#
# ### The dial
#
# Turn λ. Dots are means, bars reach from the lowest to the highest seed. The two bands are what you have without the
# dial: single networks and hard sharing. Below: one weight a point, in gender's network and in age's.

# %%
from facekit.show.widgets import explore


def dial(strength):
    weights = figures.corresponding_weights(runs.nets[strength][0], "gender", "age", every=16)
    return figures.sharing_dial(strength, scored, distances, weights, ("gender", "age"))


alt = "Accuracy of three tasks and distance of their networks over λ, with single networks and hard sharing as bands."
shown = [{"strength": value} for value in (0, 0.01, 1)]
explore(dial, strength=STRENGTHS, settings=shown, alt=lambda strength: f"{alt} Marked: λ = {strength:g}.")

# %% [markdown]
# Read the points first. At λ = 0 they are a cloud: both networks started alike, and each went its own way. As λ grows
# they gather on the diagonal.
#
# The bars are long, for each seed learnt from other rows. Age is the task to watch. Hard sharing is below single
# networks there, and so is the right end of the dial. This is [negative transfer](glossary.md#negative-transfer). In
# between, the networks are similar but not equal, and age need not pay.
#
# ### Which λ?
#
# It is tempting to take the λ with the highest point. That would be choosing on what you are judged by. Choose on
# [validation](glossary.md#validation) rows, then look at the test rows once, seed by seed.

# %% tolerance=0.4
held = runs.by_seed(validation)["mean"][list(STRENGTHS)]
chosen = held.mean().idxmax()
gain = 100 * runs.by_seed(test)["mean"].pipe(lambda table: table[chosen] - table[0])
print(f"on test rows λ = {chosen:g} gains {gain.mean():+.1f} ± {gain.sem():.1f} points over single networks")
with_spread(held)

# %% [markdown]
# The table is of validation, means of the three tasks. Half a point is little beside what more labels bring (lesson 03). You can see it only because the runs are compared
# within their seeds. If validation had chosen 0, that would be a result as good as any other.
#
# ### A strength for each layer
#
# Layers near the input may have more in common than those near the head. `SoftSharing` takes a strength for each.
#
# ### Cross-stitch units
#
# With the penalty you choose how much is shared. [Cross-stitch units](glossary.md#cross-stitch-unit) (Misra et al.
# 2016) learn it. After every layer each network passes on a mixture of its own
# [activations](glossary.md#activation) and those of the others:
# $x_i \leftarrow \sum_j \alpha_{ij} x_j$. The α are trained with everything else.

# %% tolerance=0.15
compared = {"single": found[0], f"soft, λ = {chosen:g}": found[chosen]}
compared["strong near input"] = [learn(seed, {"layer_1": 0.1, "layer_2": 0.001}) for seed in seeds]
compared["strong near head"] = [learn(seed, {"layer_1": 0.001, "layer_2": 0.1}) for seed in seeds]
compared["cross-stitch"] = [learn(seed, 0, kind=CrossStitch) for seed in seeds]
pd.concat({stage: compared["cross-stitch"][0].alpha(stage) for stage in ("layer_1", "layer_2")}).round(1)

# %% [markdown]
# A row says what its task takes from the others. Each takes most from itself, so these networks stay nearly as
# independent as they started. All ways side by side:

# %%
tables = Runs(compared | {"hard": found["hard"]}, seeds).by_seed(test)
plots.show(figures.gain_panels(tables, "single"), "Points over single networks, seed by seed, of five ways to share.")

# %% [markdown]
# Each dot is a seed; the numbers are means and [standard errors](glossary.md#standard-error). On drawn rows soft
# sharing gains in every task, most for age. A strong spring near the input does about as well; near the head it brings
# little. Hard sharing comes out even, with age below zero. Cross-stitch loses for race and gains nowhere.
#
# ### Another distance: the trace norm
#
# The penalty wants the copies equal. Yang and Hospedales (2017) only want them to have much in common. They write the
# copies of a layer one below the other, a row for each task. They penalise the
# [trace norm](glossary.md#trace-norm) of this matrix: small where a few directions are enough to make up all rows.
# How large a part of the trace norm is the first direction, in our networks?

# %% tolerance=0.03
pd.DataFrame({f"λ = {λ:g}": figures.first_direction(found[λ][0]) for λ in STRENGTHS}).round(2)

# %% [markdown]
# The dial ends where one direction is all there is.
#
# ### What it costs
#
# Parameters by who uses them, then one training step on photos, where the whole network is copied for each task:

# %%
pd.DataFrame({"hard": sharing_costs(found["hard"][0]), "soft": sharing_costs(found[chosen][0])})

# %% tags=["nbval-ignore-output"] reason="the milliseconds differ from run to run"
from facekit.experiments.speed import bench_sharing

bench_sharing(rounds=3, batch_size=4, device="cpu", on=("photos",)).query("unit == 'ms/step'").dropna(axis=1).round(2)

# %% [markdown]
# Three networks have three times the parameters and take about three times as long. So soft sharing has to **earn**
# something: at equal accuracy hard sharing is the better choice.
#
# ### On real photos, recorded
#
# The same dial on FaceNet's embeddings of photos, learnt from 200 labels and from 1,000. Five seeds.

# %%
record = recorded("dial_fairface")
panels = {f"{task.name}, {n:,}": side_by_side(record.rows, task.name, n) for n in (200, 1000) for task in tasks}
alt = "Recorded, with 200 labels above and 1,000 below: points over single networks for race, gender and age."
plots.show(figures.gain_panels(panels, "single", columns=3), alt)
print(record.caption())

# %% [markdown]
# **200 labels.** Hard sharing and every λ are above single networks in all three tasks, mostly by less than twice the
# standard error: a hint, no proof. Clear are race at λ = 0.003 and gender at λ = 1. Cross-stitch gains nothing for race.
#
# **1,000 labels.** Little is left of it. Hard sharing clearly gains for race and gender, and clearly loses for age.
# λ = 1 loses for race and age. The small λ neither gain nor lose.
#
# The next record has another recipe: one hidden layer of 128, more dropout, more steps. It goes from 50 labels to all
# that there are, and has a linear [probe](glossary.md#probe) beside it. Shown is the mean of the three tasks.

# %%
record = recorded("sharing_fairface")
rows = record.rows.query("features == 'embedding'")
names = ["single", "soft 0.03", "soft 1", "cross-stitch", "hard", "linear"]
means = {f"{n:,} labels": sum(side_by_side(rows, t.name, n)[names] for t in tasks) / 3 for n in rows["n"].unique()}
fig = figures.gain_panels(dict(reversed(means.items())), "single", columns=3)
plots.show(fig, "Recorded, 50 to 20,000 labels: points over single networks, mean of three tasks.")
print(record.caption())

# %% [markdown]
# With 50 labels the probe beats every network. With 200 nothing stands out here. With 1,000 sharing gains about a
# point, with all labels nothing. Wherever soft sharing gains, hard sharing gains about as much, at a third of the cost.
#
# What soft sharing has to offer is the middle of the dial, for a task that hard sharing would harm. Whether there is
# such a middle hangs on networks, recipe and labels. Measure it with your own before you pay for three networks.

# %% [markdown]
# ## What goes wrong
#
# ### Networks that do not start alike
#
# Take the trained network for gender. Write its 64 first hidden units in another order, and the weights of the next
# layer in the same order. This twin computes exactly the same. What lies halfway between the two?

# %% tolerance=0.5
(network, other), heads, _ = by_hand[0]
twin, middle, order = copy.deepcopy(network), copy.deepcopy(network), torch.randperm(64)
twin[0].weight.data, twin[0].bias.data = network[0].weight.data[order], network[0].bias.data[order]
twin[2].weight.data = network[2].weight.data[:, order]
vector_to_parameters(sum(parameters_to_vector(each.parameters()) for each in (network, twin)) / 2, middle.parameters())
for name, each in {"network": network, "twin": twin, "halfway": middle}.items():
    print(f"{name:8} accuracy for gender {accuracies([each, other], heads, new)['gender']:.2f}")
print(f"squared distance of the twin: {apart(network, twin) / apart(network, other):.1f} times that of age's network")

# %% [markdown]
# To the penalty the twin is a stranger, farther away than the network of another task. The order of hidden units is
# arbitrary ([permutation symmetry](glossary.md#permutation-symmetry)), and every random start settles on one of its
# own. A spring then connects two units that have nothing in common. So **start all networks from the same weights**, as
# `SharedNet` does, and never switch the penalty on between networks that were trained apart.
#
# The same for networks that feel the spring from the first step on:

# %%
starts = {"single": found[0], "same start": found[0.1]}
starts["other starts"] = [learn(seed, 0.1, alike=False) for seed in seeds]
fig = figures.gain_panels(Runs(starts, seeds).by_seed(test), "single")
plots.show(fig, "Gain in points at λ = 0.1, from the same start and from others.")

# %% [markdown]
# It costs more than a point. Does a weak spring mind as much? Try `learn(seed, 0.01, alike=False)`.
#
# ### A λ far beyond the end
#
# Once the networks are one, a larger λ should change nothing. But AdamW divides each gradient by its recent size. If
# the spring makes that size, little is left for the tasks.

# %% tolerance=0.01
far = {"hard": found["hard"], "λ = 0.1": found[0.1], "λ = 1": found[1], "λ = 100": [learn(seed, 100) for seed in seeds]}
with_spread(Runs(far, seeds).by_seed(test)["mean"])

# %% [markdown]
# The end of the dial is the **smallest** λ at which the distances are close to 0. Beyond it you only learn more slowly.
# A table that shows λ = 100 as the limit would tell you that hard sharing is bad.
#
# ### A step that is too long
#
# Plain gradient descent multiplies the difference of two networks by 1 - 4λη in each step (η is the learning rate). For
# 2λη above 1 that is below -1: they jump past each other, farther each time. Here are the springs alone, λ = 10:

# %% tags=["broken-on-purpose"]
for rate in (0.04, 0.06):
    a, b = (copy.deepcopy(each) for each in by_hand[0][0])
    optimiser, before = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=rate), apart(a, b).item()
    for _ in range(20):
        optimiser.zero_grad()
        (10 * apart(a, b)).backward()
        optimiser.step()
    print(f"2λη = {20 * rate:.1f}: in 20 steps the squared distance is multiplied by {apart(a, b) / before:.0e}")

# %% [markdown]
# ### A spring between things that do not correspond
#
# The heads of two tasks have no common meaning, mostly not even the same size. facekit refuses:

# %% tags=["raises-exception"]
SoftSharing(pair, {"heads": 0.1}).loss(SharedNet(mlp(512, (64, 64)), pair, shared=0), batch)

# %% [markdown]
# ## Exercises
#
# ### 07.1 The penalty, layer by layer
#
# `a` and `b` are the layers of two networks, each a dict of weight tensors by name. `strengths` gives λ by name. A layer
# that has none counts 0.


# %% tags=["solution"]
def penalty(a, b, strengths):
    # TODO: the sum over the layers of λ times the squared distance
    # <solution>
    return sum(strengths.get(name, 0) * (a[name] - b[name]).square().sum() for name in a)
    # </solution>


# %%
exercise("07.1").check(penalty)
# exercise("07.1").hint()

# %% [markdown]
# ### 07.2 How large may a step be?
#
# T networks, a spring between every two of them, plain gradient descent and nothing else. What is the largest learning
# rate at which their distances do not grow? For T = 2 you have just seen it.


# %% tags=["solution"]
def largest_rate(strength, networks):
    # TODO: from λ and the number of networks to the learning rate
    # <solution>
    return 1 / (strength * networks)
    # </solution>


# %%
exercise("07.2").check(largest_rate)
# exercise("07.2").hint()

# %% [markdown]
# ### 07.3 A cross-stitch unit
#
# `x` holds the activations of T networks, (T, N, D). `alpha` is (T, T): what the task of the row takes from the task of
# the column. Return what the networks pass on.


# %% tags=["solution"]
def stitch(alpha, x):
    # TODO: for each task i the sum over j of alpha[i, j] times x[j]
    # <solution>
    return torch.einsum("ij,jnd->ind", alpha, x)
    # </solution>


# %%
exercise("07.3").check(stitch)
# exercise("07.3").hint()

# %% [markdown]
# ### 07.4 Your own experiment
#
# Choose a question about sharing, and answer it with a table of `over_seeds`: at least three seeds, a column `single`
# and a way of your own beside it. Ideas: 200 labels or 5,000; another start of the α; a weak spring between other
# starts; two tasks in place of three.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone · gives the spread beside
# the mean · chooses nothing on the test rows · says what you saw even if it is nothing · names what you would try next.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "single"
# <solution>
# Expected: with 200 labels a network a task knows little, so that hard sharing gains more than with 1,000.
def with_few(seed):
    nets = {"single": learn(seed, 0, n=200), "soft, λ = 0.01": learn(seed, 0.01, n=200)}
    nets["hard"] = learn(seed, 0, shared=None, n=200)
    return Runs({name: [net] for name, net in nets.items()}, [seed]).by_seed(test)["mean"].iloc[0]


experiment = over_seeds(with_few, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.02
exercise("07.4").check(experiment)
# exercise("07.4").hint()

# %% [markdown] tags=["solution-only"]
# Hard sharing is ahead by little more than its spread: three seeds do not settle it. Next: more seeds.

# %% [markdown]
# ## Quiz

# %%
quiz("07").show()

# %% [markdown]
# ## Recap
#
# - Soft sharing: a network for each task, and λ times the squared distance between corresponding layers.
# - λ = 0 is independent networks, a large λ hard sharing. All must start from the same weights.
# - Choose λ on validation. Compare seed by seed, with single networks and with hard sharing.
# - It costs a network for each task. Hard sharing costs one, and mostly gains as much.
# - Cross-stitch learns how much is shared. The trace norm asks for common directions, not for equal weights.
# - Next: tasks whose pictures differ, too ([lesson 08](08_multi_domain_learning.ipynb)).

# %% [markdown]
# ## References
#
# - Duong, Cohn, Bird, Cook: [Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network Parser](https://aclanthology.org/P15-2139/), ACL 2015 (the penalty)
# - Ruder: [An Overview of Multi-Task Learning in Deep Neural Networks](https://arxiv.org/abs/1706.05098), 2017
# - Yang, Hospedales: [Trace Norm Regularised Deep Multi-Task Learning](https://arxiv.org/abs/1606.04038), 2017
# - Misra, Shrivastava, Gupta, Hebert: [Cross-stitch Networks for Multi-task Learning](https://arxiv.org/abs/1604.03539), CVPR 2016
# - Caruana: [Multitask Learning](https://doi.org/10.1023/A:1007379606734), Machine Learning 28, 1997
# - Entezari, Sedghi, Saukh, Neyshabur: [The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks](https://arxiv.org/abs/2110.06296), ICLR 2022
