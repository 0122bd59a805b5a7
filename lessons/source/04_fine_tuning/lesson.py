# %% [markdown]
# # 04 · Fine-tuning
#
# A frozen network can only give what it has. Here you let it move: how much of it, how fast, and at what price, as one
# controlled experiment from the frozen network to the same network without any transfer.

# %% [markdown]
# ## What you will be able to do
#
# - feed photos through a transform and a DataLoader, and train them with two learning rates, by hand
# - name the rungs of the transfer ladder and compare them fairly
# - take over only the first layers of a network, and say when that is better than all of them
# - freeze a layer so that it stays as it is, and recognise a learning rate that is too high

# %% [markdown]
# ## What you need
#
# Embeddings and the probe from [lesson 03](03_feature_extraction.ipynb); Dataset, [loss](glossary.md#loss), gradient and
# optimiser from [lesson 00](00_start_here.ipynb).

# %% [markdown]
# ## The idea
#
# ![Five copies of one network side by side. From left to right more is trained: only the new head; the last layer too; the last block too; everything; everything from random weights](figure.svg)
#
# The probe of lesson 03 stands on the lowest rung of a **ladder**: the network is frozen, only the new
# [head](glossary.md#head) learns. One rung up, the network's own **last layer** learns along, the one that makes the
# embedding. Then the **last block** of convolutions, then **everything**. To train pretrained layers further is
# [fine-tuning](glossary.md#fine-tuning). The last rung uses nothing of what was learnt before: the same network **from
# scratch**, with random weights. It shows what transfer is worth.

# %% [markdown]
# Why not always train everything? It costs time, it has millions of numbers to fit to a few labels, and what the network
# could do before is not protected. One reason speaks for it: if the features lack what your task needs, no head can find
# it in them.
#
# In Keras terms: `base.trainable = False` is the first rung. `for layer in base.layers[-20:]: layer.trainable = True`,
# and then `compile` again with a small learning rate, is the third. In PyTorch an optimiser takes **parameter groups**,
# each with its own rate. The network may be any: a ResNet from `torchvision` that learnt from
# [ImageNet](glossary.md#ImageNet) climbs the same ladder.

# %% [markdown]
# ## Build it
#
# The task is gender, from few labels.

# %%
import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import few_labels
from facekit.models.heads import Classifier, Heads
from facekit.show import plots

course, figures = start("04"), lesson("04").figures
(first, gender, age), budget, faces = course.tasks, course.budget, course.faces()
pool, test = faces.split("train"), faces.split("test").select(range(budget.test)).resized(budget.size)

# %% [markdown]
# ### A Dataset with a transform
#
# A `Dataset` says how many rows there are and what row number i is. A **transform** changes the photo whenever the row is
# asked for. If the changes keep the label, the network sees new photos for nothing: this is
# [augmentation](glossary.md#augmentation). In Keras these are layers such as `RandomFlip`; here they come from
# `torchvision.transforms.v2`.


# %%
class Faces(Dataset):
    def __init__(self, faces, task, transform=None):
        self.photos = torch.from_numpy(faces.images)
        self.targets = task.encode(faces.labels[task.name])
        self.transform = transform or torch.nn.Identity()

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, row):
        return self.transform(self.photos[row]), self.targets[row]


moved = v2.RandomAffine(degrees=10, translate=(0.08, 0.08), scale=(0.9, 1.1))
change = v2.Compose([v2.RandomHorizontalFlip(), moved, v2.ColorJitter(brightness=0.3, contrast=0.3)])
few = few_labels(pool, 64, seed=0).resized(budget.size)
plain, augmented = Faces(few, gender), Faces(few, gender, change)
pictures = torch.stack([data[row][0] for row in (0, 1) for data in (plain, *[augmented] * 5)])
plots.show(plots.image_grid(pictures), "Two faces, each first as it is and then five times changed by the transform.")

