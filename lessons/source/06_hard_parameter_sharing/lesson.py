# %% [markdown]
# # 06 · Hard parameter sharing
#
# One network, several tasks. You ask four questions about one portrait, decide where the network splits and how the
# losses are weighed, and measure what sharing gives and what it costs.

# %% [markdown]
# ## What you will be able to do
#
# - build a trunk with several heads, and train it on faces that have only some of the labels
# - compare it with one network per task, in accuracy, in overfitting and in parameters
# - choose where the trunk splits, and see when there is no room for all
# - bring tasks with different units together
# - say when sharing helps, when it does nothing and when it hurts

# %% [markdown]
# ## What you need
#
# The [linear probe](glossary.md#probe) of [lesson 03](03_feature_extraction.ipynb), stages and plans from
# [lesson 04](04_fine_tuning.ipynb), and the codings of age from [lesson 05](05_define_the_problem.ipynb).

# %% [markdown]
# ## The idea
#
# ![Three networks with heads for gender and age: none of three layers shared, two of three shared, all three shared with only the heads apart](figure.svg)
#
# A network that tells age must find wrinkles, the jaw, the hair. Some of that would help a network that tells gender.
# In [hard parameter sharing](glossary.md#hard-sharing) (Caruana 1997) all tasks use the same layers, the
# [trunk](glossary.md#trunk). Each task has a small [head](glossary.md#head) of its own. The loss is the sum of the
# tasks' losses, so every task moves the trunk.
#
# In Keras: one `Model(inputs, [gender, age])` with one loss for each output.
#
# Three hopes and one fear. You will measure all four:
#
# - **Better features.** A task with few labels uses what the labels of another task taught the trunk.
# - **Less overfitting.** A trunk for three tasks has less freedom to learn the noise of one.
# - **Less cost.** Each face goes through the trunk once.
# - **[Negative transfer](glossary.md#negative-transfer).** The tasks want different things, and one loses.

# %% [markdown]
# ## Build it
#
# ### Four questions about one portrait
#
# Who is it? Which expression? Which gender? Where does the head point? The portraits are **drawn**, in both profiles:
# only of drawn faces are all four answers known exactly. There are twenty people, A to T, with 48 portraits each, and
# 640 strangers. Nobody says who a stranger is: that label is **missing**.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from facekit.course import exercise, lesson, quiz, start
from facekit.data.sets import FeatureSet
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import PROBES, compare_sharing, few_labels, scores, sharing_methods, train_net
from facekit.models.backbones.mini import FaceNetMini
from facekit.show import plots
from facekit.transfer.selftaught import components

course, figures = start("06"), lesson("06").figures
faces, four = figures.portraits(), figures.FOUR
some = faces.select([0, 1, 48, 49, 96, 97, 144, 145, 192, 193, 960, 961])
plots.show(figures.told(some), "Twelve drawn portraits with who, expression, gender and pose; two are strangers.")

# %% [markdown]
# The trunk begins with the first stages of facenet-mini, frozen ([lesson 04](04_fine_tuning.ipynb)). Why not with its
# [embedding](glossary.md#embedding)? An embedding is made to be the same for every pose; after `stage_2` the pose is
# still there. The maps (128 × 8 × 8) are averaged to 4 × 4 places, 2,048 numbers a face.

# %%
mini = FaceNetMini.from_pretrained()
with torch.no_grad():
    parts = torch.from_numpy(faces.images).split(100)
    maps = torch.cat([dict(mini.walk(mini.prepare(part)))["stage_2"] for part in parts])
portraits = FeatureSet(F.normalize(F.adaptive_avg_pool2d(maps, 4).flatten(1)).numpy(), faces.labels)

# %% [markdown]
# ### Trunk and heads, by hand
#
# What is trained: one hidden layer, the shared part, and four heads. A missing label is -1 and must add nothing to the
# loss. So each term is the mean over the labels that exist, and 0 where none does.


