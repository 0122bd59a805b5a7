# %% [markdown]
# # 03 · Feature extraction
#
# A network that was trained on faces describes a new one in 512 numbers. You keep the network as it is and learn only
# what stands on those numbers: a classifier that needs seconds and few labels.

# %% [markdown]
# ## What you will be able to do
#
# - turn photos into embeddings with a frozen network, and say what an embedding is
# - fit a probe on them by hand and with facekit, and compare it with the baselines that it has to beat
# - read a confusion matrix, a balanced accuracy, an interval and a learning curve
# - find the faces in a photo of your own, and say what the probabilities for them mean
# - notice four mistakes that make such results wrong without any error message

# %% [markdown]
# ## What you need
#
# The words *source*, *target* and *classifier learning* from [lesson 01](01_what_transfer_learning_is.ipynb), and what
# a tensor is, from [lesson 00](00_start_here.ipynb).

# %% [markdown]
# ## The idea
#
# ![A photo goes through a frozen backbone and becomes an embedding of 512 numbers of length 1; only the small classifier behind it is trained](figure.svg)
#
# A network for face recognition was trained to bring photos of one person close together and photos of different
# persons apart. To do that it had to find what distinguishes faces. **Feature extraction** uses this knowledge without
# touching it: the network is **frozen**, each photo goes through it once, and its output, the **embedding**, replaces
# the photo. On the embeddings you fit a small classifier, the **probe**: ordinary logistic regression.

# %% [markdown]
# The first task is *race*, then come gender and age. One word before: the labels say how annotators **perceived** a
# face. Race and gender are not facts that a photo contains, and a classifier that reproduces these labels well has
# learnt to agree with annotators, no more. Drawn portraits have a skin tone (the ten steps of the Monk scale), never a
# race.

# %% [markdown]
# ## Build it
#
# `start` gives you the data and the network of your profile and prints what they are.

# %%
import math
from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import exercise, lesson, quiz, start
from facekit.experiments import few_labels
from facekit.show import plots

course, figures = start("03"), lesson("03").figures
faces = course.faces()
backbone = course.backbone()
first = course.tasks[0]
print(f"{len(faces):,} faces; first task: {first.name}, {len(first.classes)} classes")

# %%
shown = few_labels(faces.split("train"), 12, seed=0)
captions = [f"{first.name}\n{label}" for label in shown.labels[first.name]]
plots.show(plots.image_grid(shown.images, captions), alt=f"Twelve faces, each with its {first.name} label below it.")

# %% [markdown]
# ### From photos to embeddings
#
# A network that you use without training it is in **evaluation mode** (dropout off, BatchNorm uses its stored
# statistics), nothing is recorded for gradients (`inference_mode`), and the pixels arrive in the range it was trained
# on: facekit's backbones take `uint8` from 0 to 255, and scale inside.

# %%
backbone.eval()
photos = torch.from_numpy(shown.images)
with torch.inference_mode():
    embeddings = backbone(photos)
print("photos", tuple(photos.shape), photos.dtype, "to embeddings", tuple(embeddings.shape), embeddings.dtype)

# %% [markdown]
# ### What is close to what?
#
# Embeddings have length 1, so that their dot product is the **cosine** of the angle between them: 1 for the same
# direction, 0 for nothing in common. A useful embedding hardly moves when the picture changes and the face does not.
# Here are the same photos mirrored and darkened, against photos of others.

# %%
photos = torch.from_numpy(few_labels(faces.split("test"), 100, seed=0).images)
changed = (photos.flip(3) * 0.7).to(torch.uint8)
with torch.inference_mode():
    cosines = (backbone(photos) @ backbone(changed).T).numpy()
print("a changed copy is closer than the typical other photo:", cosines.diagonal().mean() > np.median(cosines))

# %% [markdown]
# ### The probe by hand
#
# `embed` does the same as the cell above for all photos, batch by batch, and keeps the result on disk.
#
# The probe is **softmax regression**: one linear layer, cross-entropy, and a penalty on the size of the weights that
# keeps it calm when there are more weights than labels. The problem is convex: there is one best answer, whatever the
# starting point, and L-BFGS walks to it.

# %%
from facekit.models.embedding import embed

embedded = embed(backbone, faces)
train, test = embedded.split("train"), embedded.split("test")
targets = first.encode(train.labels[first.name])

