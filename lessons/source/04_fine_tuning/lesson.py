# %% [markdown]
# # 04 · Fine-tuning
#
# A frozen network can only give what it has. Here you let it move: how much of it, how fast, and at what price, as one
# controlled experiment from the frozen network to the same network without any transfer.

# %% [markdown]
# ## What you will be able to do
#
# - name the rungs of the transfer ladder and say what is trained on each
# - write a fine-tuning loop with two learning rates, and say the same as a plan
# - compare rungs fairly: same photos, same number of steps, several seeds
# - freeze a layer so that it stays as it is, BatchNorm included
# - measure what a network forgets, and recognise a learning rate that is too high

# %% [markdown]
# ## What you need
#
# Embeddings, the probe and its baselines from [lesson 03](03_feature_extraction.ipynb); loss, gradient and optimiser
# from [lesson 00](00_start_here.ipynb).

# %% [markdown]
# ## The idea
#
# ![Five copies of one network side by side. From left to right more is trained: only the new head; the last layer too; the last block too; everything; everything from random weights](figure.svg)
#
# The probe of lesson 03 stands on the lowest rung of a **ladder**: the network is frozen, only the new **head** learns.
# One rung up, the network's own **last layer** learns along, the one that makes the embedding. Then the **last block**
# of convolutions, then **everything**. To train pretrained layers further is to **fine-tune** them. The last rung uses
# nothing of what was learnt before: the same network **from scratch**, with random weights. It is the baseline that
# shows what transfer is worth.

# %% [markdown]
# Why not always train everything? Three reasons speak against it, and each is measured below: it costs time, it has
# millions of numbers to fit to a few labels, and what the network could do before is not protected. One reason speaks
# for it: if the features lack what your task needs, no head can find it in them.
#
# In Keras terms: `base.trainable = False` is the first rung. `for layer in base.layers[-20:]: layer.trainable = True`,
# and then `compile` again with a small learning rate, is the third. PyTorch does not have one learning rate for all: an
# optimiser takes **parameter groups**, each with its own.

# %% [markdown]
# ## Build it

# %%
import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import exercise, lesson, quiz, start
from facekit.experiments import few_labels
from facekit.models.heads import Classifier, Heads, parameter_counts
from facekit.show import plots

course, figures = start("04"), lesson("04").figures
task, budget, faces = course.tasks[0], course.budget, course.faces()
pool, test = faces.split("train"), faces.split("test").select(range(budget.test)).resized(budget.size)
print(f"{task.name}, {len(task.classes)} classes: {budget.photos} photos to learn from, {len(test)} to test on")

# %%
shown = few_labels(pool, 12, seed=0)
plots.show(plots.image_grid(shown.images, [*shown.labels[task.name]]), f"Twelve training faces with their {task.name}.")

# %% [markdown]
# ### Stages
#
# A classifier is a backbone with a head. Its **stages** are named from the input to the output, so that a rung can be
# said as a list of names. Most of the numbers do not sit where most of the stages are:

# %%
torch.manual_seed(0)
model = Classifier(course.backbone(), Heads(course.backbone().embedding_dim, [task]))
parameter_counts(model)[["parameters"]]

# %% [markdown]
# ### One fine-tuning loop by hand
#
# Second rung: the stages `embedding` and `heads` learn, everything before them is frozen. The head starts from random
# numbers and has far to go. The embedding layer starts from good ones, and as long as the head is random, the gradient
# that reaches it through the head is random, too. So it gets a rate ten times lower: two parameter groups.

# %%
from facekit.training.batches import seed_for

few = few_labels(pool, 64, seed=0).resized(budget.size)
photos = torch.from_numpy(few.images).to(course.device)
targets = task.encode(few.labels[task.name]).to(course.device)

