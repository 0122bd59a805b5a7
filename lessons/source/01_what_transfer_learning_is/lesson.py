# %% [markdown]
# # 01 · What transfer learning is
#
# You teach a small network one task on many labelled faces, carry what it has learnt over to another task, and measure
# what that is worth when labels are few. Then you do the same with a network that somebody else has trained.

# %% [markdown]
# ## What you will be able to do
#
# - say what source, target, domain and task are in a given project
# - carry out the three steps: feature learning, parameter transfer, classifier learning
# - measure what few labels cost without transfer, at equal budget and over several seeds
# - use the words pre-trained model, fine-tuning and layer re-use for what they mean
# - notice a transfer that copied nothing, and say when it is better not to transfer

# %% [markdown]
# ## What you need
#
# A training loop in PyTorch and a `state_dict`, from [lesson 00](00_start_here.ipynb).

# %% [markdown]
# ## The idea
#
# ![A network of four layers and a head learns the source task from thousands of faces; the parameters of the four layers are copied into a second network, the head stays behind; a new head learns the target task from a handful of faces](figure.svg)
#
# A **domain** is a kind of input: which pictures occur, and how often. A **task** is what is wanted of them: the
# possible answers, and the rule from picture to answer. Both come in pairs here. The **source** has plenty of labels,
# the **target** is the one you care about. **Transfer learning** improves what is learnt of the target by what was
# learnt on the source, where the domains differ, or the tasks, or both (Pan & Yang 2010).
#
# Why bother?
#
# - **Few labels.** What a network has to learn about eyes, skin and hair it need not learn from your twenty photos.
# - **Less time.** Most of the work has been done. Often only a last layer is left to be learnt.
# - **Re-use.** The source can be data that you will never see: somebody publishes a network, you build on it.
#
# It works as far as both tasks need the same features. Nothing guarantees that they do; so we measure.

# %% [markdown]
# ## Build it
#
# Both tasks here are about one label, that of the first task of the profile: skin tone on drawn portraits, race as
# annotators perceived it on photos. Every other class belongs to the **source**, the rest to the **target**. So the
# source network never sees a face with one of the target's labels, and its answers are no use for the target.

# %%
from copy import deepcopy
from functools import partial

import pandas as pd
import torch
from torch import nn

from facekit.course import exercise, quiz, start
from facekit.experiments import PROBES, few_labels, learning_curve, summary
from facekit.show import plots
from facekit.tasks import Task

course = start("01")
label, classes = course.tasks[0].name, course.tasks[0].classes
source, target = Task(label, "multiclass", classes[0::2]), Task(label, "multiclass", classes[1::2])
print(f"{label}: source {', '.join(source.classes)}; target {', '.join(target.classes)}")

# %% [markdown]
# `many_faces` are the faces that somebody has labelled for the source: many, and small, so that a network learns from
# them in seconds. `faces` are yours. They are larger (the pretrained network below wants that); the small network gets
# them at 32 × 32 pixels.


# %%
def only(faces, task):
    # The faces whose label is one of the task's classes.
    return faces.select(faces.labels[task.name].isin(task.classes).to_numpy())


many, faces = only(course.many_faces(size=32), source), course.faces()
small = faces.resized(32)
train, test = only(small.split("train"), target), only(small.split("test"), target)
print(f"more than 800 source faces: {len(many) > 800}; target: {len(train)} to learn from, {len(test)} to test")

# %%
shown = few_labels(faces, 12, seed=0)
captions = [f"{'source' if text in source.classes else 'target'}: {text}" for text in shown.labels[label]]
plots.show(plots.image_grid(shown.images, captions, cell=1.5), alt=f"Twelve faces: {label}, source or target.")

# %% [markdown]
# ### The network
#
# Two parts, built by hand. The **body** turns a photo into 64 numbers; the **head** turns these into one score for each
# class. In Keras each block would be `Conv2D(width, 3, strides=2, padding="same")`, `BatchNormalization`, `ReLU`; the
# mean over the picture at the end is `GlobalAveragePooling2D`.
#
# `Backbone` is facekit's base class for bodies. It scales the pixels (`prepare`), and it wants to know the parts by name
# (`stages`) and an embedding of length 1. The factor 8 undoes the latter: numbers around 1 suit a linear layer.

# %%
from facekit.models.backbones.base import Backbone


