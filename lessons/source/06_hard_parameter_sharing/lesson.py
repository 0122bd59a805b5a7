# %% [markdown]
# # 06 · Hard parameter sharing
#
# One network, several tasks: the layers below are common, each task has a head of its own. You build it by hand, decide
# where it splits and how the losses are weighed, and find out whether the tasks help each other, against the two
# baselines that cost less: a network a task, and the linear probe.

# %% [markdown]
# ## What you will be able to do
#
# - build a trunk with several heads, and train it on faces of which each has only some of the labels
# - choose where the trunk splits, and count what sharing saves
# - bring losses of different size to one scale, and say what learnt weights can and cannot do
# - measure whether the gradients of two tasks are in conflict, and take the conflict out
# - say when sharing helps, when it does nothing and when it hurts, from a comparison at equal budget

# %% [markdown]
# ## What you need
#
# The linear probe and the learning curve from [lesson 03](03_feature_extraction.ipynb), and stages and plans from
# [lesson 04](04_fine_tuning.ipynb). [Lesson 02](02_the_map.ipynb) had several heads on a linear layer; here it gets
# a hidden one.

# %% [markdown]
# ## The idea
#
# ![Three networks with heads for gender and age: none of three layers shared, two of three shared, all three shared with only the heads apart](figure.svg)
#
# A network that tells age must find wrinkles, the set of the jaw, the hair. Some of that would help a network that tells
# gender. **Hard parameter sharing** (Caruana 1997) lets tasks use the same layers, the **trunk**; what differs
# is a small **head** for each. The loss is the sum of the tasks' losses, and the trunk gets the gradients of all of
# them.
#
# In Keras terms: one `Model(inputs, [gender, age])` on common layers, compiled with one loss for each output.

# %% [markdown]
# ### What may come of it
#
# Three hopes and a fear, each of which you will measure:
#
# - **Better features.** A task with few labels uses what the labels of another have taught the trunk.
# - **Less overfitting.** A trunk that serves three tasks has less freedom to learn the noise of one of them.
# - **Less cost.** Each face goes through the trunk once, whatever the number of tasks.
# - **Negative transfer.** The tasks want different things, and one of them gets less than it would have alone.

# %% [markdown]
# ## Build it
#
# The features are FaceNet's, frozen, on the 49 directions that hold all but a little of them, as in lesson 02.

# %%
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import exercise, quiz, start
from facekit.evaluation.paired import clearly_better, over_seeds, side_by_side
from facekit.experiments import PROBES, Runs, compare_sharing, few_labels, scores, sharing_methods, train_net
from facekit.show import plots
from facekit.training.batches import Batches
from facekit.transfer.selftaught import components

course = start("06")
features = course.features()
compact = components(features.split("train"), 49)
train, test = compact(features.split("train")), compact(features.split("test"))
tasks = race, gender, age = course.feature_tasks

# %% [markdown]
# ### Trunk and heads, by hand
#
# The trunk is one hidden layer with dropout. A missing label is -1 and must add nothing to the loss: its term is the
# mean over the labels that exist, and 0 where none does.


# %%
class ByHand(torch.nn.Module):
    def __init__(self, tasks, dim=49, hidden=128):
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(dim, hidden), torch.nn.ReLU(), torch.nn.Dropout(0.5))
        self.heads = torch.nn.ModuleDict({task.name: torch.nn.Linear(hidden, len(task.classes)) for task in tasks})

    def forward(self, x):
        common = self.trunk(7 * x)  # √49, as lesson 03 explains
        return {name: head(common) for name, head in self.heads.items()}


def loss_by_hand(outputs, targets):
    known = {name: (targets[name] != -1).sum().clamp_min(1) for name in outputs}
    sums = {name: F.cross_entropy(outputs[name], targets[name], ignore_index=-1, reduction="sum") for name in outputs}
    return sum(sums[name] / known[name] for name in outputs)


# %% [markdown]
# Labels are often **partial**: one data set was labelled with gender, another with age. Here is a batch of 30 faces of
# which each has one label only, race, gender or age in turn.


# %%
def one_label_each(rows):
    for place, task in enumerate(tasks):
        rows.labels.loc[rows.labels.index % len(tasks) != place, task.name] = None
    return rows


