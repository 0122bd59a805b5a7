# %% [markdown]
# # 07 · Soft parameter sharing
#
# Each task gets a network of its own, and a penalty draws the networks together. One number turns independent networks
# into a single one; you measure what lies between the two ends, and whether it pays.

# %% [markdown]
# ## What you will be able to do
#
# - train a network a task with a penalty on the distance between their layers, by hand and with facekit
# - say what the two ends of the dial are, and check that they are reached
# - choose the strength of the penalty, for all layers or layer by layer, without fooling yourself
# - say what cross-stitch units and the trace norm do otherwise
# - count what soft sharing costs beside hard sharing
# - recognise three ways in which it goes wrong

# %% [markdown]
# ## What you need
#
# Hard parameter sharing, several heads on one network, from [lesson 06](06_hard_parameter_sharing.ipynb); FaceNet's
# embeddings from [lesson 03](03_feature_extraction.ipynb).

# %% [markdown]
# ## The idea
#
# ![Three pictures of two networks, gender and age. Left, λ is 0 and nothing connects them. Middle, springs connect their layers, the heads are free. Right, λ is large and both lie on each other as one network with two heads](figure.svg)
#
# Hard sharing decides before training which layers serve all tasks: a layer is shared or it is not. **Soft parameter
# sharing** leaves every task its own copy of every layer and only asks the copies to stay close. To the losses of the
# tasks it adds a penalty:
#
# $$L = \sum_{t} L_t \;+\; \sum_{\text{layers}} \lambda_{\text{layer}} \sum_{s<t} \lVert w_s - w_t \rVert^2$$
#
# Here *w* are the weights and biases of a layer, and *s* and *t* run over the tasks. Think of a spring between every
# weight and its counterpart: it pulls with 2λ times their difference. A weight that the tasks want alike stays
# together at no cost. One that they want otherwise is stretched, until the pull of the data and the pull of the spring
# are in balance.
#
# - λ = 0: the networks are independent.
# - λ large: the copies cannot differ. They are one network with a head for each task, which is hard sharing.
#
# The heads have no spring: seven races and two genders have nothing that corresponds.

# %% [markdown]
# You know a penalty like this one. Weight decay pulls every weight towards 0: without evidence, be small. Soft sharing
# pulls it towards the other task's weight: without evidence, be like your neighbour. Both keep a network calm that has
# few labels. Whether the neighbour is a better guess than 0 depends on the tasks, and has to be measured.
#
# Duong et al. (2015) used the L2 distance in this way to let a parser of one language help that of another with little
# data; Ruder (2017) sets it beside hard sharing, as one of the two ways of multi-task learning with neural networks.

# %% [markdown]
# ## Build it

# %%
import copy

import pandas as pd
import torch

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import clearly_better, side_by_side
from facekit.experiments import Runs, few_labels
from facekit.show import plots
from facekit.training.loop import predict

course, figures = start("07"), lesson("07").figures
features = course.features()
train, validation, test = (features.split(part) for part in ("train", "validation", "test"))
tasks = race, gender, age = course.feature_tasks

# %% [markdown]
# A thousand faces, described by FaceNet in 512 numbers, with labels for gender and age. Each of the two tasks gets a
# network of two hidden layers and a head. The penalty itself is one line.