by_hand = copy.deepcopy(model).to(course.device)
by_hand.freeze([stage for stage in by_hand.stages if stage not in ("embedding", "heads")])
last_layer = [p for module in by_hand.stages["embedding"] for p in module.parameters()]
groups = [{"params": last_layer, "lr": 1e-4}, {"params": by_hand.heads.parameters(), "lr": 1e-3}]
optimiser = torch.optim.AdamW(groups, weight_decay=0)
for epoch in range(3):
    by_hand.train()
    torch.manual_seed(seed_for(0, epoch, 0, 1))  # for dropout, where the network has some
    order = np.random.default_rng([0, epoch]).permutation(len(photos))
    for begin in range(0, len(order), 16):
        rows = order[begin : begin + 16]
        loss = F.cross_entropy(by_hand(photos[rows])[task.name], targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# `by_hand.freeze(…)` does more than `requires_grad = False`. What more, and why, is the first thing that goes wrong
# below.
#
# In facekit a **plan** says which stages are trained when and how fast; `fit` is the loop, the same for every plan.

# %%
from torch.nn.utils import parameters_to_vector

from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Supervised
from facekit.training.plans import PLANS, Phase, Plan, plan

two_rates = Phase("two rates", 3, {"embedding": 1e-4, "heads": 1e-3}, warmup=0, schedule="constant")
from_facekit = copy.deepcopy(model)
config = TrainConfig(batch_size=16, weight_decay=0)
fit(from_facekit, Supervised([task]), few, None, Plan("as by hand", (two_rates,)), config)

begun, hand, loop = (parameters_to_vector(net.cpu().parameters()) for net in (model, by_hand, from_facekit))
apart = ((loop - hand).norm() / (loop - begun).norm()).item()
print("by hand and facekit end in the same weights:", apart < 0.02)  # of the way that both went

# %% [markdown]
# ### Plans are data
#
# A plan can be read before anything is trained. **Discriminative learning rates** train everything at once, but each
# stage 2.6 times slower than the one above it: early layers find edges and colours, which every task needs, and need
# little change.

# %%
plan("discriminative", list(model.stages), epochs=4, lr=1e-3).table(model)

# %% [markdown]
# ### Try it: which stage learns when?
#
# Look at `gradual`, which unfreezes one stage after another, at `probe_then_fine_tune`, and at what becomes of them
# with fewer epochs. Grey is frozen.

# %%
from facekit.show.widgets import explore

explore(
    lambda name, epochs: figures.plan_rates(plan(name, list(model.stages), epochs=epochs, lr=1e-3).table(model), name),
    name=[name for name in PLANS if name != "scratch"],
    epochs=[4, 6, 8],
    alt=lambda name, epochs: f"Learning rate of every stage in each of {epochs} epochs of the plan {name}.",
    settings=[{"name": "gradual"}, {"name": "probe_then_fine_tune"}],
)

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
from facekit.experiments import LADDER, chance, fine_tune, fine_tune_and_score, scores

pd.DataFrame(LADDER)[["name", "plan", "lr", "pretrained"]]

# %% [markdown]
# Three rungs train everything. *Discriminative rates* you have seen. *Probe, then all* gives the first half of its steps
# to the head alone, so that no random head can spoil the layers below, and then trains all at a low rate. *Everything*
# does it at once, at one rate.

# %%
trained, tables = {}, {}
for seed in budget.repeats:
    rows = few_labels(pool, budget.photos, seed).resized(budget.size)
    for way in LADDER:
        net = course.backbone() if way.pretrained else course.scratch(seed)
        net, table = fine_tune_and_score(way, net, rows, test, [task], seed=seed, **course.how)
        trained[way.name], tables[way.name, seed] = net, table
ladder = pd.concat(tables.values()).query("metric == 'accuracy'")
guess = chance(rows, test, [task]).set_index("metric")["value"]["accuracy"]
print(f"{ladder['steps'].unique()} steps a rung; always the most frequent class scores {guess:.1f}")


# %%
def rungs(measured, title, alt):
    fig, axis = plots.figure(size=(9.6, 3.8))
    plots.bars_with_spread(axis, {name: part["value"] for name, part in measured.groupby("rung", sort=False)})
    axis.set(title=title, ylabel="accuracy")
    plots.show(fig, alt)


rungs(ladder, f"{task.name}, here", "Accuracy of every rung on the test photos, with one dot a seed.")
means = ladder.groupby("rung", sort=False)[["value", "moved", "seconds"]].mean().rename(columns={"value": "accuracy"})
print("every rung is better than guessing by more than 0.05:", bool((means["accuracy"] - guess > 0.05).all()))

# %% [markdown]
# The number on a bar is the mean over the seeds, a dot is one seed. Read the figure from left to right. From *frozen* to
# *last block* only what may move changes, and the rate that suits it: if the bars rise, the features of the frozen network lacked
# something that the task needs, and the layers above them could be taught to bring it out. Then compare *everything*
# with *from scratch*: same parameters, same steps, another start. That difference is what transfer is worth for this
# task, and it can be negative. A difference that is not clearly larger than the distance between two dots of one bar is
# no difference.

# %% [markdown]
# ## Look at the result
#
# ### What it costs
#
# The height of a rung is only half of the comparison. Here are the same networks over what they cost: parameters that
# moved, and seconds of training on this machine.

# %%
fig = plots.trade_offs(means, "accuracy", {"moved": "parameters that moved", "seconds": "seconds of training"})
plots.show(fig, "Accuracy over the parameters that moved and over the seconds of training, one point a rung.")

# %% [markdown]
# `fit` sends every photo through the network in every epoch, also on the lowest rung, so that the times can be compared.
# In practice a frozen network embeds each photo once (lesson 03), and the lowest rung costs next to nothing.
#
# ### The same ladder on real photos
#
# What pretraining is worth depends on how well source and target fit. Here is the ladder as it was recorded with FaceNet
# on photos of FairFace, which are much closer to what FaceNet has learnt from than a drawing is. One network learnt race,
# gender and age band together, and each rung ran at the rate that had done best on validation photos.

# %%
from facekit.records import recorded

record = recorded("ladder_fairface")
race = record.rows.query("metric == 'accuracy' and task == 'race'")
rungs(race, "race, recorded", "Accuracy for race of every rung, recorded on real photos, with one dot a seed.")
print(record.caption())

# %%
measured = record.rows.query("metric in ['accuracy', 'recognition', 'cosine']")
measured.pivot_table("value", "rung", ["metric", "task"], ["mean", "std"], sort=False).round(2)

# %% [markdown]
# `std` is the spread over the seeds. Three findings, for this number of photos and steps:
#
# - **Transfer.** *From scratch* is far below every other rung. If it won in your own ladder above, as it does on drawn
#   portraits, put the two figures side by side: whether transfer helps is decided by source and target, not by the rung.
# - **How much may move.** The best rungs for race, gender and age are among those that move gently: the last layer, the
#   last block, or everything at discriminative rates. They gain a few hundredths on *frozen*. *Everything* at one rate and
#   *probe, then all* lose on race: more moves than these labels can guide.
# - **Forgetting.** *Recognition* and *cosine* are explained next. The gentle rungs still recognise every photo.
#
# ### What is forgotten
#
# The network was made to recognise faces. Can the networks above still do that? Four measurements:
#
# - **recognition**: each test photo is mirrored and darkened; how often is its embedding closest to that of its own
#   changed copy, among the copies of all test photos?
# - **cosine** between the embeddings of a photo before and after fine-tuning;
# - a **new probe** for another task, fitted to the new embeddings;
# - the **old probe** for that task, fitted to the old embeddings, which now gets the new ones.

# %%
from facekit.experiments.forgetting import forgetting

original, other = course.backbone().to(course.device), course.tasks[1]
networks = {"before": original} | {name: net.backbone for name, net in trained.items()}
kept = forgetting(original, networks, rows, test.select(range(150)), other)
plots.show(plots.bars_by_column(kept), f"Before and after each rung: recognition, cosine, two probes for {other.name}.")
print("everything recognises worse than before:", bool(kept.recognition["everything"] < kept.recognition["before"]))

# %% [markdown]
# On *frozen* nothing is lost, by construction; *from scratch* shows how much of it the new task alone would teach. Between
# them, what is lost depends on how much moved and how fast. Read the probes against *before*: a task that the embeddings
# hardly told before has little to lose. A cosine below 1 alone means that old embeddings and new ones cannot be compared.
# Whoever has stored embeddings, or classifiers made for them, has to make them again after fine-tuning, or keep a copy
# of the old network.

# %% [markdown]
# ### When the network is too big: distillation
#
# Fine-tuning keeps the network and its size. What if it must become smaller, for a phone, or for a laptop without a GPU?
# Its *knowledge* can still move into a network of another shape, which no `state_dict` can. The small network, the
# **student**, looks at photos and learns to answer what the large one, the **teacher**, answers. This is **distillation**
# (Hinton et al. 2015), and with embeddings for answers it is one line:
#
# ```python
# loss = 1 - F.cosine_similarity(student(view), teacher(view)).mean()
# ```
#
# No label occurs in it, so any picture will do: photos, drawings, even blends of two pictures. What makes it work is
# patience, and that both look at the same view of the photo (Beyer et al. 2022). facenet-mini was made in this way by
# `python -m facekit distill`: FaceNet taught it, on FairFace's photos. Most of an embedding says *who* somebody is, and
# race, gender and age are a few directions of 512, easily lost in a mean over all; so in its last epochs a second term
# asked it to give FaceNet's linear classifiers the same answers as FaceNet does (Chen et al. 2022). Was it worth it? The
# same small network without a teacher is what there would be otherwise. All three, recorded on photos that none has
# learnt from:

# %%
record = recorded("mini_fairface")
fig = plots.learning_curve_panels(dict(list(record.rows.groupby("network", sort=False))))
plots.show(fig, "Accuracy over labels by task: teacher, student, the teacher's probe on the student, and from scratch.")
print(record.caption())

# %% [markdown]
# For gender and age the student is about level with its teacher, for race some points below, and everywhere far above the
# same network that learnt from labels alone. (How much faster it is stands in its
# [model card](../facekit/models/facenet_mini.md).) One line deserves a second look: *FaceNet's classifier on facenet-mini*
# was fitted to embeddings of the teacher and is handed those of the student. It works because the student has learnt to
# speak the teacher's language, number for number; after fine-tuning, as you saw above, it would not.

# %% [markdown]
# ## What goes wrong
#
# ### Frozen is not frozen
#
# The loop below trains a head on a frozen network. `requires_grad_(False)` freezes the weights, the optimiser only knows
# the head, and yet the network changes.


# %% tags=["broken-on-purpose"]
def train_head(backbone, head, photos, targets, steps=12):
    backbone.requires_grad_(False)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(steps):
        backbone.train()
        head.train()
        loss = F.cross_entropy(head(backbone(photos)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


leaky = course.backbone().to(course.device)
old = copy.deepcopy(leaky.state_dict())
train_head(leaky, torch.nn.Linear(leaky.embedding_dim, len(task.classes)).to(course.device), photos, targets)
changed = [name for name, value in leaky.state_dict().items() if not torch.equal(value, old[name])]
print("weights that changed:", len(set(changed) & {name for name, _ in leaky.named_parameters()}))
print("what else changed:", sorted({name.rpartition(".")[2] for name in changed}))

# %% [markdown]
# These are the **running statistics of BatchNorm**. In training mode BatchNorm normalises with the mean and variance of
# the batch, and moves its stored ones a tenth of the way towards them. In evaluation mode it uses the stored ones. They
# are no parameters: no gradient reaches them, no optimiser changes them. Each forward pass in training mode does.
#
# How far? Here is the mean that the last BatchNorm of the network has stored, before and after twelve steps, in units of
# the standard deviation that it had stored; and what it does to the embeddings, in evaluation mode.

# %%
last = [name for name in changed if name.endswith("running_mean")][-1]
drift = (leaky.state_dict()[last] - old[last]).abs() / old[last.replace("mean", "var")].sqrt()
print(f"{last} moved by {drift.mean():.1f} standard deviations")
with torch.inference_mode():
    cosine = (leaky.eval()(photos) * original(photos)).sum(1).mean().item()
print("mean cosine between embeddings before and after is below 0.95:", cosine < 0.95)

# %% [markdown]
# The head of the first step has learnt on other embeddings than those that it is used on. `freeze` of facekit's networks
# means frozen: no gradients, and the stage stays in evaluation mode, BatchNorm and dropout, whatever `train()` says.

# %%
from facekit.models.embedding import state_hash

still = course.backbone().to(course.device)
still.freeze()
still.train()(photos)
print("unchanged by a pass in training mode:", state_hash(still) == state_hash(original))

# %% [markdown]
# Is the leak always harmful? No: when the new photos look different from those the network was trained on, statistics
# of the new photos can fit better, and there is a method that does nothing else (AdaBN). The harm is in not knowing.
# Decide: frozen, or trained in its own right.
#
# ### Trained on one photo
#
# For the same reason a network with BatchNorm cannot be trained on a batch of one: the variance of one number is not
# defined. A last, incomplete batch does this at the end of the first epoch.

# %% tags=["raises-exception"]
course.backbone().to(course.device).train()(photos[:1])

# %% [markdown]
# ### Too fast
#
# *Everything* again, at three rates: its own, that of *from scratch*, and 0.1. What do you expect of the training loss?

# %% tags=["broken-on-purpose"]
rung = {each.name: each for each in LADDER}
losses = {}
for lr in sorted({rung["everything"].lr, rung["from scratch"].lr, 0.1}):
    faster = replace(rung["everything"], lr=lr)
    net, result = fine_tune(faster, course.backbone(), rows, [task], seed=seed, **course.how)
    found = scores(net, test, [task]).set_index("metric")["value"]["accuracy"]
    losses[f"rate {lr:g}, test accuracy {found:.2f}"] = result.history["train_loss"]
fig, axis = plots.figure()
plots.lines_with_spread(axis, range(1, budget.epochs + 1), losses, log_x=False)
axis.axhline(np.log(len(task.classes)), color="black", linestyle=":", marker="")
axis.set(xlabel="epoch", ylabel="training loss", yscale="log", xticks=range(1, budget.epochs + 1))
plots.show(fig, "Training loss over the epochs at three rates, and a dotted line at the loss of guessing.")
print("highest loss at the end:", max(losses, key=lambda name: losses[name].iloc[-1]).partition(",")[0])

# %% [markdown]
# A loss that is not finite would have stopped `fit` with the step and the rows. This one is finite, and yet the first
# steps have overwritten what the network knew: what goes on is training from scratch from a bad start. The dotted line
# is ln K, the loss of guessing among K classes. **A training loss above it after the first epoch is the mark of a rate
# that is too high.** What it costs on the test photos (in the legend) depends on what there was to lose: where the
# pretrained start is worth little, overwriting it costs little. Do not take that for a sign of a good rate.
#
# ### Negative transfer
#
# When a pretrained network does worse than the same network from scratch, at equal budget and beyond the spread, that is
# **negative transfer**. Is there a rung below *from scratch* in your ladder, or in the recorded one? First suspect a
# mistake: the scale of the inputs, or the learning rate. In the last figure *everything* also ran at the rate of *from
# scratch*: how much of the gap does that close? On drawn portraits it closes it, for the one seed that was tried: a rate
# that protects what was learnt is too low where little of it is of use. What remains is that pretraining buys little
# there. A network that knows people again in any light has learnt to look past the colour of a face, and skin tone is
# just that.

# %% [markdown]
# ## Exercises
#
# ### 04.1 How much moves?
#
# FaceNet has these parameters, with a head for 7 classes: stem 615,552, repeat_1 387,200, mixed_6a 1,710,080,
# repeat_2 6,900,480, mixed_7a 3,346,176, repeat_3 9,604,608, embedding 918,528, heads 3,591. How many does the plan
# `last_block` train?

# %% tags=["solution"]
# TODO: add up the stages that the plan trains
# <solution>
numbers_that_move = 9_604_608 + 918_528 + 3_591
# <todo>
# numbers_that_move = ...
# </solution>

# %%
exercise("04.1").check(numbers_that_move)
# exercise("04.1").hint()

# %% [markdown]
# ### 04.2 Discriminative learning rates
#
# `stages` are names from the input to the output. The last one learns at `lr`, each other one `factor` times slower
# than the one above it.


# %% tags=["solution"]
def rates(stages, lr, factor):
    """List of names to a dict of name to learning rate."""
    # TODO: divide by the factor once more for every step down
    # <solution>
    return {stage: lr / factor**depth for depth, stage in enumerate(reversed(stages))}
    # </solution>


# %%
exercise("04.2").check(rates)
# exercise("04.2").hint()

# %% [markdown]
# ### 04.3 Mend the leak
#
# Write the loop of *Frozen is not frozen* again, so that nothing in the backbone changes: no weight, no statistic; no
# dropout in its features; and no gradients that nobody needs. The head must still learn.


# %% tags=["solution"]
def train_head_only(backbone, head, photos, targets, steps=3):
    """Trains the head alone; nothing in the backbone may change."""
    # TODO: copy the loop from above and mend it
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
# - A training loss that stays above ln K means that the rate is too high.
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