# %%
class ByHand(nn.Module):
    def __init__(self, tasks, dim, hidden=128):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(0.5))
        self.heads = nn.ModuleDict({task.name: nn.Linear(hidden, len(task.classes)) for task in tasks})

    def forward(self, x):
        common = self.trunk(x.shape[1] ** 0.5 * x)  # √D, as lesson 03 explains
        return {name: head(common) for name, head in self.heads.items()}


def loss_by_hand(outputs, targets):
    known = {name: (targets[name] != -1).sum().clamp_min(1) for name in outputs}
    sums = {name: F.cross_entropy(outputs[name], targets[name], ignore_index=-1, reduction="sum") for name in outputs}
    return sum(sums[name] / known[name] for name in outputs)


# %% [markdown]
# The training loop is that of [lesson 00](00_start_here.ipynb). With one task it makes a network of its own for that
# task, with the same layer, steps and batches.


# %%
def learn(tasks, rows, seed, epochs=24):
    torch.manual_seed(seed)
    x, targets = torch.from_numpy(rows.features), rows.targets(tasks)
    net = ByHand(tasks, x.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(128):
            loss = loss_by_hand(net(x[part]), {name: each[part] for name, each in targets.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


# %% [markdown]
# ### The same from facekit
#
# `mlp` makes hidden layers, `SharedNet` uses the first `shared` of them for all tasks and copies the others for each
# task. `Supervised` sums the losses without the missing labels. With the same weights both have the same loss and the
# same [gradient](glossary.md#gradient), also on a batch in which most people are strangers:

# %%
from facekit.models.multitask import SharedNet, mlp
from facekit.training.batches import Batches
from facekit.training.methods import Supervised

batch = next(Batches(portraits.select(range(940, 1000)), four, 60).epoch())
own = ByHand(four, 2048).eval()  # without dropout, which draws other units in each network
net = SharedNet(mlp(2048, (128,), dropout=0.5), four).eval()
net.load_state_dict(dict(zip(net.state_dict(), own.state_dict().values(), strict=True)))
losses = {own: loss_by_hand(own(batch.inputs), batch.targets), net: Supervised(four).loss(net, batch)[0]}
slopes = [torch.cat([g.flatten() for g in torch.autograd.grad(losses[m], m.parameters())]) for m in losses]
print("by hand and facekit agree:", torch.allclose(*losses.values()) and torch.allclose(*slopes, atol=1e-6))

# %% [markdown]
# What does a stranger teach? Three heads and the trunk are moved, the head for "who" is not. But from now on that head
# stands on another trunk. This is how tasks help each other, and how they get in each other's way.

# %% [markdown]
# ## Run it
#
# ### One network, four answers
#
# "Who" is tested on new portraits of the twenty. The other three are tested on strangers. Otherwise a network could
# recognise a person and remember the gender.


# %%
def right(net, task, rows):
    answers, truth = net(torch.from_numpy(rows.features))[task.name].argmax(1), rows.targets([task])[task.name]
    return (answers == truth)[truth != -1].double().mean().item()


def compare(tasks, rows, tests, seed):
    rows, found = rows(seed), {}
    nets = {"one network": learn(tasks, rows, seed)} | {task.name: learn([task], rows, seed) for task in tasks}
    for task in tasks:
        for name, net in {"one network": nets["one network"], "its own": nets[task.name]}.items():
            accuracy = {"train": right(net, task, rows), "test": right(net, task, tests[task.name])}
            found |= {(task.name, name, part): value for part, value in accuracy.items()}
    return found


train, test = portraits.split("train"), portraits.split("test")
known, strangers = (test.select(np.flatnonzero(test.labels["who"].isna() == missing)) for missing in (False, True))
tests = {task.name: strangers for task in four} | {"who": known}
runs = over_seeds(compare, four, lambda seed: train, tests, seeds=range(3))

# %% tolerance=0.03
with_spread(runs.xs("test", axis=1, level=2), 2).assign(chance=np.repeat([0.05, 0.25, 0.5, 0.33], 2))

# %% [markdown]
# (±: [standard error](glossary.md#standard-error).) **One network answers all four**, far above chance. Its price: a few
# points in "who", several in expression. Gender and pose lose nothing beyond the spread. Four tasks have to do with the
# 128 units that each network of its own has for one.

# %%
one, part = learn(four, train, 0), test.labels["who"].notna()
rows = [*np.flatnonzero(part)[4::56][:6], *np.flatnonzero(~part)[:6]]
said = figures.told(faces.split("test").select(rows), one(torch.from_numpy(test.features[rows])))
plots.show(said, "Twelve faces of the test with the answers of one network; the label stands behind a wrong answer.")

# %% tolerance=0.05
alone = [ByHand([task], 2048) for task in four]
numbers = [sum(p.numel() for net in nets for p in net.parameters()) for nets in ([one], alone)]
print(f"trained parameters: one network {numbers[0]:,}, four networks {numbers[1]:,}")
print(f"gender right: of the twenty {right(one, four[2], known):.2f}, of strangers {right(one, four[2], strangers):.2f}")

# %% [markdown]
# Look at the last line. On new portraits of **the same people** gender looks nearly solved. On strangers it is not.
# Who is in training and in test must be told apart before a score is believed.
#
# ### Does sharing prevent overfitting?
#
# That is often said. [Overfitting](glossary.md#overfitting) shows as a gap: accuracy on the training rows minus accuracy
# on the test. Here it is for the portraits, and for a second set: race, gender and age from 1,000 rows **drawn** from a
# model of FaceNet's features (in profile `full`: the features of photos), brought to 49 directions as in
# [lesson 02](02_the_map.ipynb).

# %%
features = course.features()
compact = components(features.split("train"), 49)
pool, crowd = compact(features.split("train")), compact(features.split("test"))
tasks = race, gender, age = course.feature_tasks
crowds = {task.name: crowd for task in tasks}
others = over_seeds(compare, tasks, lambda seed: few_labels(pool, 1000, seed), crowds, seeds=range(3))


# %% tolerance=0.05
def gap(runs):
    seen, new = (runs.xs(part, axis=1, level=2) for part in ("train", "test"))
    found = with_spread(seen - new, 2).rename(columns={"mean": "gap"}).drop(columns="seeds")
    return found.assign(train=seen.mean().round(2), test=new.mean().round(2))


pd.concat({"portraits": gap(runs), "1,000 drawn rows": gap(others)})

# %% [markdown]
# With one network the gap is smaller: by five to eight points on the drawn rows, and for three of the four questions
# about portraits. But look at what became smaller: it is the accuracy **in training**. The accuracy on the test is not
# higher. So sharing does hold a network back from learning its rows by heart. Better answers are another matter, and
# here they did not come. For "who" the gap even grew, since there the test accuracy fell.

# %% [markdown]
# ### All labels on every face
#
# From here on we use the second set. `linear` is the linear probe, `single` is one network per task, `hard` is one trunk
# with three heads. Steps, batches and, seed by seed, the start are the same.

# %%
ways = {"linear": PROBES["linear"]} | {name: sharing_methods(steps=100)[name] for name in ("single", "hard")}
curve = compare_sharing(pool, crowd, tasks, (50, 200, 1000), range(3), ways)
plots.show(plots.learning_curve_panels(dict(list(curve.groupby("method")))), "Accuracy over labels, for three methods.")


# %% tolerance=0.02
def ahead(rows):
    by_seed = rows.query("metric == 'accuracy'").pivot_table("value", ["task", "n", "seed"], "method")
    gains = {"hard - single": by_seed["hard"] - by_seed["single"], "single - linear": by_seed["single"] - by_seed["linear"]}
    return pd.DataFrame(gains).groupby(["task", "n"]).agg(["mean", "sem"]).round(3).rename(columns={"sem": "±"})


ahead(curve)

# %% [markdown]
# `hard` and `single` differ by about one point at most, in both directions. When every face has all labels, sharing
# gives a task no face that it would not have seen anyway. The hidden layer is behind the probe or level with it up to
# 200 labels, and two points ahead for gender at 1,000. That gain is a gain of the hidden layer, **not of sharing**. Who
# compares hard sharing with the probe alone gives sharing the credit.
#
# The same on real photos, recorded:

# %%
from facekit.records import recorded

record = recorded("sharing_fairface")
rows = record.rows.query("features == 'embedding' and method in ['linear', 'single', 'hard']")
plots.show(plots.learning_curve_panels(dict(list(rows.groupby("method")))), "Accuracy over labels, recorded.")
print(record.caption())
ahead(rows)

# %% [markdown]
# At 1,000 labels sharing is worth one to two points for race and for age. Elsewhere it is a point or less, or lost in
# the spread; for age at 200 labels `single` is even ahead. For gender the hidden layer is about one point ahead of the
# probe at 200 labels, two to three at 1,000 and four from 5,000 on. For race it costs one to three points up to 1,000
# labels and is level from 5,000 on. For age it makes no clear difference up to 5,000 and brings one to two points at
# 20,000. Sharing keeps what the hidden layer gains, with a third of the parameters.
#
# ### Few labels of one task, many of the others
#
# This is the case that sharing is made for. A task has 200 labels; 4,000 other faces carry labels of the other two
# tasks. Each of the 200 is repeated twenty times, so half of every batch is the task's own. The
# [baselines](glossary.md#baseline) get the 200 alone.


# %%
def score(net, task, metric="accuracy"):
    return float(scores(net, crowd, [task]).set_index("metric")["value"][metric])


def borrow(task, seed):
    rows = few_labels(pool, 4200, seed)
    mine = rows.select(range(200))
    rows.labels.loc[200:, task.name] = None
    both = rows.select([*range(200)] * 20 + [*range(200, 4200)])
    nets = {"linear probe": PROBES["linear"](mine, [task], seed)}
    nets["alone"] = train_net(mine, [task], seed, dropout=0.5, steps=200)
    nets["with others"] = train_net(both, tasks, seed, dropout=0.5, steps=200)
    return {name: score(net, task) for name, net in nets.items()}


borrowed = {task.name: over_seeds(borrow, task, seeds=range(4)) for task in tasks}
plots.show(plots.bar_panels(borrowed), "Race, gender, age with 200 labels: linear probe, alone, with others' labels.")

# %% tolerance=0.02
gains = {(name, than): each["with others"] - each[than] for name, each in borrowed.items() for than in list(each)[:2]}
with_spread(pd.DataFrame(gains)).rename_axis(["with others", "minus"])

# %% [markdown]
# Seeds differ by more than the bars do. The gain can be seen only because each seed compares all three on the same
# faces. Gender gains about a point, over being alone and over the probe. Race gains less than four seeds can tell from
# nothing. Age loses a point. For race and age the linear probe, which saw 200 labels and no others, stays ahead. In
# profile `full` the same cells show what is left of this on photos.

# %% [markdown]
# ### Where to split, and how wide
#
# A trunk of 128 units has room for everybody. What if it has not? Here are three layers of 16 units and 1,000 faces
# with all labels. The split moves from 0 shared layers (one network per task) to all three. The last two ways are
# explained below.

# %%
from facekit.transfer import weighting

splits = {f"{n} shared": {"shared": n} for n in range(4)}
splits |= {"3 shared, PCGrad": {"method": weighting.PCGrad}, "3 shared, 32 units": {"hidden": (32, 32, 32)}}


def narrow(seed):
    rows, found = few_labels(pool, 1000, seed), {}
    for name, way in splits.items():
        net = train_net(rows, tasks, seed, **{"hidden": (16, 16, 16), **way})
        found |= {(task.name, name): score(net, task) for task in tasks}
    return found


by_split = over_seeds(narrow, seeds=range(3))
plots.show(figures.by_layers(by_split, list(splits)[:4]), "Accuracy over the shared layers: race and age fall.")

# %% tolerance=0.02
pd.concat({name: with_spread(by_split[name]).drop(columns="seeds") for name in ("race", "gender", "age")}, axis=1)

# %% [markdown]
# ## Look at the result
#
# ### Negative transfer
#
# The more of the narrow trunk is shared, the lower race and age. That is **negative transfer**. The last row shows a
# good part of its cause: three shared layers of 32 units have about as many parameters as three networks of 16, and
# most of the loss is gone. The tasks were not enemies; there was no room for all three. When a task loses by sharing,
# first widen the trunk or split it lower, and compare at equal parameters.

# %% [markdown]
# ### Do their gradients disagree?
#
# Each task's loss has a gradient on the trunk. Where two of them point apart, their **cosine** is below 0: a step for
# one raises the loss of the other. `PCGrad` (Yu et al. 2020) measures this at every step and takes out of each gradient
# the part that goes against another one. Its training history holds the cosines.

# %%
from facekit.training.loop import fit
from facekit.training.plans import plan


def cosines(seed):
    torch.manual_seed(seed)
    net = SharedNet(mlp(49, (16, 16, 16)), tasks)
    recipe = plan("everything", list(net.stages), epochs=10, lr=3e-3)
    return fit(net, weighting.PCGrad(tasks), few_labels(pool, 1000, seed), None, recipe).history.filter(like="cosine")


plots.show(figures.cosines([cosines(seed) for seed in range(3)]), "Cosines of three pairs of tasks fall below 0.")

# %% [markdown]
# At the start the cosines are near 0: in so many dimensions most directions are nearly perpendicular. The conflict comes
# with training. Where the sum of the losses is smallest, the gradients add up to 0, so they cannot all agree:
# **conflict is what a compromise looks like from near by.** Taking it out does not help here: in the table above PCGrad
# stands where the plain sum (3 shared) stands. Whether sharing hurts is said by the comparison with one network per
# task, not by a cosine.
#
# ### When tasks have different units
#
# So far all losses were cross-entropies of about the same size. Now age is asked as a number, **in years**. Ten years
# of error then stand beside a gender loss of 0.7, on a trunk of 16 units. What can be done?
#
# - *equal*: weight 1 for each loss.
# - *by scale*: each loss divided by the loss of the best constant answer, so that both start at about 1.
# - *uncertainty* (Kendall et al. 2018) and *GradNorm* (Chen et al. 2018): the weights are learnt.
# - *decades*: the **target** is divided by 10, as in [lesson 05](05_define_the_problem.ipynb); weight 1 for each loss.

# %%
years, decades = (replace(age, kind="regression", scale=scale) for scale in (1, 10))
constant_losses = weighting.scale_weights((gender, years), pool)
ways = {
    "years, equal": (years, {}),
    "years, by scale": (years, {"method": partial(Supervised, weights=constant_losses)}),
    "years, uncertainty": (years, {"method": weighting.UncertaintyWeighting}),
    "years, GradNorm": (years, {"method": weighting.GradNorm}),
    "years, two networks": (years, {"shared": 0}),
    "decades, equal": (decades, {}),
    "decades, two networks": (decades, {"shared": 0}),
}


def weigh(seed):
    rows, found = few_labels(pool, 1000, seed), {}
    for name, (asked, way) in ways.items():
        net = train_net(rows, (gender, asked), seed, hidden=(16,), **way)
        found |= {(name, "gender right"): score(net, gender), (name, "years off"): score(net, asked, "mae")}
    return found


weighed = over_seeds(weigh, seeds=range(3))
plots.show(figures.two_errors(weighed, "gender right", "years off"), "Gender over years off: decades are best in both.")

# %% tolerance=0.3
middle = pool.targets([years])["age"].median()
print(f"always {middle} years: {(crowd.targets([years])['age'] - middle).abs().mean():.1f} years off")
with_spread(weighed, 2).drop(columns="seeds").unstack().reindex(list(ways))

# %% [markdown]
# In years, with equal weights, gender is two points worse than alone. *By scale* it is as good as alone, but age is
# hardly better than a constant answer. Learnt weights end near the equal ones: 150 steps are too few for them. Each of
# these weights takes from one task what it gives to the other.
#
# **Decades take from nobody.** Equal weights, and age is two years better than before, gender level with its own
# network. Why? The head has to reach numbers up to 75, and the optimiser moves a weight by at most about 0.003 a step.
# A small weight in the loss does not make these numbers smaller. A target around 3 is within reach, and both losses
# are of one size by themselves.
#
# So first write the **target** on a scale around 1. After that weights between losses are a statement of what you want.

# %% [markdown]
# ## What goes wrong
#
# ### Missing is not the first class
#
# Tables like to be complete, and `fillna` is quickly written. Here each face has one label of three, and the gaps are
# filled with the first class of each task.

# %% tags=["broken-on-purpose"] tolerance=0.05
holes = few_labels(pool, 1500, seed=0)
for place, task in enumerate(tasks):
    holes.labels.loc[holes.labels.index % 3 != place, task.name] = None
filled = replace(holes, labels=holes.labels.fillna({task.name: task.classes[0] for task in tasks}))
nets = {name: train_net(rows, tasks, seed=0, dropout=0.5) for name, rows in (("missing", holes), ("filled", filled))}
pd.DataFrame({name: {task.name: score(net, task) for task in tasks} for name, net in nets.items()}).round(2)

# %% [markdown]
# No error, and a training loss that falls nicely. But two of three faces are labelled with the first class, and the
# heads have learnt to say so. A missing label stays missing until the loss leaves it out.
#
# ### More than one thing changed
#
# Hard sharing is often shown to win against single networks with fewer steps, other batches or another width. Here all
# have the same. With partial labels even that is not enough: in a batch of 128 faces of which every third has a label
# for race, race learns from 43. For this reason the 200 faces above were repeated.

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
# `layers` are the numbers of parameters of each layer, from the input on. `heads` are those of each task's head. How
# many has the network whose first `shared` layers are common to all tasks?


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
# ### 06.4 Your own experiment
#
# Choose a question about sharing, and answer it with a table of `over_seeds`: three seeds or more, a column `its own`
# (one network for the task) and a way of your own beside it. Ideas: fewer portraits of each person; one task left out;
# "who" alone with "gender"; the embedding in place of `stage_2`; a wider trunk.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone · gives the spread beside
# the mean · chooses nothing on the test faces · says what you saw even if it is nothing · names what you would try
# next.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "its own"
# <solution>
# Expected: with few portraits the labels of the other tasks help to tell who it is. Only the number of rows changes.
def few_portraits(seed):
    rows = few_labels(train, 200, seed)
    nets = {"its own": learn(four[:1], rows, seed, 60), "one network": learn(four, rows, seed, 60)}
    return {name: right(net, four[0], known) for name, net in nets.items()}


experiment = over_seeds(few_portraits, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %%
exercise("06.4").check(experiment)
# exercise("06.4").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("06").show()

# %% [markdown]
# ## Recap
#
# - Hard sharing is one trunk and a head per task; the trunk gets the sum of the gradients. A missing label leaves out
#   its own term and nothing else.
# - One network answered four questions about a portrait with a quarter of the parameters. It paid with some accuracy.
# - Sharing made the gap between training and test smaller. The test accuracy did not rise.
# - With all labels on every face sharing changes a point or two. It can help a task with few labels beside others with
#   many, and even then the linear probe may be ahead.
# - Negative transfer shows against one network per task at equal budget. Look for room first.
# - Write targets on a scale around 1 before you weigh losses.
# - Negative cosines are a symptom, and PCGrad treats the symptom.
# - What is certain is the saving: one trunk, one pass.

# %% [markdown]
# ## References
#
# - Caruana: [Multitask Learning](https://doi.org/10.1023/A:1007379606734), Machine Learning 1997
# - Kendall, Gal, Cipolla: [Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics](https://arxiv.org/abs/1705.07115), CVPR 2018
# - Chen, Badrinarayanan, Lee, Rabinovich: [GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks](https://arxiv.org/abs/1711.02257), ICML 2018
# - Yu et al.: [Gradient Surgery for Multi-Task Learning](https://arxiv.org/abs/2001.06782), NeurIPS 2020 (PCGrad)
# - Standley et al.: [Which Tasks Should Be Learned Together in Multi-task Learning?](https://arxiv.org/abs/1905.07553), ICML 2020