x = torch.tensor(train.features, dtype=torch.float64) * math.sqrt(512)
weight = torch.zeros(len(first.classes), 512, dtype=torch.float64, requires_grad=True)
bias = torch.zeros(len(first.classes), dtype=torch.float64, requires_grad=True)
optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")


def closure():
    optimiser.zero_grad()
    loss = F.cross_entropy(x @ weight.T + bias, targets) + 100 / (2 * len(x)) * weight.square().sum()
    loss.backward()
    return loss


optimiser.step(closure)
by_hand = (torch.tensor(test.features, dtype=torch.float64) * math.sqrt(512) @ weight.T + bias).argmax(1)

# %% [markdown]
# The embeddings are multiplied by √512 first. Numbers in a vector of length 1 are about 1/√512 ≈ 0.04 in size; a
# penalty or a learning rate made for numbers around 1 does not fit them. Below you see what happens if you forget.
#
# `linear_probe` is the same thing for any number of tasks, and for labels that are partly missing.

# %%
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe

outputs = predict(linear_probe(train, [first]), test)[first.name]
print("by hand and facekit predict the same class:", (first.predict(outputs) == by_hand).float().mean().item() > 0.98)

# %% [markdown]
# ## Run it
#
# A number alone says nothing. Two baselines: **chance**, which always answers the most frequent class of the training
# photos, and the **same probe on raw pixels** (16 × 16 of them). Beside them a rival from inside the network: what its
# last stage before the embedding puts out, averaged over all places of the photo. `probe_scores` fits a
# probe for each task and returns it with a table of its scores on the test part.

# %%
from facekit.evaluation.metrics import confusion_matrix, evaluate
from facekit.experiments import chance
from facekit.transfer.probe import pixel_features


def probe_scores(data, tasks):
    train, test = data.split("train"), data.split("test")
    probe = linear_probe(train, tasks)
    by_chance = chance(train, test, tasks).rename(columns={"value": "chance"})
    return probe, evaluate(tasks, predict(probe, test), test.targets(tasks)).merge(by_chance, on=["task", "metric"])


earlier = embed(backbone, faces, stage=list(backbone.stages)[-2])
inputs = {"pixels": pixel_features(faces), "earlier": earlier, "embedding": embedded}
results = pd.concat({name: probe_scores(data, course.tasks)[1] for name, data in inputs.items()})

# %% tags=["nbval-ignore-output"] reason="the description gives accuracies, whose second decimal can differ by one"
accuracies = results[results["metric"] == "accuracy"].droplevel(1)
fig, axes = plots.figure(1, 3, size=(11.5, 3.4), sharey=True)
for axis, task in zip(axes, course.tasks, strict=True):
    rows = accuracies[accuracies["task"] == task.name]
    figures.bars_with_intervals(axis, rows, chance=rows["chance"].iloc[0])
    axis.set(title=task.name, ylim=(0, 1))
numbers = ", ".join(f"{row.task} from {name} {row.value:.2f}" for name, row in accuracies.iterrows())
plots.show(fig, alt=f"Accuracy of the probe with its interval, beside chance: {numbers}.")

# %% [markdown]
# Compare the bars task by task. On photos (profile `full`) the network leaves the pixels far behind in all three tasks.
# On drawn portraits it need not: skin tone is a colour, and pixels carry colour as directly as can be, while a network
# that was to recognise people under any light has learnt to look past it. **Whether its features carry your label is an
# empirical question**, and the probe is the cheapest way to ask it.
#
# ### One stage earlier
#
# *Which* features? The last layer is the most specific to what the network was trained for. FaceNet was to tell persons
# apart and to overlook all else; one stage before the embedding, more is left of the rest. Here are both, measured on
# real photos.

# %%
from facekit.records import recorded

stages = recorded("stages_fairface")
alt = "Accuracy over the number of labels for race, gender, age: FaceNet's embedding and its stage before, recorded."
plots.show(plots.learning_curve_panels(dict(list(stages.rows.groupby("method")))), alt=alt)
print(stages.caption())

# %% [markdown]
# `repeat_3` is FaceNet's last stage before the embedding, 1,792 numbers a photo after averaging. For gender it leads
# from a few hundred labels on and ends about five points higher, for race from some thousands on and about three points
# higher; for age there is little between them. So the layer is a choice like any other, to be made on validation photos.
#
# Now race, gender and age, as annotators of the FairFace photos perceived them, from FaceNet's features. In profile
# `laptop` the features are drawn from a statistical model of the real ones.

