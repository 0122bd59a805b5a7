# %% [markdown]
# # 01 · What transfer learning is
#
# You teach a small network one task on many labelled faces and carry what it has learnt over to another task. What is
# that worth when labels are few? Then you do the same with a network that somebody else has trained.

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
# ![A network of four layers and a head learns the source task from many faces; the parameters of the four layers are copied into a second network, the head stays behind; a new head learns the target task from a handful of faces](figure.svg)
#
# A [domain](glossary.md#domain) is a kind of input: which pictures occur, and how often. A [task](glossary.md#task) is
# what is wanted of them: the possible answers, and the rule from picture to answer. Both come in pairs here. The
# [source](glossary.md#source) has plenty of labels, the [target](glossary.md#target) is the one you care about.
# [Transfer learning](glossary.md#transfer-learning) uses on the target what was learnt on the source. Their domains
# differ, or their tasks, or both (Pan & Yang 2010). Why bother?
#
# - **Few labels.** What a network has to learn about eyes, skin and hair it need not learn from your twenty photos.
# - **Less time.** Most of the work has been done. Often only a last layer is left to be learnt.
# - **Re-use.** The source can be data that you will never see: somebody publishes a network, you build on it.
#
# It works as far as both tasks need the same features. Nothing guarantees that they do; so we measure.

# %% [markdown]
# ## Build it
#
# Both tasks here are about one label: [skin tone](glossary.md#skin-tone) on drawn portraits, in ten steps from light
# (1) to dark (10); race as annotators perceived it on photos. Every other class belongs to the **source**, the rest to
# the **target**. So the source network never sees a face with one of the target's labels, and its answers are no use
# for the target.

# %%
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product

import pandas as pd
import torch
from torch import nn

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import few_labels
from facekit.show import plots

course, figures = start("01"), lesson("01").figures
label, classes = course.tasks[0].name, course.tasks[0].classes
source, target = (replace(course.tasks[0], classes=classes[first::2], midpoints=()) for first in (0, 1))

# %% [markdown]
# `many` are the faces that somebody has labelled for the source: many, and small, so that a network learns from them in
# seconds. `faces` are yours. They are larger (the pretrained network below wants that); the small network gets them at
# 32 × 32 pixels.


# %%
def only(faces, task):
    # The faces whose label is one of the task's classes.
    return faces.select(faces.labels[task.name].isin(task.classes).to_numpy())


many, faces = only(course.many_faces(size=32), source), course.faces()
small = faces.resized(32)
train, test = only(small.split("train"), target), only(small.split("test"), target)
print(f"source: {len(many)} faces; target: {len(train)} to learn from, {len(test)} to test")

# %%
shown = few_labels(faces, 12, seed=0)
captions = [f"{'source' if text in source.classes else 'target'}: {text}" for text in shown.labels[label]]
plots.show(plots.image_grid(shown.images, captions), alt=f"Twelve faces: {label}, source or target.")

# %% [markdown]
# ### The network
#
# Two parts, by hand, as in lesson 00. The **body** turns a photo into 64 numbers, its
# [embedding](glossary.md#embedding); the [head](glossary.md#head) turns these into one score for each class. At the end
# of the body stands the mean over the picture, in Keras `GlobalAveragePooling2D`.
#
# `Backbone` is facekit's base class for bodies. It scales the pixels (`prepare`), and it wants to know the parts by
# name (`stages`) and an embedding of length 1. The factor 8 undoes the latter: numbers around 1 suit a linear layer.

# %%
from facekit.models.backbones.base import Backbone


