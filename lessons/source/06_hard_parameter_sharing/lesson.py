# %% [markdown]
# # 06 · Hard parameter sharing
#
# One network, several tasks. You ask four questions about one portrait, and measure what sharing gives and costs.

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
# The [linear probe](glossary.md#probe) of [lesson 03](03_feature_extraction.ipynb), stages of a network from
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
# only then are all four answers known exactly. Twenty people, A to T, have 48 portraits each. There are 640 strangers,
# too; who they are is a **missing** label.

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from facekit.course import exercise, lesson, quiz, start
from facekit.data.sets import FeatureSet
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import PROBES, few_labels, scores, train_net
from facekit.models.backbones.mini import FaceNetMini
from facekit.show import plots
from facekit.transfer.selftaught import components

course, figures = start("06"), lesson("06").figures
faces, four = figures.portraits(), figures.FOUR
some = figures.told(faces.select([*range(0, 240, 24), 960, 961]))
plots.show(some, "Twelve drawn portraits with who, gender, expression and pose; the last two are strangers.")

# %% [markdown]
# The trunk begins with the first stages of facenet-mini, frozen ([lesson 04](04_fine_tuning.ipynb)). Its
# [embedding](glossary.md#embedding) is made to be the same for every pose; after `stage_2` the pose is still there. The
# maps (128 × 8 × 8) are averaged to 4 × 4 places: 2,048 numbers a face.

# %%
mini = FaceNetMini.from_pretrained()
with torch.no_grad():
    parts = torch.from_numpy(faces.images).split(100)
    maps = torch.cat([dict(mini.walk(mini.prepare(part)))["stage_2"] for part in parts])
portraits = FeatureSet(F.normalize(F.adaptive_avg_pool2d(maps, 4).flatten(1)).numpy(), faces.labels)

# %% [markdown]
# ### Trunk and heads, by hand
#
# What is trained: one hidden layer, which all share, and four heads. A missing label is -1. Each term of the loss is
# the mean over the labels that exist, and 0 where none does.


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
# With one task this loop makes a network of its own for that task, with the same layer, steps and batches.


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
# A stranger moves three heads and the trunk. The head for "who" stays, but from now on it stands on another trunk. This
# is how tasks help each other, and how they get in each other's way.

# %% [markdown]
# ## Run it
#
# ### One network, four answers
#
# "Who" is tested on new portraits of the twenty, the rest on strangers: a network could else recognise a person and
# remember the gender.


# %%
def right(net, task, rows):
    answers, truth = net(torch.from_numpy(rows.features))[task.name].argmax(1), rows.targets([task])[task.name]
    return (answers == truth)[truth != -1].double().mean().item()


def compare(tasks, draw, tests, seed):
    rows, found = draw(seed), {}
    one = learn(tasks, rows, seed)
    for task in tasks:
        for name, net in {"one network": one, "its own": learn([task], rows, seed)}.items():
            parts = {"train": rows, "test": tests[task.name]}
            found |= {(task.name, name, part): right(net, task, each) for part, each in parts.items()}
    return found


train, test = portraits.split("train"), portraits.split("test")
known, strangers = (test.select(np.flatnonzero(test.labels["who"].isna() == missing)) for missing in (False, True))
tests = {task.name: strangers for task in four} | {"who": known}
runs = over_seeds(compare, four, lambda seed: train, tests, seeds=range(3))

# %% tolerance=0.06
with_spread(runs.xs("test", axis=1, level=2), 2).assign(chance=np.repeat([0.05, 0.25, 0.5, 0.33], 2))

# %% [markdown]
# (±: [standard error](glossary.md#standard-error).) **One network answers all four**, far above chance. Its price: a
# few points in "who", several in expression. Gender and pose lose nothing beyond the spread. Four tasks have to do with
# the 128 units that each network of its own has for one.

# %%
one, rows = learn(four, train, 0), np.arange(4, len(test), 56)
said = figures.told(faces.split("test").select(rows), one(torch.from_numpy(test.features[rows])))
plots.show(said, "Twelve faces of the test with the answers of one network; the label stands behind a wrong answer.")

# %% tolerance=0.05
print(f"trunk: {sum(p.numel() for p in one.trunk.parameters()):,} parameters; four networks have four of these")
print(f"gender: {right(one, four[2], known):.2f} of the twenty, {right(one, four[2], strangers):.2f} of strangers")