# %%
def apart(a, b):
    return sum((p - q).square().sum() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def loss_by_hand(networks, heads, tasks, rows, strength):
    x, targets = 512**0.5 * torch.from_numpy(rows.features), rows.targets(tasks)
    loss = strength * apart(*networks)
    for task, network, head in zip(tasks, networks, heads, strict=True):
        loss = loss + task.loss(head(network(x)), targets[task.name])
    return loss


def train_by_hand(tasks, rows, strength, steps=40):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(512, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU())
    networks = torch.nn.ModuleList(copy.deepcopy(layers) for _ in tasks)  # all start from the same weights
    heads = torch.nn.ModuleList(torch.nn.Linear(64, len(task.classes)) for task in tasks)
    optimiser = torch.optim.AdamW([*networks.parameters(), *heads.parameters()], lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_by_hand(networks, heads, tasks, rows, strength).backward()
        optimiser.step()
    return networks, heads


# %%
pair, rows = [gender, age], few_labels(train, 1000, seed=0)
by_hand = {strength: train_by_hand(pair, rows, strength) for strength in (0, 0.01, 1)}
squared = [apart(*networks).item() for networks, _ in by_hand.values()]
print("the larger λ, the closer:", squared == sorted(squared, reverse=True))

# %% [markdown]
# That is all of soft sharing. Does the spring pull as announced? The gradient of λ‖a - b‖² with respect to a is
# 2λ(a - b), and the opposite with respect to b. Autograd computes it for every weight:

# %%
(a, b), strength = by_hand[0][0], 0.3
pull = torch.autograd.grad(strength * apart(a, b), [*a.parameters()])
expected = [2 * strength * (p - q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
print("the gradient with respect to a is 2λ(a - b):", all(map(torch.allclose, pull, expected)))

# %% [markdown]
# ### The same with facekit
#
# `SharedNet` with no stage shared has a copy of every layer for each task, and `SoftSharing` is the loss with the
# penalty, for any number of tasks, over all pairs. With the weights of the networks made by hand in it, it must give
# the same loss and the same gradient.

# %%
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from facekit.experiments.speed import bench_sharing
from facekit.models.multitask import CrossStitch, SharedNet, mlp, sharing_costs
from facekit.training.batches import Batches
from facekit.transfer.sharing import SoftSharing, train_shared

ours = [parameter for part in by_hand[0.01] for parameter in part.parameters()]
net = SharedNet(mlp(512, (64, 64)), pair, shared=0)
theirs = [*net.towers.parameters(), *net.outputs.parameters()]
vector_to_parameters(parameters_to_vector(ours), theirs)

batch = next(Batches(rows, pair, len(rows)).epoch())
found, expected = SoftSharing(pair, 0.01).loss(net, batch)[0], loss_by_hand(*by_hand[0.01], pair, rows, 0.01)
gradients = zip(torch.autograd.grad(found, theirs), torch.autograd.grad(expected, ours), strict=True)
print("the same loss:", torch.allclose(found, expected, atol=1e-5))
print("the same gradient:", all(torch.allclose(one, other, atol=1e-5) for one, other in gradients))

# %% [markdown]
# ### Both ends
#
# At λ = 0 each network must come out as if the other were not there. At a large λ the two must be one network: they
# answer as the network with shared layers does. All start from the same layers and see the same batches.


# %%
def learn(seed, strength, tasks=tasks, kind=SharedNet, shared=0, dropout=0.3, alike=True):
    torch.manual_seed(seed)
    net = kind(mlp(512, (64, 64), dropout), tasks, shared)
    net = net if alike else net.start_apart()
    rows = few_labels(train, 1000, seed)
    return train_shared(net, SoftSharing(tasks, strength), rows, steps=120, seed=seed, lr=3e-3)


ends = learn(0, 0, [gender], dropout=0), learn(0, 0, pair, dropout=0), learn(0, 1, pair, dropout=0)
hard = learn(0, 0, pair, shared=None, dropout=0)
alone, free, bound, one = (predict(net, test)["gender"].softmax(1) for net in (*ends, hard))
print("λ = 0 is the network trained alone:", torch.allclose(free, alone, atol=1e-4))
print(
    "λ = 1 is nearer to hard sharing than λ = 0:", ((bound - one).abs().mean() < (free - one).abs().mean() / 2).item()
)

# %% [markdown]
# ## Run it
#
# Now all three tasks, and the whole dial. Every run learns from 1,000 labelled faces: for each seed others, the same for
# all methods, with the same initial layers, the same batches in the same order and the same number of steps. So the
# methods can be compared seed by seed.

# %%
seeds, STRENGTHS = range(4), (0, 0.003, 0.01, 0.03, 0.1, 1)
found = {strength: [learn(seed, strength) for seed in seeds] for strength in STRENGTHS}
found["hard"] = [learn(seed, 0, shared=None) for seed in seeds]
runs = Runs(found, seeds)

# %% [markdown]
# `Runs` keeps the trained networks and scores them on any data. Beside the accuracies it gives the **relative
# distance** of the networks' layers: 0 for equal layers, about 1 for layers that have nothing to do with each other.

# %%
scored, distances = runs.accuracies(test), runs.distances()
means = distances.groupby(["stage", "method"])["distance"].mean().unstack()
print("every step of the dial brings the layers closer:", (means.diff(axis=1).iloc[:, 1:] < 0).all(axis=1).to_dict())
print("far apart at λ = 0:", means[0].min() > 0.3, "| as good as equal at λ = 1:", means[1].max() < 0.03)

# %% [markdown]
# ## Look at the result
#
# ### The dial
#
# Turn λ with the slider. Above: the accuracy of each task; bars reach from the lowest to the highest seed. The two bands
# are the ends that you would have without the dial: single networks and hard sharing. Below: how far apart the
# networks are, and one weight a point, its value in gender's network against its value in age's.

# %%
from facekit.show.widgets import explore


def dial(strength):
    weights = figures.corresponding_weights(runs.nets[strength][0], "gender", "age", every=16)
    return figures.sharing_dial(strength, scored, distances, weights, ("gender", "age"))


alt = "Accuracy of three tasks and distance of their networks over λ, with single networks and hard sharing as bands."
shown = [{"strength": value} for value in (0, 0.01, 1)]
explore(dial, strength=STRENGTHS, settings=shown, alt=lambda strength: f"{alt} Marked: λ = {strength:g}.")

# %% [markdown]
# Read the lower row first. At λ = 0 the points are a cloud: both networks have started from the same weights, but each
# went its own way, the first layer farther than the second. As λ grows they gather on the diagonal, and at λ = 1 no
# difference is left.
#
# Now the upper row. The bars are long because each seed has learnt from other faces; all runs of one seed share them,
# so that the line is better known than its bars suggest (the next figure compares within the seeds). Age is the task to
# watch: hard sharing is below single networks for it, and the right end of the dial goes there, too. A task that pays
# for sharing is called a case of **negative transfer**. In between the layers are similar, not equal, and age need not
# pay.
#
# One thing does not fit: at λ = 1 there is one network, and yet in profile `laptop` it stays below hard sharing in all
# three tasks. What goes wrong there has its own section below.
#
# ### Which λ?
#
# The picture shows test accuracies, and it is tempting to take the λ with the highest point. That would be choosing on
# what you are judged by. λ is a choice like a learning rate: make it on the validation part, then compare on the test
# part, once, seed by seed.

# %%
chosen = runs.accuracies(validation).query("method != 'hard'").groupby("method")["value"].mean().idxmax()
print("mean of the tasks clearly above single networks:", clearly_better(runs.by_seed(test)["mean"], chosen, 0, 0.002))

# %% [markdown]
# `clearly_better` wants a gain that is larger than twice its standard error over the seeds, and here larger than 0.002. If the
# chosen λ is 0 in your run, then validation advises against sharing, and that is a result as good as any other.
#
# ### A strength for each layer
#
# Layers near the input find what a face is described by, those near the head what the task asks for. So the first might
# be shared more than the second. `SoftSharing` takes a strength for each stage; here are both directions.

# %%
near_input, near_head = {"layer_1": 0.1, "layer_2": 0.001}, {"layer_1": 0.001, "layer_2": 0.1}
layered = {"strong near input": [learn(seed, near_input) for seed in seeds]}
layered["strong near head"] = [learn(seed, near_head) for seed in seeds]

# %% [markdown]
# ### The next step: cross-stitch
#
# With the penalty you choose how much is shared. **Cross-stitch units** (Misra et al. 2016) learn it: after every layer,
# each network passes on a mixture of its own activations and those of the others, x_i ← Σ_j α_ij x_j, and the α are
# trained with everything else. With the identity as α the networks are independent; with equal rows they pass on the
# same.

# %% tags=["nbval-ignore-output"] reason="the second decimal can differ by one on another processor"
crossed = [learn(seed, 0, kind=CrossStitch) for seed in seeds]
pd.concat({stage: crossed[0].alpha(stage) for stage in crossed[0].private}).round(2)

# %%
compared = {"single": found[0], f"soft, λ = {chosen:g}": found[chosen]} | layered
tables = Runs(compared | {"cross-stitch": crossed, "hard": found["hard"]}, seeds).by_seed(test)
alt = "Gain over single networks in points, seed by seed: soft sharing, strengths by layer, cross-stitch, hard sharing."
plots.show(figures.gain_panels(tables, "single"), alt)

# %% [markdown]
# Each dot is a seed, each bar the mean; the zero line is a network a task. On the drawn features of profile `laptop`
# soft sharing gains about half a point in the mean over the tasks, and does so in every seed; most of it is age's. Half
# a point is little beside what more labels bring (lesson 03), and you can see it only because the runs are compared
# within their seeds. A strong spring near the input does about as well, one near the head brings next to nothing. Hard
# sharing gains for race and gender, loses for age, and comes out even.
#
# Cross-stitch does not get ahead of single networks. The table of its α says why: each task takes most from itself and
# little from the others, so that the networks stay nearly as independent as they started.
#
# ### Another distance: the trace norm
#
# The L2 penalty wants the copies equal. Yang and Hospedales (2017) want less: that they have much in common. They write
# the copies of a layer one below the other, a row for each task, and penalise the **trace norm** of this matrix, the sum
# of its singular values. It is small where a few directions are enough to make up all rows, whatever the sign and size
# with which each task uses them. How many directions do our own networks need? If one is enough, the first singular
# value is all of the sum.

# %%
shares = pd.DataFrame({strength: figures.first_direction(found[strength][0]) for strength in STRENGTHS})
print("it grows with λ:", shares.min().is_monotonic_increasing, "| to nearly all at λ = 1:", shares[1].min() > 0.95)

# %% [markdown]
# ### What it costs
#
# A network a task has to be stored, computed and trained once for each task, at every λ above the end as well as at 0.

# %%
pd.DataFrame({"hard": sharing_costs(found["hard"][0]), "soft": sharing_costs(found[chosen][0])})

# %% [markdown]
# In training, AdamW keeps four numbers for each parameter (value, gradient and two running means), so memory grows with
# the last row. And time: below is one training step, forward and backward, on embeddings and on photos, where the whole
# network is copied for each task.

# %% tags=["nbval-ignore-output"] reason="the milliseconds differ from run to run"
bench = bench_sharing(rounds=2, batch_size=4, device="cpu", on=("photos",))

# %% [markdown]
# `one task` is a network for one task, `hard` one with three heads: nearly the same. Three networks have three times the
# parameters and take about three times as long per step, to which penalty and stitches add a little; splitting late
# (`hard up to stage_2`) is in between. So soft sharing has to *earn* something: at equal accuracy hard sharing is the
# better choice, at a third of the cost.
#
# ### On real photos, recorded
#
# Do drawn features flatter the method? The same dial, by the same recipe, on FaceNet's embeddings of real photos: once
# learnt from 200 labelled photos, once from 1,000.

# %%
from facekit.records import recorded

record = recorded("dial_fairface")
for n in (200, 1000):
    tables = {task.name: side_by_side(record.rows, task.name, n) for task in tasks}
    plots.show(figures.gain_panels(tables, "single"), f"Recorded, {n} labels: points over single networks at each λ.")
print(record.caption())

# %% [markdown]
# With 200 labels sharing pays, whatever its form: hard sharing and λ from 0.1 on gain about a point in every task, at
# λ = 1 nearly two for race. (A part of that may be the slower learning that comes with a large λ, see below: it keeps a
# network from learning 200 faces by heart.) With 1,000 labels little is left: λ = 0.01 gains a few tenths of a point for
# race and gender, and a tenth of a point is one of the test photos. Towards the right end age pays for sharing, and
# hard sharing gains for gender and race what it loses for age.
#
# How far does that hang on the networks? The next record has another recipe, chosen on held-out photos: one hidden
# layer of 128, more dropout, more steps. It goes from 50 labels to all that there are, and has a linear probe beside it.

# %%
record = recorded("sharing_fairface")
rows = record.rows.query("features == 'embedding'")
shown = ["single", "soft 0.03", "soft 1", "cross-stitch", "hard", "linear"]
sizes = sorted(rows["n"].unique())
means = {f"{n:,} labels": sum(side_by_side(rows, each.name, n)[shown] for each in tasks) / 3 for n in sizes}
fig = figures.gain_panels(means, "single")
plots.show(fig, "Recorded, 50 to 20,000 labels: points over single networks, task mean.")
print(record.caption())

# %% [markdown]
# With 50 labels the linear probe beats every network, shared or not. With 200 nothing stands out, where the record above
# has its point. With 1,000 sharing gains about a point, with 5,000 some tenths, with all of them nothing, and there the
# probe is far behind. Wherever soft sharing gains, hard sharing gains about as much, at a third of the cost.
#
# What the drawn features and both records have in common: sharing is worth a point or so while labels are few, and soft
# sharing is no clear winner over hard sharing. What it has to offer is the middle of the dial, for a task that hard
# sharing would harm. Where that middle lies, and whether there is one, hangs on networks, recipe and labels; so measure
# it with your own, seed by seed, before you pay for three networks.

# %% [markdown]
# ## What goes wrong
#
# ### Networks that do not start alike
#
# All networks above started from the same weights. Does that matter? Take a trained network and write its 64 first
# hidden units down in another order, with the weights of the next layer in the same order. Nothing that it computes
# changes:


# %%
def accuracy(network):
    outputs = by_hand[0][1][1](network(512**0.5 * torch.from_numpy(test.features)))
    return (age.predict(outputs) == test.targets([age])["age"]).double().mean().item()


of_gender, network = by_hand[0][0]  # of gender and of age, at λ = 0
twin, middle, order = copy.deepcopy(network), copy.deepcopy(network), torch.randperm(64)
twin[0].weight.data, twin[0].bias.data = network[0].weight.data[order], network[0].bias.data[order]
twin[2].weight.data = network[2].weight.data[:, order]
vector_to_parameters(sum(parameters_to_vector(each.parameters()) for each in (network, twin)) / 2, middle.parameters())
print("the twin answers the same:", abs(accuracy(network) - accuracy(twin)) < 0.002)
print("it is farther away than gender's network:", apart(network, twin).item() > apart(network, of_gender).item())
print("halfway between the two, more than 0.05 of accuracy is gone:", accuracy(network) - accuracy(middle) > 0.05)

# %% [markdown]
# To the penalty the twin is a stranger, although it is the same network. The order of hidden units is arbitrary
# (**permutation symmetry**), and every random start settles on one of its own. A spring between unit 5 of the one and
# unit 5 of the other then connects two units with nothing in common, and what lies halfway between them is neither.
# So: **start all networks from the same weights**, as `SharedNet` does, or from the same pretrained network. And do not
# switch the penalty on between networks that have been trained apart.
#
# What happens to networks that start otherwise and feel the spring from the first step on?


# %%
starts = {"single": found[0], "same start": found[0.1]}
starts["other starts"] = [learn(seed, 0.1, alike=False) for seed in seeds]
tables = Runs(starts, seeds).by_seed(test)
print("at λ = 0.1, the same start is clearly better:", clearly_better(tables["mean"], "same start", "other starts"))
plots.show(figures.gain_panels(tables, "single"), "Gain in points at λ = 0.1, from the same start and from others.")

# %% [markdown]
# At λ = 0.1 the networks are pulled together before they have learnt anything, each towards the average of unrelated
# units, whose weights largely cancel. It costs more than a point. Does a weak spring mind the start as much? Try
# `learn(seed, 0.01, alike=False)`.
#
# ### A λ far beyond the end
#
# Once the networks are one, a larger λ changes nothing any more, so one could think. AdamW divides each gradient by its
# recent size. If the spring makes that size, what is left for the tasks is small.

# %%
far = {"hard": found["hard"], "λ = 1": found[1], "λ = 100": [learn(seed, 100) for seed in seeds]}
tables = Runs(far, seeds).by_seed(test)
print("λ = 100 is worse than hard sharing by 0.02 or more:", clearly_better(tables["mean"], "hard", "λ = 100", 0.02))
fig = figures.gain_panels(tables, "hard")
plots.show(fig, "Points over hard sharing: λ = 1 stays close, λ = 100 falls far behind.")

# %% [markdown]
# The end of the dial is the *smallest* λ at which the distances are close to 0 (0.02, say). Beyond it you only learn
# more slowly, and a table that shows "soft sharing with λ = 100" as the limit would tell you that hard sharing is bad.
#
# ### A step that is too long
#
# Plain gradient descent multiplies the difference of two networks by 1 - 4λη in each step (η is the learning rate; each
# of the two moves by 2λη times the difference). For 2λη above 1 that is below -1: they jump past each other, farther
# each time. Here with λ = 10 and the rates 0.04 and 0.06, on the springs alone:

# %% tags=["broken-on-purpose"]
for rate in (0.04, 0.06):
    a, b = (copy.deepcopy(each) for each in by_hand[0][0])
    optimiser, before = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=rate), apart(a, b).item()
    for _ in range(20):
        optimiser.zero_grad()
        (10 * apart(a, b)).backward()
        optimiser.step()
    print(f"2λη = {20 * rate:.1f}: after 20 steps the squared distance has grown:", apart(a, b).item() > before)

# %% [markdown]
# With more than two networks the limit is lower (exercise 07.2). AdamW does not diverge in this way; it only gets slow,
# as above.
#
# ### A spring between things that do not correspond
#
# The heads of two tasks have no common meaning, and mostly not even the same size. facekit refuses:

# %% tags=["raises-exception"]
SoftSharing(pair, {"heads": 0.1}).loss(net, batch)

# %% [markdown]
# ## Exercises
#
# ### 07.1 The penalty, layer by layer
#
# `a` and `b` are the layers of two networks, each a dict of weight tensors by name; `strengths` gives λ by name. A layer
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
# T networks, a spring between every two of them, plain gradient descent and nothing else: the largest learning rate at
# which their distances do not grow. For T = 2 it is the limit that you have just seen.


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
# `x` holds the activations of T networks, (T, N, D), and `alpha` is (T, T): what the task of the row takes from the task
# of the column. Return what the networks pass on.


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
# ## Quiz

# %%
quiz("07").show()

# %% [markdown]
# ## Recap
#
# - Soft sharing: a network a task, and λ times the squared distance between corresponding layers. It pulls with 2λ(a - b).
# - λ = 0 is independent networks, a large λ hard sharing; the networks must start from the same weights.
# - Choose λ on validation, for all layers or for each; compare seed by seed with single networks and with hard sharing.
# - It costs a network for each task, in memory and in time. Hard sharing costs one.
# - Cross-stitch learns how much is shared; the trace norm asks for common directions in place of equal weights.
# - Next: tasks whose inputs differ, too (lesson 08, multi-domain learning).

# %% [markdown]
# ## References
#
# - Duong, Cohn, Bird, Cook: [Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network Parser](https://aclanthology.org/P15-2139/), ACL 2015
# - Ruder: [An Overview of Multi-Task Learning in Deep Neural Networks](https://arxiv.org/abs/1706.05098), 2017
# - Yang, Hospedales: [Trace Norm Regularised Deep Multi-Task Learning](https://arxiv.org/abs/1606.04038), 2017
# - Misra, Shrivastava, Gupta, Hebert: [Cross-stitch Networks for Multi-task Learning](https://arxiv.org/abs/1604.03539), CVPR 2016
# - Caruana: [Multitask Learning](https://doi.org/10.1023/A:1007379606734), Machine Learning 28, 1997
# - Entezari, Sedghi, Saukh, Neyshabur: [The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks](https://arxiv.org/abs/2110.06296), ICLR 2022