# %%
features, tasks = course.features(), course.feature_tasks
train, test = features.split("train"), features.split("test")

# %% tags=["nbval-ignore-output"] reason="the second decimal can differ by one on another processor"
classifier, result = probe_scores(features, tasks)
result.set_index(["task", "metric"])[["chance", "value", "low", "high"]].round(2)

# %% [markdown]
# `low` and `high` bound a 95 % **bootstrap interval**: the test photos are drawn again with replacement, a thousand
# times, and the middle 95 % of the accuracies is kept. It says how much the number would move with other test photos
# of the same kind, and nothing about photos of another kind.
#
# **Balanced accuracy** is the mean of the accuracies within each class, so that a rare class counts as much as a
# frequent one. **`mae`** is the mean absolute error of the age in years, with each band standing for its middle.

# %% [markdown]
# ## Look at the result
#
# ### Which classes are confused?


# %%
def confusion_of(task, outputs):
    return confusion_matrix(task, task.predict(outputs[task.name]), test.targets([task])[task.name])


race, outputs = tasks[0], predict(classifier, test)
counts = confusion_of(race, outputs)
fig = figures.confusion(counts, "race, percent of each label")
plots.show(fig, alt="Confusion matrix of the race probe: the diagonal is darkest, errors gather in a few pairs.")

# %%
shares = counts.div(counts.sum(axis=1), axis=0)
pairs = {(a, b): shares.loc[a, b] + shares.loc[b, a] for i, a in enumerate(shares) for b in list(shares)[:i]}
print("most confused:", " and ".join(sorted(max(pairs, key=pairs.get))))

# %% [markdown]
# Errors are not spread evenly. Black and East Asian faces are hardly ever mistaken for each other; between East and
# Southeast Asian the probe often errs, and fewer than half of the faces labelled Latino or Middle Eastern are
# recognised as such. A single accuracy hides for whom it works ([lesson 12](12_fairness_audit.ipynb)).
#
# ### A picture of 512 dimensions
#
# The first two **principal components** are the two directions in which the embeddings vary most.

# %%
from sklearn.decomposition import PCA

flat = PCA(2, random_state=0).fit(train.features).transform(test.features[:1000])
fig, axes = plots.figure(1, 3, size=(10.2, 4.4))
for axis, task in zip(axes, tasks, strict=True):
    plots.scatter_classes(axis, flat, test.labels[task.name][:1000], task.classes)
    axis.set(title=task.name, xlabel="component 1", ylabel="component 2")
plots.show(fig, alt="Test embeddings on their first two principal components, marked by race, gender and age band.")

# %% [markdown]
# Some of it can be seen: East and Southeast Asian faces lie to one side, children to another. Most cannot. Men and
# women overlap here, and yet the probe tells them apart in more than eight cases of ten: what separates them lies along
# directions in which embeddings vary less.
#
# ### How many labels does it take?
#
# The learning curve repeats the experiment with fewer labels; every seed draws other training photos. Beside it are
# results recorded on real photos.

# %%
from facekit.experiments import PROBES, learning_curve, scores

sizes = course.budget.labels
curve = learning_curve(train, test, tasks, sizes, course.budget.seeds, {"linear": PROBES["linear"]})
record = recorded("probe_fairface")
curves = {"here, linear": curve} | {f"recorded, {name}": rows for name, rows in record.rows.groupby("method")}
plots.show(plots.learning_curve_panels(curves), alt="Accuracy over the number of labels, computed here and recorded.")
print(record.caption())

# %% [markdown]
# Read a learning curve from its slope. Where it is steep, more labels are the best thing you can buy. Where it is
# flat, the features or the labels themselves are the limit. On this logarithmic axis a step to the right *multiplies*
# the labels: each step costs more than the last.
#
# The two recorded curves say when a hidden layer pays. For gender it pulls ahead from about a thousand labels on and
# ends four points higher. For race and age the linear probe is as good or better until some thousands of labels, and
# about one point behind at the end: what limits it there is not the line.
#
# ### Try it: task and number of labels
#
# With the fewest labels some races are seldom answered, however often they occur. For age with many labels the errors
# stay near the diagonal.