thirty = one_label_each(few_labels(train, 30, seed=0))
batch = next(Batches(thirty, tasks, 30).epoch())
own = ByHand(tasks).eval()  # without dropout, which draws other units in each network

# %% [markdown]
# ### The same from facekit
#
# A `Stack` is a network as a list of stages; `mlp` makes one of hidden layers. `SharedNet` uses its first stages for
# all tasks together, copies the others for each task, and puts a head on each. `Supervised` sums the losses, missing
# labels left out. With the same weights, both networks must have the same loss and the same gradients:

# %%
from facekit.models.multitask import SharedNet, mlp, sharing_costs, stack_of
from facekit.training.methods import Supervised

net = SharedNet(mlp(49, (128,), dropout=0.5), tasks).eval()
net.load_state_dict(dict(zip(net.state_dict(), own.state_dict().values(), strict=True)))
losses = {own: loss_by_hand(own(batch.inputs), batch.targets), net: Supervised(tasks).loss(net, batch)[0]}
slopes = [torch.cat([g.flatten() for g in torch.autograd.grad(losses[m], m.parameters())]) for m in losses]
print("the same loss and gradients:", torch.allclose(*losses.values()), torch.allclose(*slopes, atol=1e-6))

# %% [markdown]
# What does a face teach whose only label is its gender? Its loss depends on the gender head and on the trunk, and these
# two it moves. The other heads stay as they are, but from now on they stand on another trunk. This is how tasks help
# each other, and how they get into each other's way.
#
# ### Where to split
#
# `shared` is how many stages the tasks have in common. With 0 each task has a network of its own; training them side by
# side is the same as one by one. With all of them it is hard sharing in the usual sense. Between them lies a tree,
# common below and each its own above. `sharing_costs` counts the parameters by who uses them; here for three hidden
# layers of 16 units:

# %%
narrow = (16, 16, 16)
pd.DataFrame({f"shared={n}": sharing_costs(SharedNet(mlp(49, narrow), tasks, shared=n)) for n in range(4)})

# %% [markdown]
# ## Run it
#
# ### All labels on every face
#
# First the plain case: every face has all three labels. `single` is a network a task, `hard` is one trunk with three
# heads, both with a hidden layer of 128 units, the same steps, the same batches and, seed by seed, the same start. The
# linear probe is what either has to beat.

# %%
ways = {"linear probe": PROBES["linear"]} | {name: sharing_methods(steps=100)[name] for name in ("single", "hard")}
curve = compare_sharing(train, test, tasks, (50, 200, 1000), (0, 1, 2), ways)
plots.show(plots.learning_curve_panels(dict(list(curve.groupby("method")))), "Accuracy over labels, for three methods.")

# %%
means = curve.query("metric == 'accuracy'").pivot_table("value", ["task", "n"], "method")
print("hard and single never differ by more than 0.02:", (means["hard"] - means["single"]).abs().max() < 0.02)
ahead = (means["linear probe"] > means[["single", "hard"]].max(axis=1)).xs(50, level="n")
print("50 labels: the probe is ahead:", ahead.to_dict())
pairs = side_by_side(curve, "gender", 1000)
print("gender, 1,000: hard beats the probe:", clearly_better(pairs, "hard", "linear probe"))

# %% [markdown]
# Two lines lie on each other. When every face has all labels, sharing gives a task no face that it would not have seen
# anyway, and what these features have to give a small network finds alone. What differs is the other baseline: with
# few labels the linear probe is ahead of both or level, and for gender the hidden layer overtakes it once there are
# enough. That is a gain of the hidden layer, **not of sharing**; whoever compares hard sharing with the probe alone gives
# sharing the credit.
#
# ### Few labels of one task, many of the others
#
# Now the case that sharing is made for. The task has 200 labels, and 4,000 other faces carry labels of the other two.
# Each of the 200 occurs twenty times, so that half of every batch is the task's own. The baselines get the 200 alone.
# `train_net` makes a `SharedNet` from a seed and trains it with `train_shared`, the recipe of the comparison above.

# %%
from facekit.transfer import weighting
from facekit.transfer.sharing import train_shared


def score(net, task, data=test, metric="accuracy"):
    return float(scores(net, data, [task]).set_index("metric")["value"][metric])