class Body(Backbone):
    name, image_size, smallest_size, embedding_dim = "small body", 32, 16, 64

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential()
        for a, b in ((3, 16), (16, 32), (32, 64), (64, 64)):
            convolution = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
            self.blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(b), nn.ReLU()))

    @property
    def stages(self):
        return {f"block {i}": [block] for i, block in enumerate(self.blocks)}

    def forward(self, photos):
        return nn.functional.normalize(self.blocks(self.prepare(photos)).mean((2, 3)))


# %%
class Network(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.body, self.head = Body(), nn.Linear(64, n_classes)

    def forward(self, photos):
        return self.head(8 * self.body(photos))


def learn(network, faces, task, steps, lr):
    # AdamW on batches of 32. What is frozen gets no gradient, so the optimiser leaves it alone.
    photos, targets = torch.from_numpy(faces.images), task.encode(faces.labels[task.name])
    optimiser = torch.optim.AdamW(network.train().parameters(), lr=lr)
    for _ in range(steps):
        rows = torch.randperm(len(photos))[:32]
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(photos[rows]), targets[rows]).backward()
        optimiser.step()


@torch.inference_mode()
def accuracy(network, faces, task):
    answers = network.eval()(torch.from_numpy(faces.images)).argmax(1)
    return (answers == task.encode(faces.labels[task.name])).float().mean().item()


# %% [markdown]
# ### Step 1: feature learning
#
# The source network learns the source task; it sees each face six times or more, on average. We do not need its answers. We want
# what its body has to find out about faces on the way.