# %% [markdown]
# The last line: on new portraits of **the same people** gender looks nearly solved. On strangers it is not.
#
# ### Does sharing prevent overfitting?
#
# That is often said. [Overfitting](glossary.md#overfitting) shows as a gap: accuracy on the training rows minus
# accuracy on the test. Here it is for the portraits, and for a second set: race, gender and age from 1,000 rows
# **drawn** from a model of FaceNet's features (in profile `full`: the features of photos), brought to 49 directions as
# in [lesson 02](02_the_map.ipynb).

# %%
features = course.features()
compact = components(features.split("train"), 49)
pool, crowd = compact(features.split("train")), compact(features.split("test"))
tasks = race, gender, age = course.feature_tasks
tests = {task.name: crowd for task in tasks}
others = over_seeds(compare, tasks, lambda seed: few_labels(pool, 1000, seed), tests, seeds=range(3))

# %% tolerance=0.08
pd.concat({"portraits": figures.gap(runs), "1,000 rows of features": figures.gap(others)})

# %% [markdown]
# With one network the gap is smaller: by five to eight points on the drawn rows, and for three of the four questions
# about portraits. But what became smaller is the accuracy **in training**; on the test it is at best a point higher. So
# sharing holds a network back from learning its rows by heart. Better answers did not come of it here. For "who" the
# gap even grew, since its test accuracy fell.

# %% [markdown]
# ### All labels on every face, on photos
#
# Recorded on real photos: `linear` is the linear probe, `single` is one network per task, `hard` is one trunk with
# three heads. Steps, batches and, seed by seed, the start are the same.

# %%
from facekit.records import recorded

record = recorded("sharing_fairface")
rows = record.rows.query("features == 'embedding' and method in ['linear', 'single', 'hard']")
plots.show(plots.learning_curve_panels(dict(list(rows.groupby("method")))), "Accuracy over labels, recorded.")
print(record.caption())
figures.ahead(rows)

# %% [markdown]
# When every face has all labels, sharing gives a task no face that it would not have seen anyway. At 1,000 labels it is
# worth one to two points for race and for age. Elsewhere it is about a point or lost in the spread; for age at 200
# labels `single` is even ahead.
#
# The hidden layer itself matters more. For gender it is about one point ahead of the probe at 200 labels, two to three
# at 1,000 and four from 5,000 on. For race it costs one to three points up to 1,000 labels and is level from 5,000 on.
# For age it makes no clear difference up to 5,000 and brings one to two points at 20,000. That is a gain of the hidden
# layer, **not of sharing**. Who compares `hard` with the probe alone gives sharing the credit.
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
fig = plots.lying_bar_panels(borrowed, "{:.3f}", columns=2)
plots.show(fig, "Race, gender, age with 200 labels: linear probe, alone, with others' labels.")

# %% tolerance=0.02
gains = {(name, than): each["with others"] - each[than] for name, each in borrowed.items() for than in list(each)[:2]}
with_spread(pd.DataFrame(gains)).rename_axis(["with others", "minus"])

# %% [markdown]
# Each seed compares all three on the same faces, so that small gains can be seen. Gender gains about a point, over
# being alone and over the probe. Race gains less than four seeds can tell from nothing. Age loses a point. For race and
# age the linear probe, which saw 200 labels and no others, is not beaten.

# %% [markdown]
# ### Where to split, and how wide
#
# What if the trunk has no room for all? Here are three layers of 16 units and 1,000 faces with all labels. The split
# moves from 0 shared layers (one network per task) to all three. The last two ways are explained below.

# %%
from facekit.transfer import weighting

narrow = (16, 16, 16)
splits = {f"{n} shared": (tasks, {"hidden": narrow, "shared": n}) for n in range(4)}
splits["3 shared, PCGrad"] = tasks, {"hidden": narrow, "method": weighting.PCGrad}
splits["3 shared, 32 units"] = tasks, {"hidden": (32, 32, 32)}


def try_ways(ways, metrics, seed):
    rows, found = few_labels(pool, 1000, seed), {}
    for name, (asked, options) in ways.items():
        net = train_net(rows, asked, seed, **options)
        found |= {(task.name, name): score(net, task, metrics[task.name]) for task in asked}
    return found


by_split = over_seeds(try_ways, splits, dict.fromkeys(tests, "accuracy"), seeds=range(3))
plots.show(figures.by_layers(by_split, list(splits)[:4]), "Accuracy over the shared layers: race and age fall.")