def borrow(task, seed):
    rows = few_labels(train, 4200, seed)
    mine = rows.select(range(200))
    rows.labels.loc[200:, task.name] = None
    both = rows.select([*range(200)] * 20 + [*range(200, 4200)])
    nets = {"linear probe": PROBES["linear"](mine, [task], seed)}
    nets["alone"] = train_net(mine, [task], seed, dropout=0.5, steps=200)
    nets["with others"] = train_net(both, tasks, seed, dropout=0.5, steps=200)
    return {name: score(net, task) for name, net in nets.items()}


borrowed = {task.name: over_seeds(borrow, task, seeds=range(4)) for task in tasks}
plots.show(plots.bar_panels(borrowed), "Race, gender, age with 200 labels: linear probe, alone, with others' labels.")

# %%
print("gender is better than alone:", clearly_better(borrowed["gender"], "with others", "alone"))
print("than the probe:", {t: clearly_better(each, "with others", "linear probe") for t, each in borrowed.items()})

# %% [markdown]
# Seeds differ by more than the bars do; a gain can be seen at all only because every seed compares all three on the same
# faces. On drawn features gender gains about a point on being alone. Race gains less than four seeds can tell from
# nothing, and age nothing at all. For gender the gain counts: it is ahead of the probe, too. For race and age the linear
# probe, which has seen the 200 labels and no others, is not beaten by anything. In profile `full` the same cells say
# what is left of this on photos.

# %% [markdown]
# ### Where to split, and how wide
#
# A trunk of 128 units has room for everybody. What if it has not? Three layers of 16 units, 1,000 faces with all labels,
# and the split moved from 0 to all. Two networks are made besides: the narrow trunk with `PCGrad`, which comes below, and
# a trunk of 32 units shared by all, with about as many parameters as three networks of 16.


# %%
def trunk(seed, shared, hidden=narrow, method=Supervised):
    return train_net(few_labels(train, 1000, seed), tasks, seed, hidden=hidden, shared=shared, method=method)


nets = {n: [trunk(seed, n) for seed in range(3)] for n in range(4)}
nets["PCGrad"] = [trunk(seed, 3, method=weighting.PCGrad) for seed in range(3)]
nets["wide"] = [trunk(seed, 3, (32, 32, 32)) for seed in range(3)]
splits = Runs(nets, range(3)).by_seed(test)
fig, axis = plots.figure()
plots.lines_with_spread(axis, range(4), {task.name: splits[task.name][[0, 1, 2, 3]] for task in tasks}, log_x=False)
axis.set(xlabel="layers that are shared, of three with 16 units", ylabel="accuracy", xticks=range(4))
plots.show(fig, "Accuracy for race, gender and age over the number of shared layers: race and age fall.")

# %%
print("better alone:", {name: clearly_better(splits[name], 0, 3, at_least=0.02) for name in ("race", "age")})
print("better when wide:", {name: clearly_better(splits[name], "wide", 3, at_least=0.02) for name in ("race", "age")})

# %% [markdown]
# ## Look at the result
#
# ### Negative transfer
#
# Here it is: the more of the narrow trunk is shared, the lower the lines of race and age. That is **negative transfer**,
# and the wide trunk shows a good part of its cause: with twice the units, and no more parameters than three narrow
# networks have, most of the loss is gone. The tasks do not harm each other by what they are; there was no room for all
# three. When a task loses by sharing, widen the trunk or split it lower before you blame the tasks, and compare at
# equal parameters.

# %% [markdown]
# ### Do their gradients disagree?
#
# Each task's loss has a gradient on the trunk. Where two of them point apart, their **cosine** is below 0: a step for one
# raises the loss of the other. `PCGrad` (Yu et al. 2020) measures it at every step and then projects each gradient off
# those that it is in conflict with. Here is the narrow trunk, all shared; `fit` is the training loop, and its history
# holds what the method logs.

# %%
from facekit.training.loop import fit
from facekit.training.plans import plan

