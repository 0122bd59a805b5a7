# %% [markdown]
# # 03 · Feature extraction
#
# A network that has seen millions of faces describes a new one in 512 numbers. You keep the network as it is and learn
# only what stands on those numbers: a classifier that needs seconds and few labels.
#
# **Minutes on a laptop:** 25 to read and run, 20 for the exercises.

# %% [markdown]
# ## What you will be able to do
#
# - turn photos into embeddings with a frozen network, and say what an embedding is
# - fit a probe on them by hand and with facekit, and compare it with the baselines that it has to beat
# - read a confusion matrix, a balanced accuracy and an interval
# - say how much more labels would help, from a learning curve
# - notice three mistakes that make such results wrong without any error message

# %% [markdown]
# ## What you need
#
# The words *source*, *target* and *classifier learning* from [lesson 01](01_what_transfer_learning_is.ipynb), and what
# a tensor is, from [lesson 00](00_start_here.ipynb).

# %% [markdown]
# ## The idea
#
# ![A photo goes through a frozen backbone and becomes an embedding of 512 numbers of length 1; only the small classifier behind it is trained](figures/03_probe.svg)
#
# A network for face recognition was trained to bring photos of one person close together and photos of different
# persons apart. To do that it had to find what distinguishes faces. **Feature extraction** uses this knowledge without
# touching it: the network is **frozen**, each photo goes through it once, and its output, the **embedding**, replaces
# the photo. On the embeddings you fit a small classifier, the **probe**.
#
# In Keras terms: `base.trainable = False`, `features = base.predict(photos)`, and then a `Dense(n_classes)` on the
# features. Because the features never change you compute them once; what is left is ordinary logistic regression.

# %% [markdown]
# The person behind this course had to classify *race* first, then gender and age. So does this lesson. One word before:
# the labels say how annotators **perceived** a face. Race and gender are not facts that a photo contains, and a
# classifier that reproduces these labels well has learnt to agree with annotators, no more. Drawn portraits have a
# skin tone (the ten steps of the Monk scale), never a race.

# %% [markdown]
# ## Build it
#
# `start` gives you the data and the network of your profile and prints what they are.

# %%
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit import plots
from facekit.course import start
from facekit.lessons.exercises import exercise
from facekit.lessons.quiz import quiz

course = start("03")
faces = course.faces()
backbone = course.backbone()
task = course.tasks[0]
print(f"{len(faces):,} faces; first task: {task.name}, {len(task.classes)} classes")

# %%
shown = faces.split("train").select(range(12))
captions = [f"{task.name}\n{label}" for label in shown.labels[task.name]]
plots.show(
    plots.image_grid(shown.images, captions),
    alt=f"Twelve faces of the training part, each with its {task.name} label below it.",
)

# %% [markdown]
# ### From photos to embeddings
#
# Three things must hold when you use a network without training it. It is in **evaluation mode** (dropout off,
# BatchNorm uses its stored statistics). Nothing is recorded for gradients (`inference_mode`). And the pixels arrive in
# the range it was trained on: facekit's backbones take the pixels as they are, `uint8` from 0 to 255, and scale inside.

# %%
backbone.eval()
with torch.inference_mode():
    photos = torch.from_numpy(np.ascontiguousarray(shown.images))
    embeddings = backbone(photos)
print("photos    ", tuple(photos.shape), photos.dtype)
print("embeddings", tuple(embeddings.shape), embeddings.dtype)
print("all of length 1:", bool(torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)), atol=1e-5)))

# %% [markdown]
# ### What is close to what?
#
# Embeddings have length 1, so that their dot product is the **cosine** of the angle between them: 1 for the same
# direction, 0 for nothing in common. A useful embedding hardly moves when the picture changes and the face does not.
# Here is the test: the same photos mirrored and darkened, against photos of others.

# %%
probe_photos = faces.split("test").select(range(100)).images
changed = np.ascontiguousarray(probe_photos[..., ::-1] * 0.7).astype(np.uint8)
with torch.inference_mode():
    one = backbone(torch.from_numpy(np.ascontiguousarray(probe_photos)))
    two = backbone(torch.from_numpy(changed))