# %% tolerance=0.02
pd.concat({name: with_spread(by_split[name]).drop(columns="seeds") for name in ("race", "gender", "age")}, axis=1)

# %% [markdown]
# ## Look at the result
#
# ### Negative transfer
#
# The more of the narrow trunk is shared, the lower race and age. That is **negative transfer**. The last row shows its
# main cause: three shared layers of 32 units have about as many parameters as three networks of 16, and most of the
# loss is gone. When a task loses by sharing, first widen the trunk or split it lower.

# %% [markdown]
# ### Do their gradients disagree?
#
# Each task's loss has a gradient on the trunk. Where two of them point apart, their **cosine** is below 0: a step for
# one raises the loss of the other. `PCGrad` (Yu et al. 2020) measures this at every step and takes out of each gradient
# the part that goes against another one. Its training history holds the cosines.

# %%
plots.show(figures.cosines(pool, tasks, narrow), "Cosines of three pairs of tasks over ten epochs; they fall below 0.")

# %% [markdown]
# At the start the cosines are near 0: in so many dimensions most directions are nearly perpendicular. The conflict
# comes with training. Where the sum of the losses is smallest, the gradients add up to 0, so they cannot all agree:
# **conflict is what a compromise looks like from near by.** Taking it out does not help here: in the table above PCGrad
# stands where the plain sum (3 shared) stands. Whether sharing hurts is said by the comparison with one network per
# task, not by a cosine.
#
# ### When tasks have different units
#
# So far all losses were cross-entropies of about the same size. Now age is asked as a number, **in years**. Ten years
# of error stand beside a gender loss of 0.7, on a trunk of 16 units.
#
# - **equal**: weight 1 for each loss.
# - **by scale**: each loss divided by the loss of the best constant answer, so that both start at about 1.
# - **uncertainty** (Kendall et al. 2018) and **GradNorm** (Chen et al. 2018): the weights are learnt.
# - **decades**: the **target** is divided by 10, as in [lesson 05](05_define_the_problem.ipynb); weight 1 for each
#   loss.

# %%
years, decades = (replace(age, kind="regression", scale=scale) for scale in (1, 10))
scaled = weighting.scale_weights((gender, years), pool)
methods = {"by scale": lambda tasks: Supervised(tasks, weights=scaled), "GradNorm": weighting.GradNorm}
methods["uncertainty"] = weighting.UncertaintyWeighting
options = {"equal": {}} | {name: {"method": each} for name, each in methods.items()} | {"two networks": {"shared": 0}}
ways = {f"years, {name}": ((gender, years), {"hidden": (16,), **each}) for name, each in options.items()}
for name in ("equal", "two networks"):
    ways[f"decades, {name}"] = (gender, decades), {"hidden": (16,), **options[name]}
weighed = over_seeds(try_ways, ways, {"gender": "accuracy", "age": "mae"}, seeds=range(3))
plots.show(figures.two_errors(weighed), "Gender over years off: only a target in decades is good for both.")

# %% tolerance=0.3
pd.concat({name: with_spread(weighed[name], 2) for name in ("gender", "age")}, axis=1)

# %% [markdown]
# In years, with equal weights, gender is a point or two worse than alone. **By scale** it is as good as alone, but age
# is hardly better than always the median, which is 12.6 years off ([lesson 05](05_define_the_problem.ipynb)). Learnt
# weights end near the equal ones: 150 steps are too few for them. Each of these weights takes from one task what it
# gives to the other.
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
# `fillna` is quickly written. Here each face has one label of three, and the gaps are filled with the first class.

# %% tags=["broken-on-purpose"] tolerance=0.05
holes = few_labels(pool, 1500, seed=0)
for place, task in enumerate(tasks):
    holes.labels.loc[holes.labels.index % 3 != place, task.name] = None
filled = replace(holes, labels=holes.labels.fillna({task.name: task.classes[0] for task in tasks}))
nets = {name: train_net(rows, tasks, seed=0, dropout=0.5) for name, rows in (("missing", holes), ("filled", filled))}
pd.DataFrame({name: {task.name: score(net, task) for task in tasks} for name, net in nets.items()}).round(2)

# %% [markdown]
# No error, and a training loss that falls. But two of three labels are the first class, and the heads learnt to say
# so. A missing label stays missing until the loss leaves it out.
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