# %%
from facekit.show.widgets import explore


def after_learning(task, labels):
    task = next(each for each in tasks if each.name == task)
    outputs = predict(linear_probe(few_labels(train, labels, seed=0), [task]), test)
    return figures.confusion(confusion_of(task, outputs), f"{task.name}, {labels:,} labels")


explore(
    after_learning,
    task=[task.name for task in tasks],
    labels=sizes,
    alt=lambda task, labels: f"Confusion matrix for {task} after learning from {labels:,} labels.",
    settings=[{"labels": sizes[0]}, {"labels": sizes[3]}],
)

# %% [markdown]
# ### What does a probability mean?
#
# Among faces for which a classifier says 0.7, seven in ten should have that label; this is
# [calibration](glossary.md#calibration). The **calibration error** is how far confidence and accuracy lie apart, on
# average. Below is that of your probe, and of a small network that learnt from 200 faces; each also mended, its outputs
# divided by one number a task before the softmax, the [temperature](glossary.md#temperature). It is fitted on
# validation faces; the error is counted on test faces.

# %% tolerance=0.03
from facekit.evaluation.calibration import calibration_error, fit_temperatures, temperature_scaled
from facekit.transfer.probe import hidden_probe

validation, true, found = features.split("validation"), test.targets(tasks), {}
few = hidden_probe(few_labels(train, 200, seed=0), tasks, hidden=64)
for name, net in {"hidden layer, 200 labels": few, "linear, all labels": classifier}.items():
    fitted, said = fit_temperatures(tasks, predict(net, validation), validation.targets(tasks)), predict(net, test)
    for task, column in product(fitted, ("before", "after")):
        scaled = temperature_scaled(said[task], fitted[task] if column == "after" else 1)
        found.setdefault((name, column), {})[task] = calibration_error(scaled, true[task])
pd.DataFrame(found).round(2)

# %% [markdown]
# The network with few labels is **overconfident**: it has learnt its faces nearly by heart, and takes others to be as
# easy. A temperature above 1 mends most of it, and changes no answer, for the order of the classes stays. The linear
# probe was calibrated as it is: its penalty keeps it calm, and its temperatures are close to 1.
#
# ### Your own photo
#
# facekit's `OwnPhoto` finds the faces in a picture with **MTCNN**, another small network, turns and cuts each of them as
# FairFace's photos are cut, embeds it, and shows the probability of every class at the fitted temperatures. All of it
# happens on this machine and in memory: nothing is sent, no file is written, and an upload is dropped once it is read.
# The ordinary picture below is a drawn one; what you upload shows up in the widget alone.

# %%
from facekit.course.own_photo import OwnPhoto

OwnPhoto(backbone, classifier, fitted).show()

# %% [markdown]
# The drawing belongs to no race, and yet the classifier names some: it has no answer "none of these", and its
# probabilities always add up to 1.
#
# Calibration holds for faces like those that the temperature was fitted on. Your photo has another camera and another
# light; in profile `laptop` its embedding also comes from facenet-mini, whose errors the classifier has never seen.
# Classifiers tend to be too sure on data that are new to them.

# %% [markdown]
# ## What goes wrong
#
# ### A face cut otherwise
#
# The faces above were turned and cut before they were embedded. Is that needed? Below, the face in each test photo is
# cut as FairFace's are, and then wider, turned, moved to the right, or with less detail.

# %%
from facekit.experiments.crops import disturb

disturbed = disturb(faces.split("test").select(range(60)), backbone, classifier)
plots.show(disturbed.examples(), alt="One face, cut in sixteen ways, each with its cosine to the straight crop.")

# %%
plots.show(disturbed.figure(), alt="Cosines and shares of unchanged answers, falling as the crop is changed further.")

# %% [markdown]
# No error message, and another answer for the same face. A network knows faces in the framing in which it learnt them;
# **cut your photos as the training photos were cut**, before you look for any other reason of bad results. Recorded on
# real photos, the accuracy for race with the straight crop, and with the last change of each kind in the figure above:

# %%
record = recorded("alignment_fairface")
print(record.caption())
rows = record.rows.query("task == 'race' and metric == 'accuracy'").groupby(["change", "network"], sort=False)
rows["value"].agg(straight="first", changed="last").unstack().round(2)