cosines = (one @ two.T).numpy()
same = np.diag(cosines)
other = cosines[~np.eye(len(cosines), dtype=bool)]
print("same photo, mirrored and darkened, is closer than the typical other one:", bool(same.mean() > np.median(other)))
print("it is the closest of all in at least half the cases:", bool((cosines.argmax(1) == np.arange(100)).mean() >= 0.5))

# %%
fig, axis = plots.figure()
bins = np.linspace(-0.5, 1, 46)
axis.hist(other, bins, density=True, color=plots.COLORS[0], alpha=0.7, label="another photo")
axis.hist(same, bins, density=True, color=plots.COLORS[1], alpha=0.7, label="same photo, mirrored and darker")
axis.set(xlabel="cosine", ylabel="density")
axis.legend()
plots.show(fig, alt="Two histograms of cosines: changed copies of a photo lie near 1, other photos further left.")

# %% [markdown]
# ### The probe by hand
#
# Now all photos at once: `embed` does the same as the cell above, batch by batch, and keeps the result on disk.
#
# The probe is **softmax regression**: one linear layer, cross-entropy, and a penalty on the size of the weights that
# keeps it calm when there are more weights than labels. The problem is convex: there is one best answer, whatever the
# starting point, and L-BFGS walks to it. There is nothing to tune and nothing to stop early.

# %%
from facekit.models.embedding import embed

embedded = embed(backbone, faces)
train, test = embedded.split("train"), embedded.split("test")
y_train, y_test = task.encode(train.labels[task.name]), task.encode(test.labels[task.name])

x = torch.from_numpy(np.array(train.features)).double() * math.sqrt(train.features.shape[1])
weight = torch.zeros(len(task.classes), x.shape[1], dtype=x.dtype, requires_grad=True)
bias = torch.zeros(len(task.classes), dtype=x.dtype, requires_grad=True)
optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")


def closure():
    optimiser.zero_grad()
    penalty = 100 / (2 * len(x)) * weight.square().sum()
    loss = F.cross_entropy(x @ weight.T + bias, y_train) + penalty
    loss.backward()
    return loss


optimiser.step(closure)
x_test = torch.from_numpy(np.array(test.features)).double() * math.sqrt(x.shape[1])
by_hand = (x_test @ weight.T + bias).detach().argmax(1)

# %% [markdown]
# The embeddings are multiplied by √512 first. Numbers in a vector of length 1 are about 1/√512 ≈ 0.04 in size; a
# penalty, an initialisation or a learning rate made for numbers around 1 does not fit them. Below you see what
# happens if you forget.
#
# `linear_probe` is the same thing for any number of tasks, and for labels that are partly missing.

# %%
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe

probe = linear_probe(train, [task])
from_facekit = task.predict(predict(probe, test)[task.name])
agreement = (from_facekit == by_hand).float().mean().item()
assert agreement > 0.98
print("by hand and facekit predict the same class:", agreement > 0.98)

# %% [markdown]
# ## Run it
#
# A number alone says nothing. Two baselines: **chance**, which always answers the most frequent class, and the **same
# probe on raw pixels**, which shows what the embedding adds. Everything learns from the same photos.

# %%
from dataclasses import replace

from facekit.data.sets import FeatureSet
from facekit.experiments import chance, scores