net = SharedNet(mlp(49, narrow), tasks)
recipe = plan("everything", list(net.stages), epochs=10, lr=3e-3)
cosines = fit(net, weighting.PCGrad(tasks), few_labels(train, 1000, 0), None, recipe).history.filter(like="cosine")
fig, axis = plots.figure(size=(9, 3.8))
plots.lines_with_spread(axis, range(1, 11), {name[13:]: values for name, values in cosines.items()}, log_x=False)
axis.set(xlabel="epoch", ylabel="cosine of two gradients")
plots.show(fig, "Cosine between the gradients of each pair of tasks over 10 epochs: below 0 at the end.")
print("in conflict at the end:", bool((cosines.iloc[5:].mean() < 0).all()))

# %% [markdown]
# At the start the cosines are small: in so many dimensions two directions are nearly always about perpendicular. The
# conflict comes with training, and that is no accident. Where the sum of the losses has its minimum the gradients add up
# to 0, so that they cannot all agree: **conflict is what a compromise looks like from near by.** Does it help to take it
# out? Here is PCGrad beside the plain sum, on the narrow trunk:

# %%
print("better than the sum:", {t.name: clearly_better(splits[t.name], "PCGrad", 3, at_least=0.02) for t in tasks})
print("race alone is still ahead:", clearly_better(splits["race"], 0, "PCGrad", at_least=0.02))

# %% [markdown]
# The conflict is gone from each step and the loss of accuracy is still there: no projection makes room in 16 units. A
# negative cosine is true for one batch and one step. Whether sharing hurts is said by the comparison with `shared=0`,
# and by nothing else.
#
# ### When losses have different units
#
# So far all losses were cross-entropies of about the same size. Now age is asked as a number: regression on the middle
# of the band, the loss **in years**. Ten years of error then stand beside a gender loss of 0.7. The weights decide
# whose the trunk will be:
#
# - *equal*: 1 for each.
# - *by scale*: one over the loss of the best constant answer, so that each loss starts at about 1 (`scale_weights`).
# - *uncertainty* (Kendall et al. 2018): weights that are learnt, Σ L / (2σ²) + log σ, with a σ for each task.
# - *DWA* (Liu et al. 2019): a task whose loss has fallen less lately gets more.
# - *GradNorm* (Chen et al. 2018): weights learnt such that the tasks' gradients on the trunk are about equally long.

# %%
years = replace(age, kind="regression")
pair, units = (gender, years), weighting.scale_weights((gender, years), train)
fixed = {weight: partial(Supervised, weights={"age": weight}) for weight in (0.01, 0.1, 0.3, 1)}
ways = fixed | {"by scale": partial(Supervised, weights=units), "uncertainty": weighting.UncertaintyWeighting}
ways |= {"DWA": partial(weighting.DynamicWeightAverage, period=8), "GradNorm": weighting.GradNorm}


def weigh(seed, method=Supervised, shared=1):
    net = train_net(few_labels(train, 1000, seed), pair, seed, hidden=(16,), shared=shared, method=method)
    return {"accuracy of gender": score(net, gender), "error of age": score(net, years, metric="mae")}


weighed = {name: over_seeds(partial(weigh, method=way), seeds=range(3)) for name, way in ways.items()}
weighed["two networks"] = over_seeds(partial(weigh, shared=0), seeds=range(3))

# %% [markdown]
# ### Try it: whose is the trunk?
#
# The slider is a fixed weight of age, from 0.01 to 1, *equal*; that of gender stays 1. The other points are the ways
# above and two networks of the same size. All are means of three seeds. Up and to the left is better in both.

# %%
from facekit.show.widgets import explore


def balance(weight_of_age):
    shown = {f"weight {name}" if name in fixed else name: table.mean() for name, table in weighed.items()}
    rows = pd.DataFrame(shown).T.drop(index=[f"weight {weight}" for weight in fixed if weight != weight_of_age])
    return plots.trade_offs(rows, "accuracy of gender", {"error of age": "error of age, in years"})


alt = "Gender's accuracy over the error of age: two networks, learnt weights, and the chosen weight."
explore(balance, weight_of_age=list(fixed), alt=alt, settings=[{}, {"weight_of_age": 1}])

# %%
gap = weighed["by scale"] - weighed[1]
print("by scale, gender is better than with equal weights:", gap["accuracy of gender"].mean() > 0.005)
print("and the error of age is greater by more than a year:", gap["error of age"].mean() > 1)
learnt = max(abs(weighed[way] - weighed[1])["error of age"].max() for way in list(ways)[-3:])
print("learnt weights end within half a year of equal:", learnt < 0.5)