# %% [markdown]
# FaceNet loses little to a wider or moved crop. facenet-mini, taught on straight ones that were moved by 3 % at most,
# loses much. Without detail both are lost.
#
# ### Scaled pixels
#
# Most networks do not complain about pixels in another range than they were trained on; the features are just bad.
# facekit's backbones therefore take `uint8` and nothing else:

# %% tags=["raises-exception"]
backbone(photos.float() / 255)

# %% [markdown]
# ### Scored on what it has learnt from
#
# A probe with 512 weights for each class can learn 200 labels nearly by heart. If part of the test rows are among the
# training rows (the same photo under two names is enough) the score goes up and means nothing.

# %%
few = few_labels(train, 200, seed=0)
probe = linear_probe(few, [race])
own, unseen = (scores(probe, rows, [race])["value"][0] for rows in (few, test))
print("on its own 200 training rows it scores higher by more than 0.2:", own - unseen > 0.2)

# %% [markdown]
# This is why facekit's splits are fixed by the photo's content: two copies of a file always land on the same side.
#
# ### Forgetting the √512
#
# The same probe on features of length 1 as they are, which is the same as a penalty 512 times as strong:

# %%
few = few_labels(train, 500, seed=0)
probes = [linear_probe(few, [race], prior=prior) for prior in (100, 100 * 512)]
right, wrong = (scores(probe, test, [race])["value"][0] for probe in probes)
print("forgetting the factor costs more than 0.1 of accuracy:", right - wrong > 0.1)

# %% [markdown]
# No warning: the probe is at the minimum of the wrong problem. When a probe is far worse than others report, look at
# the scale of its inputs first.

# %% [markdown]
# ### What an embedding is, besides useful
#
# The embedding of a face is **biometric data**: with it a person can be found again among millions, and it cannot be
# changed like a password. Those whose photos are in public face datasets were mostly never asked. So the course ships
# no embedding of any person: the laptop profile draws its features from a statistical model of many faces.
#
# That race can be predicted from an embedding is a finding about the embedding, not about people: any system which
# stores embeddings stores this, too, whether it wants to or not.

# %% [markdown]
# ## Exercises
#
# ### 03.1 Cosine
#
# Write the function that gives the cosine between every row of `a` and every row of `b`, for vectors of any length.


# %% tags=["solution"]
def cosine(a, b):
    # TODO: from (N, D) and (M, D) to cosines (N, M): bring every row to length 1, then multiply
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
# ### 03.4 What a doubling of the labels brings
#
# A probe scores `a1` with `n1` labels and `a2` with `n2`. How much does it gain for each doubling on the way?


# %% tags=["solution"]
def gain_per_doubling(n1, a1, n2, a2):
    # TODO: count the doublings from n1 to n2
    # <solution>
    return (a2 - a1) / math.log2(n2 / n1)
    # </solution>


# %%
exercise("03.4").check(gain_per_doubling)
# exercise("03.4").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("03").show()

# %% [markdown]
# ## Recap
#
# - A frozen network turns a photo into an embedding once; the probe on it is convex: seconds, no learning rate.
# - Compare with chance and with raw pixels, on test photos that nothing has learnt from, with an interval.
# - The last layer is the most specific one: look one stage earlier, too.
# - Few labels make a network overconfident; one temperature mends most of it, for data like those it was fitted on.
# - A learning curve says whether labels or features are the limit. If features are, the network itself has to change:
#   [fine-tuning, lesson 04](04_fine_tuning.ipynb).

# %% [markdown]
# ## References
#
# - Schroff, Kalenichenko, Philbin: [FaceNet: A Unified Embedding for Face Recognition and Clustering](https://arxiv.org/abs/1503.03832), CVPR 2015
# - Cao et al.: [VGGFace2: A dataset for recognising faces across pose and age](https://arxiv.org/abs/1710.08092), FG 2018
# - Kärkkäinen, Joo: [FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age](https://arxiv.org/abs/1908.04913), WACV 2021
# - Zhang et al.: [Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks](https://arxiv.org/abs/1604.02878), 2016 (MTCNN)
# - Guo et al.: [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), ICML 2017
# - Alain, Bengio: [Understanding intermediate layers using linear classifier probes](https://arxiv.org/abs/1610.01644), 2016