# %% [markdown]
# ### A DataLoader, and a loop with two rates, by hand
#
# A `DataLoader` shuffles the rows and stacks them to batches. A classifier is a backbone with a head; its parts have
# names, the **stages**, from the input to the output.
#
# Second rung: the stages `embedding` and `heads` learn, all before them are frozen. The head starts from random numbers
# and has far to go. The embedding layer starts from good ones. As long as the head is random, the gradient that reaches
# it through the head is random, too. So it gets a rate ten times lower.


# %%
def classifier(backbone, task, seed=0):
    torch.manual_seed(seed)
    return Classifier(backbone, Heads(backbone.embedding_dim, [task])).to(course.device)


def train(net, loader, rates, epochs, task=gender):
    net.freeze([stage for stage in net.stages if stage not in rates])
    groups = [{"params": net.stage_parameters(stage), "lr": rate} for stage, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=0)
    losses = []
    for _ in range(epochs):
        net.train()
        for photos, targets in loader:
            loss = F.cross_entropy(net(photos.to(course.device))[task.name], targets.to(course.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses


def batches(rows, task=gender, transform=None):
    return DataLoader(Faces(rows, task, transform), batch_size=16, shuffle=True, drop_last=True)


model = classifier(course.backbone(), gender)
losses = train(copy.deepcopy(model), batches(few), {"embedding": 1e-4, "heads": 1e-3}, epochs=6)

# %% [markdown]
# In facekit a [plan](glossary.md#plan) says which stages are trained when and how fast; `fit` is the loop, the same for
# every plan. The same plan, with the batches in another order:

# %%
from facekit.training.loop import TrainConfig, fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import PLANS, plan

steps = plan("last_layer", list(model.stages), epochs=6, lr=1e-3, factor=10, warmup=0, schedule="constant")
result = fit(copy.deepcopy(model), Supervised([gender]), few, None, steps, TrainConfig(batch_size=16, weight_decay=0))
lines = {"by hand": losses, "facekit": result.history["train_loss"]}
plots.show(figures.losses(lines, epochs=6), "Training loss over six epochs: both lines fall alike.")

# %% [markdown]
# ### Try it: which stage learns when?
#
# **Discriminative rates** train everything at once, each stage 2.6 times slower than the one above it: the first layers
# find edges and colours, which every task needs. Look also at `gradual`, which unfreezes one stage after another. Grey
# is frozen.

# %%
from facekit.show.widgets import explore


def rates_of(name, epochs):
    return figures.plan_rates(plan(name, list(model.stages), epochs=epochs, lr=1e-3).table(model), name)


explore(rates_of, name=PLANS[3:-1], epochs=[4, 6, 8], alt="Learning rate of every stage in every epoch of a plan.")

# %% [markdown]
# ### What does augmentation bring?
#
# The last block learns from 64 photos, which are taken as they are or changed anew in every epoch.


# %% tolerance=0.04
def accuracy(net, data, task=gender):
    return (task.predict(predict(net, data)[task.name]) == data.targets([task])[task.name]).double().mean().item()


def with_change(seed):
    rows, found = few_labels(pool, 64, seed).resized(budget.size), {}
    for name, transform in {"as they are": None, "changed": change}.items():
        net = classifier(course.backbone(), gender, seed)
        train(net, batches(rows, transform=transform), dict.fromkeys(list(net.stages)[-3:], 1e-3), 6)
        found[name] = accuracy(net, test)
    return found


with_spread(over_seeds(with_change, seeds=range(3)), 2)

# %% [markdown]
# Nothing that could be measured: the difference is smaller than its spread. The network overlooks such changes already
# (in lesson 03 a mirrored and darkened copy had a cosine of 0.97), and 64 faces that are changed are still 64 people.
# Elsewhere it may help; **measure it**, as here, before you rely on it.

# %% [markdown]
# ## Run it
#
# Now the ladder as **one controlled experiment**. Between two rungs nothing differs but what is trained, from which
# start, and how fast:
#
# - the same training photos and the same order of batches, for every rung of a seed;
# - the same number of steps, and no choice of the best epoch: the last one counts;
# - several seeds, each with other photos, another head and, from scratch, another start;
# - the same test photos, which nothing has learnt from.
#
# The learning rates were set once for each rung and are not tuned to these photos.

# %%
from facekit.experiments import LADDER, fine_tune_and_score

rungs = {way.name: way for way in LADDER}
trained = {}


def ladder(task, names, seed):
    rows = few_labels(pool, budget.photos, seed).resized(budget.size)
    found = {"chance": (test.labels[task.name] == rows.labels[task.name].mode()[0]).mean()}
    for name in names:
        net = course.backbone() if rungs[name].pretrained else course.scratch(seed)
        net, table = fine_tune_and_score(rungs[name], net, rows, test, [task], seed=seed, **course.how)
        trained[task.name, name], found[name] = net, table["value"][0]
    return found


five = ["frozen", "new last layer", "last block", "everything", "from scratch"]
measured = over_seeds(ladder, gender, five, seeds=budget.repeats)
plots.show(plots.bar_panels({"gender": measured}), "Accuracy of chance and five rungs, with one dot a seed.")

# %% [markdown]
# The number on a bar is the mean over the seeds, a dot is one seed. From **frozen** to **everything** a few points are
# gained, hardly more than the distance between two dots. But compare **everything** with **from scratch**: same parameters,
# same photos, same steps, another start. That difference is what transfer is worth here: about twenty points. Answers
# of **everything**, right and wrong:

# %%
said = np.array(gender.classes)[gender.predict(predict(trained["gender", "everything"], test)["gender"])]
plots.show(plots.right_and_wrong(test.images, test.labels["gender"], said), "Six right and six wrong answers.")

# %% [markdown]
# ### Layer re-use
#
# Another choice lies between: take over only the **first layers**, as they are, and begin those above anew. This is
# [layer re-use](glossary.md#layer-re-use). The first layers find edges and colours, which every task needs; the last ones
# serve what the source asked for. By hand:


# %%
stages = list(course.backbone().stages)


def reused(task, depth, seed):
    rows, net, known = few_labels(pool, budget.photos, seed), course.scratch(seed), course.backbone()
    for stage in stages[:depth]:
        for new, old in zip(net.stages[stage], known.stages[stage], strict=True):
            new.load_state_dict(old.state_dict())
    net = classifier(net, task, seed)
    rates = {stage: 3e-3 for stage in net.stages if stage not in stages[:depth]}
    train(net, batches(rows.resized(budget.size), task), rates, budget.epochs, task)
    return {f"first {depth} kept": accuracy(net, test, task)}


kept = over_seeds(reused, gender, 3, seeds=budget.repeats)
shown = pd.concat([measured["from scratch"], kept, measured["frozen"].rename("all, frozen")], axis=1)
plots.show(plots.bar_panels({"gender": shown}), "Accuracy with no stage, three and all stages taken over.")

# %% [markdown]
# Three stages, as they are, are worth as much as all of them, and what is above was free to learn something else.

# %% [markdown]
# ### When transfer loses
#
# Lesson 03 met a task in which pixels beat the embedding: skin tone, on drawn portraits (profile `laptop`; in profile
# `full` the task is race). Which bar will be the highest? `everything, fast` learns at the rate of `from scratch`.

# %%
rungs["everything, fast"] = replace(rungs["everything"], lr=rungs["from scratch"].lr)
lost = over_seeds(ladder, first, ["frozen", "everything", "everything, fast", "from scratch"], seeds=budget.repeats)
lost = pd.concat([lost, over_seeds(reused, first, 1, seeds=budget.repeats)], axis=1)
plots.show(plots.bar_panels({first.name.replace("_", " "): lost}), "Accuracy by what is taken over, one dot a seed.")

# %% [markdown]
# On drawn portraits **from scratch** beats **frozen** and **everything**, with no transfer at all. This is
# [negative transfer](glossary.md#negative-transfer). First suspect a mistake, the scale of the inputs or the learning
# rate. And indeed, at the rate of from scratch **everything** is level: a rate that protects what was learnt is too low
# where little of it is of use. What remains is that pretraining buys nothing here, and the reason is the source: FaceNet
# was taught to look past light, stage after stage (lesson 03). The first stage alone, which still sees it, costs nothing.
# On photos of real people race transfers, as you see next.

# %% [markdown]
# ## Look at the result
#
# ### The same ladder on real photos
#
# Recorded with FaceNet on photos of FairFace, which are much closer to what FaceNet has learnt from than a drawing is.
# One network learnt race, gender and age band together; each rung ran at the rate that had done best on validation
# photos. Two more rungs join: **discriminative rates**, and **probe, then all**, which gives the first half of its steps to
# the head alone.

# %%
from facekit.records import recorded

record = recorded("ladder_fairface")
race = record.rows.query("metric == 'accuracy' and task == 'race'").pivot(index="seed", columns="rung", values="value")
plots.show(plots.bar_panels({"race, recorded": race[[way.name for way in LADDER]]}), "Accuracy of seven rungs.")
print(record.caption())

# %%
scores = record.rows.query("metric in ['accuracy', 'recognition', 'cosine']")
scores.pivot_table("value", "rung", ["metric", "task"], sort=False).round(2)

# %% [markdown]
# - **Transfer.** **From scratch** is far below every other rung. Whether transfer helps is decided by source and target.
# - **How much may move.** The best rungs move gently: the last layer, the last block, or everything at discriminative
#   rates. They gain a few hundredths on **frozen**. **Everything** at one rate and **probe, then all** lose on race: more moves
#   than these labels can guide.
# - **Price.** `recognition` and `cosine` are explained next. The gentle rungs still recognise every photo.
#
# ### What is forgotten
#
# The network was made to recognise faces. Can it still? Four measurements:
#
# - **recognition**: each test photo is mirrored and darkened; how often is its embedding closest to that of its own
#   changed copy, among all copies?
# - **cosine** between the embeddings of a photo before and after fine-tuning;
# - a **new probe** for age, fitted to the new embeddings;
# - the **old probe** for age, fitted to the old embeddings, which now gets the new ones.

# %%
from facekit.experiments.forgetting import forgetting

original = course.backbone().to(course.device)
networks = {"before": original} | {name: trained["gender", name].backbone for name in five[1:]}
rows = few_labels(pool, budget.photos, budget.repeats[-1]).resized(budget.size)
memory = forgetting(original, networks, rows, test.select(range(150)), age)
plots.show(plots.bars_by_column(memory), "Before and after each rung: recognition, cosine, two probes for age.")

# %% [markdown]
# Between **before**, where nothing is lost, and **from scratch**, what is lost depends on how much moved and how fast. The
# old probe suffers first: a cosine below 1 means that old embeddings and new ones cannot be compared. Whoever has stored
# embeddings, or classifiers made for them, has to make them again after fine-tuning, or keep a copy of the old network.

# %% [markdown]
# ### When the network is too big: distillation
#
# What if a network must become smaller, for a phone? Then its **knowledge** can move into a network of another shape. The
# small one, the **student**, looks at photos and learns to answer what the large one, the **teacher**, answers:
# [distillation](glossary.md#distillation) (Hinton et al. 2015). With embeddings for answers it is one line, and no label
# occurs in it:
#
# ```python
# loss = 1 - F.cosine_similarity(student(view), teacher(view)).mean()
# ```
#
# facenet-mini was made in this way by `python -m facekit distill`. Recorded on photos that none
# of the networks has learnt from:

# %%
record = recorded("mini_fairface")
fig = plots.learning_curve_panels(dict(list(record.rows.groupby("network", sort=False))))
plots.show(fig, "Accuracy over labels by task: teacher, student, the teacher's probe on the student, and from scratch.")
print(record.caption())

# %% [markdown]
# For gender and age the student is about level with its teacher, for race some points below, and everywhere far above the
# same network that learnt from labels alone. **FaceNet's classifier on facenet-mini** was fitted to embeddings of the
# teacher and is handed those of the student. It works, because the student has learnt to speak the teacher's language,
# number for number.

# %% [markdown]
# ## What goes wrong
#
# ### Frozen is not frozen
#
# Below, every weight of a network is frozen, and there is no optimiser at all. Photos go through it in training mode, as
# they do when a head learns on it. And yet the network changes.

# %% tags=["broken-on-purpose"] tolerance=0.02
leaky = course.backbone().to(course.device).requires_grad_(False)
photos, old = torch.from_numpy(few.images).to(course.device), copy.deepcopy(leaky.state_dict())
for _ in range(12):
    leaky.train()(photos)
changed = [name for name, value in leaky.state_dict().items() if not torch.equal(value, old[name])]
print("what changed:", ", ".join(sorted({name.rpartition(".")[2] for name in changed})))
with torch.inference_mode():
    cosine = (leaky.eval()(photos) * original(photos)).sum(1).mean().item()
print(f"mean cosine between the embeddings of a photo before and after: {cosine:.2f}")

# %% [markdown]
# These are the **running statistics** of [BatchNorm](glossary.md#BatchNorm). In training mode it normalises with the mean
# and variance of the batch, and moves its stored ones a tenth of the way towards them. In evaluation mode it uses the
# stored ones. No gradient reaches them, no optimiser changes them; each forward pass in training mode does. A head that
# learns meanwhile has learnt on other embeddings than those that it is used on.
#
# `freeze` of facekit's networks means frozen: no gradients, and the stage stays in evaluation mode, whatever `train()`
# says. A leak is not always harmful: statistics of new photos can fit better, and a method named
# [AdaBN](glossary.md#AdaBN) does nothing else. The harm is in not knowing.
#
# ### Trained on one photo
#
# For the same reason a network with BatchNorm cannot be trained on a batch of one: the variance of one number is not
# defined. A last, incomplete batch does this at the end of the first epoch; `drop_last=True` leaves it out.

# %% tags=["raises-exception"]
course.backbone().to(course.device).train()(photos[:1])

# %% [markdown]
# ### Too fast
#
# **Everything** again, at its own rate and at 0.1. What do you expect of the training loss?


# %% tags=["broken-on-purpose"]
lines = {}
for lr in (1e-3, 0.1):
    net = classifier(course.backbone(), gender)
    lines[f"rate {lr:g}"] = train(net, batches(rows), dict.fromkeys(net.stages, lr), budget.epochs)
plots.show(figures.losses(lines, budget.epochs, np.log(2)), "Training loss at two rates; dotted: the loss of guessing.")

# %% [markdown]
# The first steps have overwritten what the network knew: what goes on is training from scratch from a bad start. The
# dotted line is ln 2, the loss of guessing among two classes. **A training loss above ln K after the first epoch is the
# mark of a rate that is too high.**

# %% [markdown]
# ## Exercises
#
# ### 04.1 A transform of your own
#
# `covered(photo)` takes a photo uint8 (3, H, W) and returns a **copy** in which one square is grey (128). Its side is a
# quarter of the height; its place is random and wholly inside the photo. `torch.randint(n, ()).item()` is a random whole
# number from 0 to n − 1.


# %% tags=["solution"]
def covered(photo):
    # TODO: a copy, a side, a random row and column
    # <solution>
    photo, side = photo.clone(), photo.shape[1] // 4
    top, left = (torch.randint(size - side + 1, ()).item() for size in photo.shape[1:])
    photo[:, top : top + side, left : left + side] = 128
    return photo
    # </solution>


# %%
exercise("04.1").check(covered)
# exercise("04.1").hint()

# %% [markdown]
# ### 04.2 Discriminative learning rates
#
# `stages` are names from the input to the output. The last one learns at `lr`, each other one `factor` times slower
# than the one above it. The answer is a dictionary of name to rate.


# %% tags=["solution"]
def rates(stages, lr, factor):
    # TODO: divide by the factor once more for every step down
    # <solution>
    return {stage: lr / factor**depth for depth, stage in enumerate(reversed(stages))}
    # </solution>


# %%
exercise("04.2").check(rates)
# exercise("04.2").hint()

# %% [markdown]
# ### 04.3 A loop without a leak
#
# Write a loop that trains a head on a frozen backbone so that nothing in the backbone changes: no weight, no statistic;
# no dropout in its features; and no gradients that nobody needs. The head must learn.


# %% tags=["solution"]
def train_head_only(backbone, head, photos, targets, steps=3):
    # TODO: the loop of `train`, for the head alone; SGD at a rate of 0.1, all photos in every step
    # <solution>
    backbone.requires_grad_(False)
    backbone.eval()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(steps):
        head.train()
        loss = F.cross_entropy(head(backbone(photos)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # </solution>


# %%
exercise("04.3").check(train_head_only)
# exercise("04.3").hint()

# %% [markdown]
# ### 04.4 Your own experiment
#
# Change one thing in the training of gender, and answer with a table of `over_seeds`: at least three seeds, a column
# `last block` (the baseline) and a way of your own beside it. Ideas: your `covered` as a transform; first the head, then
# all; a lower rate for the block; the first 4 stages re-used; twice the epochs with half the photos.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone, with as many steps · looks
# at the `validation` split, not at `test` · gives the spread beside the mean · says what you saw, even if it is nothing.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "last block"
# <solution>
# Expected: little. A covered face is harder, but 64 photos stay 64 people.
held_out = faces.split("validation").resized(budget.size)


def covering(seed):
    rows, found = few_labels(pool, 64, seed).resized(budget.size), {}
    for name, transform in {"last block": None, "covered": covered}.items():
        net = classifier(course.backbone(), gender, seed)
        train(net, batches(rows, transform=transform), dict.fromkeys(list(net.stages)[-3:], 1e-3), 4)
        found[name] = accuracy(net, held_out)
    return found


experiment = over_seeds(covering, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.06
exercise("04.4").check(experiment)
# exercise("04.4").hint()

# %% [markdown] tags=["solution-only"]
# As expected: the difference is smaller than its spread. 150 validation faces could not show a smaller one either.

# %% [markdown]
# ## Quiz

# %%
quiz("04").show()

# %% [markdown]
# ## Recap
#
# - The ladder: frozen, last layer, last block, everything, from scratch. Each rung is a choice of what moves, from where
#   and how fast; compare rungs on the same photos and steps, over several seeds, and let the lowest win when it wins.
# - Pretrained layers learn slower than a new head: parameter groups by hand, a plan in facekit.
# - BatchNorm's statistics move in training mode, whatever `requires_grad` says. Freeze the mode, too.
# - Fine-tuning protects nothing. Measure the old task after it, and do not mix old and new embeddings.

# %% [markdown]
# ## References
#
# - Yosinski, Clune, Bengio, Lipson: [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), NeurIPS 2014
# - Kornblith, Shlens, Le: [Do better ImageNet models transfer better?](https://arxiv.org/abs/1805.08974), CVPR 2019
# - Howard, Ruder: [Universal Language Model Fine-tuning for Text Classification](https://arxiv.org/abs/1801.06146), ACL 2018 (gradual unfreezing, discriminative rates)
# - Kumar, Raghunathan, Jones, Ma, Liang: [Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution](https://arxiv.org/abs/2202.10054), ICLR 2022 (probe, then all)
# - Ioffe, Szegedy: [Batch Normalization](https://arxiv.org/abs/1502.03167), ICML 2015
# - Li, Wang, Shi, Liu, Hou: [Revisiting Batch Normalization For Practical Domain Adaptation](https://arxiv.org/abs/1603.04779), 2016 (AdaBN)
# - Kirkpatrick et al.: [Overcoming catastrophic forgetting in neural networks](https://arxiv.org/abs/1612.00796), PNAS 2017
# - Hinton, Vinyals, Dean: [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), 2015
# - Beyer et al.: [Knowledge distillation: a good teacher is patient and consistent](https://arxiv.org/abs/2106.05237), CVPR 2022
# - Chen et al.: [Knowledge Distillation with the Reused Teacher Classifier](https://arxiv.org/abs/2203.14001), CVPR 2022