def pixels_as_features(data):
    """16 × 16 pixels as a vector of length 1: what there is without a network."""
    flat = data.resized(16).images.reshape(len(data), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return FeatureSet(flat / np.linalg.norm(flat, axis=1, keepdims=True), data.labels)


pixels = pixels_as_features(faces)
rows = {
    "chance": chance(train, test, [task]),
    "pixels": scores(linear_probe(pixels.split("train"), [task]), pixels.split("test"), [task]),
    "embeddings": scores(probe, test, [task]),
}
table = pd.DataFrame({name: found.set_index("metric")["value"] for name, found in rows.items()}).T
print("ranking by accuracy:", " < ".join(table["accuracy"].sort_values(kind="stable").index))
table.round(1)

# %% [markdown]
# Is that what you expected? On drawn portraits skin tone is a colour, and pixels carry colour as directly as can be. A
# network trained to recognise people under any light has learnt to look past it. A pretrained network is good at what
# its training needed: **whether its features carry your label is an empirical question**, and the probe is the
# cheapest way to ask it.
#
# Now the task as it was given: race, and then gender and age, on FaceNet's own features.

# %%
features = course.features()
tasks = course.feature_tasks
train, test = features.split("train"), features.split("test")
print(f"{len(train):,} training and {len(test):,} test embeddings of {train.features.shape[1]} numbers")
for each in tasks:
    print(f"{each.name:7s} {len(each.classes)} classes: {', '.join(each.classes)}")

# %%
from facekit.evaluation.metrics import evaluate

probe = linear_probe(train, tasks)
outputs = predict(probe, test)
measured = evaluate(tasks, outputs, test.targets(tasks))
baseline = chance(train, test, tasks).rename(columns={"value": "chance"})
result = measured.merge(baseline, on=["task", "metric"]).set_index(["task", "metric"])
result[["chance", "value", "low", "high"]].round(2)

# %% [markdown]
# `low` and `high` bound a 95 % **bootstrap interval**: the test photos are drawn again with replacement, a thousand
# times, and the middle 95 % of the accuracies is kept. It says how much the number would move with other test photos
# of the same kind. It says nothing about photos of another kind.
#
# **Balanced accuracy** is the mean of the accuracies within each class, so that a rare class counts as much as a
# frequent one. Where it is lower than the accuracy, the probe is better at frequent classes.

# %% [markdown]
# ## Look at the result
#
# ### Which classes are confused?

# %%
from facekit.evaluation.metrics import confusion_matrix


def confusion_figure(task, outputs, targets, title):
    """Rows: label; columns: prediction; each row sums to 1."""
    counts = confusion_matrix(task, task.predict(outputs), targets)
    shares = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True).clip(1)
    fig, axis = plots.figure(size=(5.6, 4.6))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        axis.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=7, color="white" if share > 0.5 else "black")
    axis.set_xticks(range(len(task.classes)), task.classes, rotation=45, ha="right")
    axis.set_yticks(range(len(task.classes)), task.classes)
    axis.set(xlabel="predicted", ylabel="label", title=title)
    axis.grid(False)
    return fig


race = tasks[0]
plots.show(
    confusion_figure(race, outputs[race.name], test.targets([race])[race.name], "race, linear probe"),
    alt="Confusion matrix of the race probe: the diagonal is darkest; the errors gather in a few pairs of classes.",
)

# %%
counts = confusion_matrix(race, race.predict(outputs[race.name]), test.targets([race])[race.name])
shares = counts.div(counts.sum(1), axis=0)
mixed = pd.Series({(a, b): shares.loc[a, b] + shares.loc[b, a] for i, a in enumerate(shares) for b in list(shares)[:i]})
print("most confused:", " and ".join(sorted(mixed.idxmax())))

# %% [markdown]
# Errors are not spread evenly. Some pairs of labels are told apart almost always, others hardly better than by a coin,
# and annotators disagree on the same pairs. A single accuracy hides for whom the classifier works; lesson 12 of this
# course will be about nothing else.
#
# ### A picture of 512 dimensions
#
# The first two **principal components** are the two directions in which the embeddings vary most.

# %%
from sklearn.decomposition import PCA

flat = PCA(2, random_state=0).fit(train.features).transform(test.features)
fig, axes = plots.figure(1, len(tasks), size=(9.6, 3.4))
for axis, each in zip(axes, tasks, strict=True):
    for place, name in enumerate(each.classes):
        mask = (test.labels[each.name] == name).to_numpy()
        color = plots.COLORS[place % len(plots.COLORS)]
        axis.scatter(*flat[mask].T, s=3, alpha=0.5, color=color, marker=plots.MARKERS[place % len(plots.MARKERS)])
    axis.set(title=each.name, xlabel="component 1", ylabel="component 2")