# %% [markdown]
# On a trunk of 16 units there is a price for everything. With equal weights the loss in years takes the trunk, and gender
# is worse than alone. With weights by scale gender is as good as alone, and age pays. Neither is wrong: **the weights
# are a statement of what you want**, and "equal" is a statement, too, only one that depends on whether you count in
# years or in decades. Two networks, with twice the units, pay neither price.
#
# The three methods that learn their weights end close to where they began, at equal weights. For *uncertainty* and
# *GradNorm* the reason is the budget. The optimiser moves what they learn by at most about 0.003 a step; the log σ² of age
# alone would have to grow by more than 2 to bring a loss in years to the size of the other. *DWA* looks at how fast a
# loss falls, and never at how large it is. So bring the losses to one scale yourself, and let a method learn from there
# (all of them take `weights=`).

# %% [markdown]
# ### The whole network
#
# Up to here the trunk stood on frozen features. It can be the network itself: `stack_of(backbone)` is a backbone as a
# stack, and `shared` says up to which stage all tasks use the same. A few steps on few photos, two tasks:

# %%
import time

budget, two, backbone = course.budget, course.tasks[1:], stack_of(course.backbone())
faces = course.faces().resized(budget.size)
photos, seen = (few_labels(faces.split(part), budget.photos, 0) for part in ("train", "test"))
rows = {}
for shared in (len(backbone.stages), len(backbone.stages) // 2, 0):
    net, begin = SharedNet(backbone, two, shared), time.perf_counter()
    train_shared(net, Supervised(two), photos, steps=15, seed=0, batch_size=budget.batch_size)
    rows[f"{shared} stages shared"] = time.perf_counter() - begin, sharing_costs(net)["all"], score(net, two[0], seen)
table = pd.DataFrame(rows, index=["seconds", "parameters", "gender"]).T
fig = plots.trade_offs(table, "gender", {"parameters": "parameters", "seconds": "seconds of training"})
plots.show(fig, "Accuracy for gender over the parameters and the seconds of training of three networks.")

# %% [markdown]
# One seed, and so few photos that the height of the points means nothing. What counts here is how far to the right they
# are: two networks have twice the parameters and take up to twice the time, and with ten tasks it would be up to ten
# times both. What a split in between saves depends on where parameters and work lie: look at the middle point.
#
# Two details differ from the small networks above. A trunk with BatchNorm has statistics of all tasks' photos
# together; and a face that has no label for a task still goes through that task's own stages.

# %% [markdown]
# ### The same on real photos
#
# The plain case, every face with all labels, as it was recorded on FaceNet's embeddings of FairFace. `linear` is the
# linear probe.

# %%
from facekit.records import recorded

record = recorded("sharing_fairface")
rows = record.rows.query("features == 'embedding' and method in ['linear', 'single', 'hard']")
plots.show(plots.learning_curve_panels(dict(list(rows.groupby("method")))), "Accuracy over labels, recorded.")
beside = {task.name: side_by_side(rows, task.name, 1000) for task in tasks}
print("1,000: hard beats single:", {name: clearly_better(each, "hard", "single") for name, each in beside.items()})
print(record.caption())

# %% [markdown]
# With 1,000 labels sharing is worth one to two points for race and for age. At most other numbers of labels the lines of
# *single* and *hard* are within a point of each other, and for age at 200 labels it is *single* that is ahead. And with
# 1,000 labels sharing brings race only up to where the linear probe is. For gender the hidden layer pulls ahead of the
# probe from 200 labels on and ends four points higher; that is again the hidden layer, and sharing keeps it, for about a
# third of the parameters.

# %% [markdown]
# ## What goes wrong
#
# ### Missing is not the first class
#
# Tables like to be complete, and `fillna` is quickly written. Below, every face has one label of three, and the gaps are
# filled with the first class of each task.

# %% tags=["broken-on-purpose"]
holes = one_label_each(few_labels(train, 1500, seed=0))
filled = replace(holes, labels=holes.labels.fillna({task.name: task.classes[0] for task in tasks}))
masked, wrong = (train_net(rows, tasks, seed=0, dropout=0.5) for rows in (holes, filled))
print("costs more than 0.1:", {task.name: score(masked, task) - score(wrong, task) > 0.1 for task in tasks})

# %% [markdown]
# No error, and a training loss that falls nicely: two faces of three are labelled with the first class, and the heads
# have learnt to say so. A missing label has to stay missing until the loss leaves it out.
#
# ### Nothing is shared
#
# Conflicts, PCGrad and GradNorm are about the parameters that tasks have in common. A network a task has none:

# %% tags=["raises-exception"]
weighting.gradient_cosines(SharedNet(mlp(49, narrow), tasks, shared=0), tasks, batch)

# %% [markdown]
# ### More than one thing changed
#
# Hard sharing is often shown to win against single networks that had fewer steps, other batches, or a hidden layer
# of another size. `compare_sharing` gives all methods the same rows, steps and start. With partial labels that is not
# enough: a batch of 128 faces of which every third has a label for race teaches race with 43. In *few labels of one task*
# the 200 faces were repeated for that reason.

# %% [markdown]
# ## Exercises
#
# ### 06.1 A label that is missing
#
# Write the loss of one task: cross-entropy, the mean over the faces whose target is not -1; exactly 0, with a gradient
# of 0, where none has a label.


# %% tags=["solution"]
def masked_loss(outputs, targets):
    # TODO: outputs (N, K), targets (N,) with -1 for missing
    # <solution>
    total = F.cross_entropy(outputs, targets, ignore_index=-1, reduction="sum")
    return total / (targets != -1).sum().clamp_min(1)
    # </solution>


# %%
exercise("06.1").check(masked_loss)
# exercise("06.1").hint()

# %% [markdown]
# ### 06.2 What does sharing save?
#
# `layers` are the parameters of each layer of a stack, from the input on, `heads` those of each task's head. How many
# has the network whose first `shared` layers are common to all tasks?


# %% tags=["solution"]
def parameters(layers, heads, shared):
    # TODO: common layers once, the others once for each task, and the heads
    # <solution>
    return sum(layers[:shared]) + len(heads) * sum(layers[shared:]) + sum(heads)
    # </solution>


# %%
exercise("06.2").check(parameters)
# exercise("06.2").hint()

# %% [markdown]
# ### 06.3 Out of each other's way
#
# Write PCGrad's projection for two gradients: `a` as it is if it does not conflict with `b`, else what is left of `a`
# when its component along `b` is taken away.


# %% tags=["solution"]
def project(a, b):
    # TODO: look at the sign of the dot product first
    # <solution>
    dot = a @ b
    return a - dot / (b @ b) * b if dot < 0 else a
    # </solution>


# %%
exercise("06.3").check(project)
# exercise("06.3").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("06").show()

# %% [markdown]
# ## Recap
#
# - Hard sharing is one trunk and a head a task; the trunk gets the sum of the gradients. A missing label leaves out its
#   term and nothing else.
# - When all faces have all labels sharing changes little, a point or two where it helps. It can help a task with few
#   labels beside others with many, and even then the linear probe may be ahead.
# - Negative transfer shows against `shared=0` at equal budget. Look for room first: width, and where the trunk splits.
# - Weights between losses say what you want. Bring the losses to one scale; learnt weights need steps to get anywhere.
# - Negative cosines are a symptom, and PCGrad treats the symptom.
# - What is certain is the saving: one trunk, one pass. [Lesson 02](02_the_map.ipynb) says what else could help.

# %% [markdown]
# ## References
#
# - Caruana: [Multitask Learning](https://doi.org/10.1023/A:1007379606734), Machine Learning 1997
# - Kendall, Gal, Cipolla: [Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics](https://arxiv.org/abs/1705.07115), CVPR 2018
# - Chen, Badrinarayanan, Lee, Rabinovich: [GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks](https://arxiv.org/abs/1711.02257), ICML 2018
# - Liu, Johns, Davison: [End-to-End Multi-Task Learning with Attention](https://arxiv.org/abs/1803.10704), CVPR 2019 (DWA)
# - Yu et al.: [Gradient Surgery for Multi-Task Learning](https://arxiv.org/abs/2001.06782), NeurIPS 2020 (PCGrad)
# - Standley et al.: [Which Tasks Should Be Learned Together in Multi-task Learning?](https://arxiv.org/abs/1905.07553), ICML 2020