# %%
torch.manual_seed(0)
source_network = Network(len(source.classes))
learn(source_network, many, source, steps=max(640, len(many) // 5), lr=3e-3)
print("right for more than 40 %:", accuracy(source_network, only(small.split("test"), source), source) > 0.4)

# %% [markdown]
# ### Step 2: parameter transfer
#
# A `state_dict` is a dictionary from names to tensors: the weights, and the statistics of BatchNorm. All that belongs
# to the body is copied into a new network. The head is left out: its rows are the source's classes.

# %%
network = Network(len(target.classes))
moved = {name: tensor for name, tensor in source_network.state_dict().items() if name.startswith("body.")}
left = network.load_state_dict(moved, strict=False)

print(f"{len(moved)} tensors moved:", *list(moved)[:6], "…", f"keep their random values: {left.missing_keys}", sep="\n")

# %% [markdown]
# The first six are block 0: a convolution, then BatchNorm's weight, bias, mean, variance and its counter of batches.
# `strict=False` says that tensors may be missing; `load_state_dict` returns which. Read that list. Below you see what
# happens to those who do not.
#
# ### Step 3: classifier learning
#
# The new head learns the target task, from **20 labels**. The body is frozen: it gets no gradient, and its BatchNorm
# keeps its statistics.

# %%
few = few_labels(train, 20, seed=0)
network.body.freeze()
learn(network, few, target, steps=64, lr=1e-2)
own = network.state_dict()
print("not from the source:", [name for name in own if name not in moved or not torch.equal(own[name], moved[name])])

# %% [markdown]
# ### The same from facekit
#
# A `Classifier` is a body with `Heads`, a `plan` says which stages learn and how fast, and `fit` is the loop. `body=None`
# starts from random weights. All plans get the same batches and 64 steps, however many labels there are.

# %%
from facekit.models.heads import Classifier, Heads, parameter_counts
from facekit.training.loop import TrainConfig, fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan


def classifier(few, tasks, seed, body=None, name="scratch", lr=3e-3):
    torch.manual_seed(seed)
    model = Classifier(Body() if body is None else deepcopy(body), Heads(64, tasks))
    steps = plan(name, list(model.stages), epochs=64 * 32 // max(32, len(few)), lr=lr)
    fit(model, Supervised(tasks), few, None, steps, TrainConfig(batch_size=32, seed=seed))
    return model


body = source_network.body
model = classifier(few, [target], seed=0, body=body, name="probe", lr=1e-2)
same = target.predict(predict(model, test)[label]) == network.eval()(torch.from_numpy(test.images)).argmax(1)
print("parameters that learnt:", parameter_counts(model)["trainable"].to_dict())
print("both give the same answer for more than 80 % of the faces:", same.float().mean().item() > 0.8)


# %% [markdown]
# ## Run it
#
# One comparison with 20 labels can be luck. So: three sizes, three seeds (other photos, other random weights), and two
# more ways to use the same 64 steps. **Tuned** means that the transferred body goes on learning, together with its new
# head, gently. **Random and frozen** is a control: if it did as well as the transferred body, then freezing would be
# the trick, and not what was learnt on the source.

# %%
methods = {
    "from scratch": classifier,
    "transferred, frozen": partial(classifier, body=body, name="probe", lr=1e-2),
    "transferred, tuned": partial(classifier, body=body, name="everything", lr=1e-3),
    "random, frozen": partial(classifier, name="probe", lr=1e-2),
}
sizes, seeds = (20, 64, 256), course.budget.seeds


def compare(data, tasks, methods, sizes=sizes):
    return learning_curve(data.split("train"), data.split("test"), tasks, sizes, seeds, methods)


curve = compare(only(small, target), [target], methods)
scores = summary(curve, ["method", "n"])["mean"].unstack("n")
lead = (scores.loc["transferred, frozen"] - scores).loc[["from scratch", "random, frozen"]]
print("transferred, frozen leads by more than 0.1 with 20 labels:", (lead[20] > 0.1).to_dict())
print("its lead over scratch shrinks with more labels:", lead.loc["from scratch"].is_monotonic_decreasing)

# %% [markdown]
# And the time? Seconds for one training, mean over sizes and seeds; they are those of the machine that ran this.

# %%
print({name: f"{value:.2f} s" for name, value in curve.groupby("method", sort=False)["seconds"].mean().items()})

# %% [markdown]
# A frozen body needs no gradient, and that is the larger part of the work. It still looks at every photo in every step;
# [lesson 03](03_feature_extraction.ipynb) keeps its output and looks once.
#
# Two more questions before the picture.
#
# **What if somebody else has done step 1?** `course.backbone()` was trained by others, to recognise people, on far more
# faces than these. Its features of the same photos go to a linear probe, which is a head and nothing else.
#
# **What if the source has little to do with the target?** The same transferred body, but now the target is gender: all
# of your faces, another label.

# %%
from facekit.models.embedding import embed

embedded, gender = embed(course.backbone(), faces), course.tasks[1]
linear = {"pretrained by others": PROBES["linear"]}
two = {name: methods[name] for name in ("from scratch", "transferred, frozen")}
curves = [curve, compare(only(embedded, target), [target], linear)]
curves += [compare(small, [gender], two), compare(embedded, [gender], linear)]

# %% [markdown]
# ## Look at the result

# %%
rows = pd.concat(curves)
fig = plots.learning_curve_panels(dict(list(rows.groupby("method", sort=False))))
plots.show(fig, alt=f"Accuracy over 20 to 256 labels for {label}, related to the source, and gender, which is not.")

# %% [markdown]
# Read the left panel from its left edge. There labels are scarcest, and there the transferred features are worth most.
# To the right the lines come together: with enough labels a network finds by itself what it was given before. How large
# the lead is depends on how well the source was learnt. Drawn skin is quickly understood, from a thousand faces. If you
# run this lesson on photos, the source network is still weak after its few seconds, and its lead is small or none.

# %%
means = summary(rows, ["task", "n", "method"])["mean"].unstack()
larger = means["pretrained by others"] > means["transferred, frozen"]
print(f"{label}: the larger source leads the related one:", larger[label].to_dict())
ahead = means["transferred, frozen"] > means["from scratch"] + 0.05
print("gender: transferred, frozen leads scratch by more than 0.05:", ahead["gender"].to_dict())

# %% [markdown]
# Is a network that was trained longer, on more faces, by people with more machines, the better source? Compare your two
# sources in both panels. The one that recognises people must not care about the light, and on drawn portraits light and
# skin tone change the same colours: it has every reason to look past what is asked for here. For gender it is of use,
# since that is part of what tells one person from another. With your own small source it is the other way round. **What
# counts is whether the source needed to look at what the target asks for.** (On photos, where the label is race, both
# panels belong to the larger source: there is more to that label than a colour.)
#
# The transferred line in the right panel is a warning. Its source never asked for gender. Frozen, it hides from the
# head what the pixels still show, and with more labels it falls behind the network that starts from nothing. Where
# transfer makes the result worse than none, this is called **negative transfer**.
#
# ### Try it: labels and starting point
#
# The same twelve test faces, after learning from more or fewer labels, with and without transfer.

# %%
from facekit.show.widgets import explore


def twelve(start, labels):
    model = methods[start](few_labels(train, labels, seed=0), [target], seed=0)
    found = [target.classes[i] for i in target.predict(predict(model, test)[label])[:12]]
    captions = [f"{true}\nanswer: {answer}" for true, answer in zip(test.labels[label][:12], found, strict=True)]
    return plots.image_grid(only(faces.split("test"), target).images[:12], captions, cell=1.5)


def alt(start, labels):
    return f"Twelve test faces, label and answer below each: {start}, {labels} labels."


explore(twelve, alt=alt, start=[*methods], labels=sizes, settings=[{"start": s, "labels": 64} for s in [*methods][:2]])

# %% [markdown]
# ### On real photos
#
# Now step 1 by others at full strength: FaceNet, trained to tell the 8,631 people of VGGFace2's training part apart, and
# three tasks of FairFace. `here` is a linear probe on the features of your profile. The other two are recorded: the
# same probe on real photos, and, for what there is without transfer, a smaller network (that of profile laptop) which
# learnt 1,000 photos from random weights.

# %%
from facekit.records import recorded

probes, networks = recorded("probe_fairface"), recorded("mini_fairface")
curves = {
    "here": compare(course.features(), course.feature_tasks, linear, sizes=course.budget.labels[:3]),
    "recorded, FaceNet": probes.rows.query("method == 'linear'"),
    "recorded, from scratch": networks.rows.query("network == 'same network from scratch'"),
}
plots.show(plots.learning_curve_panels(curves), alt="Accuracy over labels by task: here, and the two recorded.")
print(probes.caption(), networks.caption(), sep="\n")

# %%
with_50 = summary(curves["recorded, FaceNet"], ["n", "task"])["mean"].loc[50]
without = summary(curves["recorded, from scratch"], ["task"])["mean"]
print("FaceNet with 50 labels beats 1,000 labels from scratch:", (with_50 > without).to_dict())

# %% [markdown]
# ### Three words that you will meet
#
# | Word | What it means | What learns on the target | More in |
# |---|---|---|---|
# | **pre-trained model** | a network with the weights that somebody's source task gave it; steps 1 and 2 are done when you load it | nothing yet; with a new head on the frozen network, only the head | [lesson 03](03_feature_extraction.ipynb) |
# | **fine-tuned conv net** | such a network whose convolutions go on learning on the target, all of them or the last few | head and body, the body slowly | [lesson 04](04_fine_tuning.ipynb) |
# | **layer re-use** | only some layers are taken over, usually the first, which find edges and colours; those above start anew | the new layers, and the re-used ones if you let them | [lesson 04](04_fine_tuning.ipynb) |
#
# In this lesson `transferred, frozen` is the first row, `transferred, tuned` the second. What you did in step 2 is layer
# re-use with all layers but one.

# %% [markdown]
# ## What goes wrong
#
# ### A transfer that copied nothing
#
# The tensors come from `source_network.body`, so their names begin with `blocks.`; the new network calls the same
# tensors `body.blocks.`. With `strict=False` no name has to fit. So nothing fits, and nothing complains.

# %% tags=["broken-on-purpose"]
forgotten = Network(len(target.classes))
left = forgotten.load_state_dict(body.state_dict(), strict=False)
forgotten.body.freeze()
learn(forgotten, few, target, steps=64, lr=1e-2)
print(f"tensors offered: {len(body.state_dict())}, copied: {len(body.state_dict()) - len(left.unexpected_keys)}")
print("worse than with the prefix:", accuracy(forgotten, test, target) < accuracy(network, test, target))

# %% [markdown]
# It trains, its loss falls, it answers. It is the line *random, frozen* of the figure. What tells you? The
# list `unexpected_keys`, which the call returns and nobody has to read. Write down how many tensors you expect to move,
# and compare; `assert not left.unexpected_keys` is enough.
#
# ### A head that does not fit

# %% tags=["raises-exception"]
Network(n_classes=2).load_state_dict(source_network.state_dict(), strict=False)

# %% [markdown]
# `strict=False` forgives missing and unexpected names, not shapes. Be glad of the error. If the target happens to have
# as many classes as the source, the head is copied without a word, and each of its rows stands for the wrong class.
# Leave the head out by name, as in step 2, or look at what moved, as in exercise 01.2.
#
# ### When not to transfer
#
# - **The source never needed what the target needs.** You saw it for gender: what a source network has no use for, it
#   learns to ignore. Frozen, it then hides from the head what the pixels still show.
# - **You have labels enough.** The lead shrinks with every doubling. If training from scratch is cheap and as good, it is
#   the simpler thing to build and to explain.
# - **You may not use the source.** A pretrained network brings along the licence, the errors and the selection of its
#   source. Most public face collections were gathered without asking anyone; groups of people that were rare there
#   are often served worse by what is built on it.
#
# You know only afterwards. The remedy is always the same: run the baseline without transfer, with the same labels and
# the same effort, and let it win where it wins.

# %% [markdown]
# ## Exercises
#
# ### 01.1 Source and target
#
# For each situation: the source task, the target task (`"person"`, `"age"`, `"gender"`, or `"none"` where there is
# none), and what differs between source and target (`"task"`, `"domain"`, `"both"` or `"nothing"`).
#
# - **A** FaceNet has learnt to tell persons apart on VGGFace2. Frozen, with a new head, it learns age bands from 300
#   photos of FairFace.
# - **B** A network for gender, trained on drawn portraits, goes on learning gender on pencil sketches.
# - **C** A network with random weights learns gender from 20,000 photos.
# - **D** You have trained a network for gender on your photos. On photos from the same camera its body now learns age
#   bands.

# %% tags=["solution"]
# TODO: three words for each situation
# <solution>
situations = {
    "A": ("person", "age", "both"),
    "B": ("gender", "gender", "domain"),
    "C": ("none", "gender", "nothing"),
    "D": ("gender", "age", "task"),
}
# <todo>
# situations = {"A": ..., "B": ..., "C": ..., "D": ...}
# </solution>

# %%
exercise("01.1").check(situations)
# exercise("01.1").hint()

# %% [markdown]
# ### 01.2 Transfer what fits
#
# Write the step 2 that cannot fail silently: copy into `model` every tensor of `state` whose name and shape the model
# has, leave the others, and return the list of the names that were copied.


# %% tags=["solution"]
def transfer(state, model):
    # TODO: compare `state` with `model.state_dict()`
    # <solution>
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    return list(fitting)
    # </solution>


# %%
exercise("01.2").check(transfer)
# exercise("01.2").hint()

# %% [markdown]
# ### 01.3 Labels saved
#
# A learning curve is two lists, numbers of labels (rising) and accuracies. Return the smallest number of labels with
# which the curve reaches `wanted`, and `inf` if it never does.


# %% tags=["solution"]
def labels_needed(labels, accuracies, wanted):
    # TODO: walk along the curve
    # <solution>
    for n, value in zip(labels, accuracies, strict=True):
        if value >= wanted:
            return n
    return float("inf")
    # </solution>


# %%
exercise("01.3").check(labels_needed)
# exercise("01.3").hint()

# %% [markdown] tags=["solution-only"]
# With it, what transfer saved in this lesson: the labels that the curve from scratch needs for what the transferred
# features reach with 20, minus those 20.

# %% tags=["solution-only"]
without = scores.loc["from scratch"]
saved = labels_needed(without.index, without, scores.loc["transferred, frozen"][20]) - 20
print("saved more than 100 labels:", saved > 100)

# %% [markdown]
# ## Quiz

# %%
quiz("01").show()

# %% [markdown]
# ## Recap
#
# - Transfer learning: a source with plenty of labels helps a target with few; domain, task or both differ.
# - Three steps: feature learning on the source, parameter transfer (all but the head), classifier learning on the target.
# - Compare with training from scratch at equal budget, over several seeds. The gain is largest where labels are few and
#   the source is related; it can be negative where it is not.
# - Count what moved. `strict=False` lets a transfer fail without an error.
# - Mostly somebody else has done step 1. How far you get without touching such a network is
#   [lesson 03](03_feature_extraction.ipynb).

# %% [markdown]
# ## References
#
# - Pan, Yang: [A Survey on Transfer Learning](https://doi.org/10.1109/TKDE.2009.191), IEEE Transactions on Knowledge and Data Engineering 22 (10), 2010
# - Yosinski, Clune, Bengio, Lipson: [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), NIPS 2014
# - Schroff, Kalenichenko, Philbin: [FaceNet: A Unified Embedding for Face Recognition and Clustering](https://arxiv.org/abs/1503.03832), CVPR 2015
# - Kärkkäinen, Joo: [FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age](https://arxiv.org/abs/1908.04913), WACV 2021