plots.show(fig, alt="Test embeddings on their first two principal components, coloured by race, gender and age band.")

# %% [markdown]
# Two of 512 dimensions show only part of it: the clouds overlap here far more than the probe's accuracy would suggest.
# The label lies in directions that vary little, and finding those is what the probe does.
#
# ### How many labels does it take?
#
# The learning curve repeats the experiment with few labels: the same rows for both probes, several seeds. Beside it
# are the recorded results on real photos.

# %%
from facekit.experiments import PROBES, learning_curve, summary

sizes = [n for n in course.budget.labels if n <= 2000]
curve = learning_curve(train, test, tasks, sizes, course.budget.seeds, {"linear": PROBES["linear"]})
means = summary(curve, ["task", "n"])["mean"].unstack("n")
for name, row in means.iterrows():
    print(f"{name}: more labels never cost more than 0.02 in accuracy: {bool((row.diff().dropna() > -0.02).all())}")

# %%
from facekit.records import recorded

record = recorded("probe_fairface")
real = record.rows[record.rows["metric"] == "accuracy"]
fig, axes = plots.figure(1, len(tasks), size=(10.2, 3.6), sharey=True)
for axis, each in zip(axes, tasks, strict=True):
    here = summary(curve[curve["task"] == each.name], ["n"])
    axis.errorbar(here.index, here["mean"], here["spread"], capsize=3, label="here, linear")
    for name, found in real[real["task"] == each.name].groupby("method", sort=False):
        there = summary(found.assign(metric="accuracy"), ["n"])
        axis.errorbar(there.index, there["mean"], there["spread"], capsize=3, label=f"recorded, {name}")
    axis.set(title=each.name, xlabel="labels", xscale="log")
axes[0].set_ylabel("accuracy")
axes[0].legend()
plots.show(fig, alt="Accuracy over the number of labels for race, gender and age band: computed here and recorded.")
print(record.caption())

# %% [markdown]
# Read a learning curve from its slope. Where it is steep, more labels are the best thing you can buy. Where it is
# flat, they are not: the features or the labels themselves are the limit, and something else must change. On a
# logarithmic axis equal steps to the right mean *twice as many* labels, and each step costs twice as much as the last.
#
# With few labels the hidden layer has nothing to offer; with thousands it finds what a line cannot. Look where the two
# recorded curves part, for each task.
#
# ### Try it: task and number of labels

# %%
import ipywidgets

from facekit.experiments import few_labels
from facekit.widgets import with_static_twin

by_name = {each.name: each for each in tasks}


def confusion_after(name, labels):
    chosen = by_name[name]
    model = linear_probe(few_labels(train, labels, seed=0), [chosen])
    found = predict(model, test)[chosen.name]
    return confusion_figure(chosen, found, test.targets([chosen])[chosen.name], f"{name}, {labels} labels")


with_static_twin(
    confusion_after,
    name=ipywidgets.Dropdown(options=list(by_name), description="task"),
    labels=ipywidgets.SelectionSlider(options=sizes, description="labels"),
    alt=lambda name, labels: f"Confusion matrix for {name} after learning from {labels} labels.",
    settings=[{"name": "race", "labels": sizes[0]}, {"name": "race", "labels": sizes[-1]}],
).show()

# %% [markdown]
# ## What goes wrong
#
# ### Scaled pixels
#
# The most common mistake with a pretrained network is to feed it pixels in another range than it was trained on. The
# network does not complain; the features are just bad. facekit's backbones therefore take `uint8` and nothing else:

# %% tags=["raises-exception"]
backbone(photos.float() / 255)

# %% [markdown]
# ### Scored on what it has learnt from
#
# A probe with 512 weights for each class can learn 200 labels nearly by heart. If even part of the test rows are among
# the training rows (the same photo twice under two names is enough) the score goes up and means nothing.

# %%
few = few_labels(train, 200, seed=0)
learnt = linear_probe(few, [race])
on_training = scores(learnt, few, [race]).set_index("metric")["value"]["accuracy"]
on_test = scores(learnt, test, [race]).set_index("metric")["value"]["accuracy"]
print("the score on its own 200 training rows is higher by more than 0.2:", bool(on_training - on_test > 0.2))