class Body(Backbone):
    name, image_size, smallest_size, embedding_dim = "small body", 32, 16, 64

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential()
        for a, b in ((3, 16), (16, 32), (32, 64), (64, 64)):
            self.blocks.append(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))

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
    optimiser, losses = torch.optim.AdamW(network.train().parameters(), lr=lr), []
    for _ in range(steps):
        rows = torch.randperm(len(photos))[:32]
        loss = nn.functional.cross_entropy(network(photos[rows]), targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def answers(network, rows, task):
    outputs = network.eval()(torch.from_numpy(rows.inputs).to(next(network.parameters()).device))
    outputs = outputs[task.name] if isinstance(outputs, dict) else outputs  # facekit's heads answer by task
    return outputs.argmax(1).cpu()


def accuracy(network, rows, task):
    return (answers(network, rows, task) == task.encode(rows.labels[task.name])).float().mean().item()


# %% [markdown]
# ### Step 1: feature learning
#
# The source network learns the source task. We do not need its answers. We want what its body has to find out about
# faces on the way. The curve is the mean [loss](glossary.md#loss) of every 32 steps.

# %% tolerance=0.08
torch.manual_seed(0)
source_network = Network(len(source.classes))
losses = learn(source_network, many, source, steps=max(640, len(many) // 5), lr=3e-3)
fig, axis = plots.figure()
axis.plot(range(32, len(losses) + 1, 32), torch.tensor(losses).unfold(0, 32, 32).mean(1))
axis.set(xlabel="step", ylabel="loss, source task")
plots.show(fig, alt="The loss of the source network over its steps: steep at first, then slowly lower.")
print(f"accuracy on the source's test faces: {accuracy(source_network, only(small.split('test'), source), source):.2f}")

# %% [markdown]
# ### Step 2: parameter transfer
#
# A `state_dict` is a dictionary from names to tensors: the weights, and the statistics of
# [BatchNorm](glossary.md#BatchNorm). All that belongs to the body is copied into a new network. The head is left out:
# its rows are the source's classes.

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
# The new head learns the target task, from **20 labels**. The body is [frozen](glossary.md#freeze): it gets no
# gradient, and its BatchNorm keeps its statistics.

# %% tolerance=0.06
few = few_labels(train, 20, seed=0)
network.body.freeze()
learn(network, few, target, steps=64, lr=1e-2)
print(f"accuracy on the target's test faces: {accuracy(network, test, target):.2f}")

# %% [markdown]
# ### The same from facekit
#
# A `Classifier` is a body with `Heads`. A [plan](glossary.md#plan) says which [stages](glossary.md#stage) learn, and
# how fast: `probe` is the head alone, `everything` all of it. `Supervised` is the loss on labels, `fit` the loop.
# Whatever the number of labels, everybody gets 64 steps.

# %%
from facekit.models.heads import Classifier, Heads
from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan


def classifier(few, task, seed, body=Body, name="scratch", lr=3e-3):
    torch.manual_seed(seed)
    # Without a body, the inputs are embeddings already.
    model = Classifier(body and body(), Heads(few.inputs.shape[1] if body is None else 64, [task]))
    fit(model, Supervised([task]), few, None, plan(name, list(model.stages), 1, lr), TrainConfig(32, steps=64))
    return model


transferred = partial(deepcopy, source_network.body)
model = classifier(few, target, seed=0, body=transferred, name="probe", lr=1e-2)

# %% tolerance=0.06
same = (answers(model, test, target) == answers(network, test, target)).float().mean().item()
print(f"accuracy {accuracy(model, test, target):.2f}; the same answer as by hand for {same:.2f} of the faces")

# %% [markdown]
# The two heads began with other random numbers, and `fit` lets the rate rise and fall; so a few answers differ.

# %% [markdown]
# ## Run it
#
# One comparison with 20 labels can be luck. So: three sizes, three seeds (other photos, other random weights), and two
# more ways to use the same steps. **Tuned** means that the transferred body goes on learning, together with its new
# head, gently. **Random and frozen** is a control: if it did as well as the transferred body, then freezing would be
# the trick, and not what was learnt on the source.

# %% tolerance=0.08
METHODS = {
    "from scratch": classifier,
    "transferred, frozen": partial(classifier, body=transferred, name="probe", lr=1e-2),
    "transferred, tuned": partial(classifier, body=transferred, name="everything", lr=1e-3),
    "random, frozen": partial(classifier, name="probe", lr=1e-2),
}


def compare(data, task, methods):
    pool, held_out, rows = data.split("train"), data.split("test"), []
    for n, seed, name in product((20, 64, 256), course.budget.seeds, methods):
        value = accuracy(methods[name](few_labels(pool, n, seed), task, seed), held_out, task)
        rows.append([task.name, "accuracy", n, seed, name, value])
    return pd.DataFrame(rows, columns=["task", "metric", "n", "seed", "method", "value"])


curve = compare(only(small, target), target, METHODS)
with_spread(curve.query("n == 20").pivot(index="seed", columns="method", values="value"), digits=2)

# %% [markdown]
# With 20 labels, the transferred body leads; ± is the [standard error](glossary.md#standard-error) over the seeds. The
# control stays behind, so it is the knowledge that helps, not the freezing.
#
# Two more questions before the picture.
#
# **What if somebody else has done step 1?** `course.backbone()` was trained by others, to recognise people, on far more
# faces than these. `embed` keeps its embeddings of your faces, and a head learns on those. (A head on frozen embeddings
# is called a [probe](glossary.md#probe).)
#
# **What if the source has little to do with the target?** The same transferred body, but now the target is gender: all
# of your faces, another label.

# %%
from facekit.models.embedding import embed

embedded, gender = embed(course.backbone(), faces), course.tasks[1]
others = {"pretrained by others": partial(classifier, body=None, name="probe", lr=1e-2)}
curves = [curve, compare(only(embedded, target), target, others)]
curves += [compare(small, gender, dict(list(METHODS.items())[:2])), compare(embedded, gender, others)]

# %% [markdown]
# ## Look at the result

# %%
fig = figures.over_labels(pd.concat(curves))
plots.show(fig, alt=f"Accuracy over 20 to 256 labels for {label}, related to the source, and gender, which is not.")

# %% [markdown]
# Read the left panel from its left edge. There labels are scarcest, and there the transferred features are worth most.
# To the right the lines come together: with enough labels a network finds by itself what it was given before. (On
# photos the source network is still weak after its few seconds, and its lead is small or none.)
#
# Now compare the two sources. The network that recognises people has seen far more faces, and in the left panel it is
# not ahead. It must not care about the light, and on drawn portraits light and skin tone change the same colours: it
# has every reason to look past what is asked for here. For gender it is the better source, since gender is part of what
# tells one person from another. **What counts is whether the source needed to look at what the target asks for.** (On
# photos, where the label is race, both panels belong to the larger source: there is more to that label than a colour.)
#
# The transferred line in the right panel is a warning. Its source never asked for gender. Frozen, it hides from the
# head what the pixels still show. Where transfer makes the result worse than none, this is called
# [negative transfer](glossary.md#negative-transfer).
#
# ### Try it: labels and starting point
#
# The same twelve test faces, after learning from more or fewer labels, with and without transfer.

# %%
from facekit.show.widgets import explore


def twelve(start, labels):
    model = METHODS[start](few_labels(train, labels, seed=0), target, seed=0)
    pairs = zip([target.classes[i] for i in answers(model, test, target)], test.labels[label], strict=True)
    captions = [f"{'right' if answer == true else 'wrong'}: {answer}\nlabel {true}" for answer, true in pairs][:12]
    return plots.image_grid(only(faces.split("test"), target).images[:12], captions)


settings = [{"start": start, "labels": 64} for start in [*METHODS][:2]]
explore(twelve, start=[*METHODS], labels=(20, 64, 256), settings=settings, alt="Twelve faces: right or wrong, label.")

# %% [markdown]
# ### On real photos
#
# Now step 1 by others at full strength: FaceNet, trained to tell the 8,631 people of VGGFace2's training part apart,
# and three tasks of FairFace. Both lines are recorded: a probe on FaceNet's embeddings of real photos, and, for what
# there is without transfer, a smaller network that learnt 1,000 photos from random weights.

# %%
fig, captions = figures.on_real_photos()
plots.show(fig, alt="Accuracy over labels: FaceNet's line is above the other's point.")
print(captions)

# %% [markdown]
# With fifty labels and a network that others have trained you are further than with a thousand labels and none.
#
# ### Three words that you will meet
#
# | Word | What it means | More in |
# |---|---|---|
# | [pre-trained](glossary.md#pretrained) model | a network with the weights that somebody's source task gave it; steps 1 and 2 are done when you load it | [lesson 03](03_feature_extraction.ipynb) |
# | [fine-tuned](glossary.md#fine-tuning) network | such a network that goes on learning on the target, all of it or the last layers | [lesson 04](04_fine_tuning.ipynb) |
# | [layer re-use](glossary.md#layer-re-use) | only some layers are taken over, usually the first, which find edges and colours; those above start anew | here, below |
#
# In step 2 all four blocks were re-used. How many should be? The first k blocks from the source, the rest random, then
# all of it is tuned with 64 labels:


# %% tolerance=0.08
def reuse(seed):
    few, found = few_labels(train, 64, seed), {}
    for k in range(5):
        mixed = Body()
        mixed.blocks[:k].load_state_dict(source_network.body.blocks[:k].state_dict())
        model = classifier(few, target, seed, body=lambda mixed=mixed: mixed, name="everything", lr=1e-3)
        found[f"{k} blocks"] = accuracy(model, test, target)
    return found


with_spread(over_seeds(reuse, seeds=course.budget.seeds), digits=2)

# %% [markdown]
# Each of the first three blocks helps, and the fourth does no harm, as long as the tasks are this close. (On photos,
# with a weaker source, the gain is hardly larger than its error.) For a target further away the last layers are
# too special: then the first ones are re-used and the last ones learnt anew (Yosinski et al. 2014).

# %% [markdown]
# ## What goes wrong
#
# ### A transfer that copied nothing
#
# The tensors come from `source_network.body`, so their names begin with `blocks.`; the new network calls the same
# tensors `body.blocks.`. With `strict=False` no name has to fit. So nothing fits, and nothing complains.

# %% tags=["broken-on-purpose"] tolerance=0.06
forgotten = Network(len(target.classes))
left = forgotten.load_state_dict(source_network.body.state_dict(), strict=False)
forgotten.body.freeze()
learn(forgotten, few, target, steps=64, lr=1e-2)
print(f"{len(moved) - len(left.unexpected_keys)} of {len(moved)} tensors copied")
print(f"accuracy {accuracy(forgotten, test, target):.2f}, with the prefix {accuracy(network, test, target):.2f}")

# %% [markdown]
# It trains, its loss falls, it answers. It is the line "random, frozen" of the figure. What tells you? The
# list `unexpected_keys`, which the call returns and nobody has to read. Write down how many tensors you expect to move,
# and compare; `assert not left.unexpected_keys` is enough.
#
# ### A head that does not fit

# %% tags=["raises-exception"]
Network(n_classes=2).load_state_dict(source_network.state_dict(), strict=False)

# %% [markdown]
# `strict=False` forgives missing and unexpected names, not shapes. Be glad of the error. With as many classes in the
# target as in the source, the head is copied without a word. Each of its rows then stands for the wrong class.
# Leave the head out by name, as in step 2, or look at what moved, as in exercise 01.2.
#
# ### When not to transfer
#
# - **The source never needed what the target needs.** You saw it for gender: what a source network has no use for, it
#   learns to ignore.
# - **You have labels enough.** The lead shrinks with every doubling. If training from scratch is cheap and as good, it
#   is the simpler thing to build and to explain.
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
# ### 01.3 Your own experiment
#
# Ask something about transfer, and answer with a table of `over_seeds`: at least three seeds, a column `from scratch`
# (the [baseline](glossary.md#baseline)) and your way beside it. Ideas: age as the target; a source that saw only 200
# faces; fewer blocks with gender as the target; more steps for everybody.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone, with as many steps and the
# same rows for all · gives the spread beside the mean · says what you saw, even if it is nothing · names what you would
# try next.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "from scratch"
# <solution>
# Expected: age is not what the source asked for, so a frozen body helps little; tuned, it starts at a better place.
def age_as_target(seed):
    age, few = course.tasks[2], few_labels(small.split("train"), 256, seed)
    names = ("from scratch", "transferred, frozen", "transferred, tuned")
    return {name: accuracy(METHODS[name](few, age, seed), small.split("test"), age) for name in names}


experiment = over_seeds(age_as_target, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.08
exercise("01.3").check(experiment)
# exercise("01.3").hint()

# %% [markdown] tags=["solution-only"]
# Frozen is worse than from scratch: negative transfer, as with gender. Tuned is as good as from scratch and no better;
# its start is no help, and no harm either.

# %% [markdown]
# ## Quiz

# %%
quiz("01").show()

# %% [markdown]
# ## Recap
#
# - Transfer learning: a source with plenty of labels helps a target with few; domain, task or both differ.
# - Three steps: feature learning on the source, parameter transfer (all but the head), classifier learning on the
#   target.
# - Compare with training from scratch at equal budget, over several seeds. The gain is largest where labels are few and
#   the source is related; it can be negative where it is not.
# - Count what moved. `strict=False` lets a transfer fail without an error.
# - Layer re-use takes only the first layers along; fine-tuning lets what came along learn on.
# - Which kind of transfer fits which problem is [lesson 02, the map](02_the_map.ipynb).

# %% [markdown]
# ## References
#
# - Pan, Yang: [A Survey on Transfer Learning](https://doi.org/10.1109/TKDE.2009.191), IEEE Transactions on Knowledge and Data Engineering 22 (10), 2010
# - Yosinski, Clune, Bengio, Lipson: [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), NIPS 2014
# - Schroff, Kalenichenko, Philbin: [FaceNet: A Unified Embedding for Face Recognition and Clustering](https://arxiv.org/abs/1503.03832), CVPR 2015
# - Kärkkäinen, Joo: [FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age](https://arxiv.org/abs/1908.04913), WACV 2021