# %% [markdown]
# This is why facekit's splits are fixed by the photo's content: two copies of a file always land on the same side.
#
# ### Forgetting the √512
#
# The same probe on features of length 1 as they are, which is the same as a penalty 512 times as strong:

# %%
size = train.features.shape[1]
few = few_labels(train, 500, seed=0)
for name, prior in {"times √512": 100, "as they are": 100 * size}.items():
    found = scores(linear_probe(few, [race], prior=prior), test, [race]).set_index("metric")["value"]
    print(f"{name:12s} race, 500 labels: accuracy above 0.4: {bool(found['accuracy'] > 0.4)}")

# %% [markdown]
# No error, no warning: the loss goes down a little and stops. With Adam and an ordinary learning rate the symptom is the
# same. When a probe is far worse than the literature says, look at the scale of its inputs first.

# %% [markdown]
# ### What an embedding is, besides useful
#
# The embedding of a face is **biometric data**: with it a person can be found again among millions, and it cannot be
# changed like a password. Those whose photos are in public face datasets were mostly never asked. For this reason the
# course ships no embedding of any person: the laptop profile draws its features from a statistical model of many faces,
# and no number in that model rests on fewer than twenty of them.
#
# That race can be predicted from such an embedding is a finding about the embedding, not about people. It means that
# any system which stores embeddings stores this, too, whether it wants to or not.

# %% [markdown]
# ## Exercises
#
# ### 03.1 Cosine
#
# Write the function that gives the cosine between every row of `a` and every row of `b`, for vectors of any length.


# %% tags=["solution"]
def cosine(a, b):
    """Tensors (N, D) and (M, D) to cosines (N, M)."""
    # TODO: bring every row to length 1, then multiply
    # <solution>
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    # </solution>


# %%
exercise("03.1").check(cosine)
# exercise("03.1").hint()

# %% [markdown]
# ### 03.2 How much is learnt?
#
# How many numbers does the linear probe for race learn (7 classes, embeddings of 512 numbers)?

# %% tags=["solution"]
# TODO: count weights and biases
# <solution>
learnt_numbers = 512 * 7 + 7
# <todo>
# learnt_numbers = ...
# </solution>

# %%
exercise("03.2").check(learnt_numbers)
# exercise("03.2").hint()

# %% [markdown]
# ### 03.3 Balanced accuracy from a confusion matrix
#
# `counts` has a row for each label and a column for each prediction. Leave out classes that do not occur.


# %% tags=["solution"]
def balanced_accuracy(counts):
    """Tensor (K, K) of counts to one number."""
    # TODO: accuracy within each row, then the mean over the rows that have photos
    # <solution>
    totals = counts.sum(1)
    present = totals > 0
    return (counts.diagonal()[present] / totals[present]).mean()
    # </solution>


# %%
exercise("03.3").check(balanced_accuracy)
# exercise("03.3").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("03").show()

# %% [markdown]
# ## Recap
#
# - A frozen network turns a photo into an embedding once; on the embeddings you fit a small classifier, the probe.
# - A linear probe is convex: seconds, no learning rate, no early stopping, one constant.
# - Compare with chance and with raw pixels, on test photos that nothing has learnt from, with an interval.
# - The learning curve says whether labels or features are the limit.
# - When the features are the limit, the network itself has to change: that is
#   [fine-tuning, lesson 04](04_fine_tuning.ipynb).

# %% [markdown]
# ## References
#
# - Schroff, Kalenichenko, Philbin: [FaceNet: A Unified Embedding for Face Recognition and Clustering](https://arxiv.org/abs/1503.03832), CVPR 2015
# - Cao et al.: [VGGFace2: A dataset for recognising faces across pose and age](https://arxiv.org/abs/1710.08092), FG 2018
# - Kärkkäinen, Joo: [FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age](https://arxiv.org/abs/1908.04913), WACV 2021
# - Alain, Bengio: [Understanding intermediate layers using linear classifier probes](https://arxiv.org/abs/1610.01644), 2016
