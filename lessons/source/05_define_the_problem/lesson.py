# %% [markdown]
# # 05 · Define the problem
#
# Before a network is chosen, somebody decides what is asked, how the answer is written down, which errors count, and
# what has to be beaten. Here you make these decisions and measure each of them.

# %% [markdown]
# ## What you will be able to do
#
# - turn a question about faces into tasks, each with a target, a loss, an answer, a metric and a baseline
# - code one label in four ways, build the losses by hand, and say what each knows about order
# - choose the answer that fits the metric, without training again
# - ask for two things at once
# - notice when a score comes from the measuring and not from the model

# %% [markdown]
# ## What you need
#
# [Embeddings](glossary.md#embedding) and [baselines](glossary.md#baseline) from
# [lesson 03](03_feature_extraction.ipynb). In profile laptop features are **drawn** from a model of FaceNet's features;
# the faces are drawn, too.

# %% [markdown]
# ## The idea
#
# ![One label, 30-39, in four codings: classes, expected value, levels, number; each has its target, its loss and its way from outputs to an answer; all answers and the baseline meet the same metric](figure.svg)
#
# "Predict the age" is not yet a problem that a network can learn. Six decisions make it one, best in this order:
#
# 1. **Task**: whose answer to which question? Here: the age band that annotators saw in a photo.
# 2. **[Metric](glossary.md#metric)**: which errors hurt? Every wrong band alike (accuracy), or wrong by many years more
#    (mean error in years)?
# 3. **Baseline**: what does the best answer score that does not look at the face?
# 4. **[Target](glossary.md#target)**: how is the label written as numbers?
# 5. **[Loss](glossary.md#loss)**: what is made small in training?
# 6. **Answer**: how do the network's outputs become what is scored?
#
# The metric comes early and the network not at all. A metric that was chosen after the results were seen proves
# nothing.

# %% [markdown]
# ## Build it

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import PROBES, few_labels, scores, sharing_methods
from facekit.experiments.codings import answers, codings, compare_codings
from facekit.show import plots
from facekit.tasks import Joint, Task
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe

course, figures = start("05"), lesson("05").figures
features, faces = course.features(), course.faces()
train, test = features.split("train"), features.split("test")
race, gender, age = tasks = course.feature_tasks

# %% [markdown]
# ### Look at the labels first
#
# Labels of photos are what annotators **perceived**; nobody asked the person. Gender is binary, race has seven classes
# without an order, age has bands in an order that stand for years.

# %%
captions = [f"{row.gender}\n{row.age}" for row in faces.labels[:12].itertuples()]
plots.show(plots.image_grid(faces.images[:12], captions), "Twelve faces with their gender and age band.")
ages = pd.crosstab(train.labels["age"], train.labels["gender"], normalize="columns").loc[list(age.classes)]
plots.show(plots.bars_by_column(ages), "Shares of the age bands among women and men: very uneven, and not the same.")

# %% [markdown]
# More than a quarter of all faces are in one band: who always says 20-29 is right that often. The oldest band has one
# face in a hundred; accuracy hardly notices it.
#
# ### The baseline, by hand
#
# A baseline gives every face the same answer. Which one is best depends on the metric. Each band stands for its
# **middle**. Two things are scored: how often the answer lies nearest to the right middle (accuracy), and how many
# years it is off, the [mean absolute error](glossary.md#mean-absolute-error).

# %%
middles, truth = torch.tensor(age.midpoints), test.targets([age])["age"]
shares = torch.bincount(train.targets([age])["age"]) / len(train)
median = middles[(shares.cumsum(0) < 0.5).sum()]
constants = {"most frequent": middles[shares.argmax()], "median": median, "mean": shares @ middles}
accuracies = {name: ((middles - years).abs().argmin() == truth).double().mean() for name, years in constants.items()}
errors = {name: (middles[truth] - years).abs().mean() for name, years in constants.items()}
baseline = pd.DataFrame({"accuracy": accuracies, "years off": errors}).astype(float)
baseline.round(2)

# %% [markdown]
# The most frequent band is the best constant for accuracy, the [median](glossary.md#median) for the error in years.
# Here they are the same band. The mean is best for **squared** errors, which nobody asked for.

# %% [markdown]
# ### One label, four codings
#
# For age there is a choice:
#
# - **classes**: nine outputs, [softmax](glossary.md#softmax), [cross-entropy](glossary.md#cross-entropy). 20-29 instead
#   of 30-39 costs as much as instead of 0-2.
# - **expected value** (DEX): the same training; the answer is the mean of the middles, weighted with the probabilities.
# - **levels**: eight yes-no questions, "older than the first band?", "older than the second?", and so on. CORAL (for
#   ordinal labels) gives them one common score and a threshold each, so no answer can contradict another.
# - **number**: one output, and the [Huber loss](glossary.md#Huber-loss) of its distance to the middle. The unit is the
#   decade: the output is around 3, not around 30.
#
# The three losses by hand, for 64 faces and outputs of a network that knows nothing:

# %%
band, first = truth[:64], torch.arange(64)
outputs = {"classes": torch.randn(64, 9), "levels": torch.randn(64, 8), "number": 3 + torch.randn(64, 1)}
classes = -outputs["classes"].log_softmax(1)[first, band].mean()
older = (band[:, None] > torch.arange(8)).float()
yes = outputs["levels"].sigmoid()
levels = -(older * yes.log() + (1 - older) * (1 - yes).log()).sum(1).mean()
decades = (outputs["number"][:, 0] - middles[band] / 10).abs()
number = torch.where(decades < 1, decades**2 / 2, decades - 0.5).mean()
print("the levels of", test.labels["age"][0], "are", older[0].int().tolist())

# %% [markdown]
# Every answer becomes a number of years: only then one metric fits all. From nine probabilities three answers can be
# read. If the probabilities are right, the most probable class is right most often, the mean has the smallest squared
# error, the **median** the smallest absolute error.

# %%
p = outputs["classes"].softmax(1)
by_hand = {
    "most probable": middles[p.argmax(1)],
    "mean": p @ middles,
    "median": middles[(p.cumsum(1) < 0.5).sum(1)],
    "levels": middles[(outputs["levels"] > 0).sum(1)],
    "number": 10 * outputs["number"][:, 0],
}

# %% [markdown]
# facekit's tasks have a `kind`, and `codings` makes the three kinds of one task.

# %%
asked = codings(age)
for name, loss in {"classes": classes, "levels": levels, "number": number}.items():
    assert torch.allclose(asked[name].loss(outputs[name], asked[name].encode(test.labels["age"][:64])), loss)
assert all(torch.allclose(years, by_hand[name], atol=1e-4) for name, years in answers(age, outputs).items())
print("by hand and facekit agree on three losses and five answers")

# %% [markdown]
# ### Gender and age: joint classes, by hand
#
# Two questions can be asked as one, with a class for each of the 2 × 9 combinations:
# [joint classes](glossary.md#joint-classes). The probability of a part is the sum over the classes that contain it.

# %%
pair = 9 * test.targets([gender])["gender"] + truth
joint_outputs = torch.randn(64, 18)
table = joint_outputs.softmax(1).view(64, 2, 9)

both = Joint((gender, age))
assert both.task.encode(both.add_to(test.labels)["gender_age"]).equal(pair)
for name, sums in {"gender": table.sum(2), "age": table.sum(1)}.items():
    assert torch.allclose(both.marginals(joint_outputs)[name].exp(), sums, atol=1e-5)
print("by hand and facekit agree; class 12 of the 18 is", both.task.classes[12])

# %% [markdown]
# The other ways are **two [heads](glossary.md#head)** on a common hidden layer, and **two networks**:
#
# | | learns that the answers depend on each other | a face with one label only | classes |
# |---|---|---|---|
# | two networks | no | counts for its task | 2 and 9 |
# | two heads | in the shared layer | counts for its task | 2 and 9 |
# | joint classes | yes | does not count | 18, each with fewer faces |

# %% [markdown]
# ## Run it
#
# ### Three questions, each against its baseline
#
# First the simplest that there is: a linear [probe](glossary.md#probe) for each task, from 1,000 faces.

# %%
names = [task.name for task in tasks]
constant = {name: test.labels[name].dropna().eq(train.labels[name].mode()[0]).mean() for name in names}
alone = figures.compare_joint(train, test, tasks, 1000, range(3), {"linear probe": PROBES["linear"]})
against = {task.name: alone[task.name].assign(baseline=constant[task.name]) for task in tasks}
fig = plots.lying_bar_panels(against, "{:.3f}", columns=2)
plots.show(fig, "Accuracy of race, gender and age: a linear probe, and the baseline.")

# %% [markdown]
# Compare each accuracy with its own baseline. Gender is not "solved better" than age: it starts near a half, and for
# age the neighbouring band is a small error that counts in full.
#
# ### Age: five answers, one metric
#
# The codings learn at equal budget: the same 1,000 faces for each seed, 128 hidden units, 200 steps. Three networks for
# each seed give five answers.

# %%
learn = sharing_methods(strengths=(), joint=True)
rows = compare_codings(train, test, age, [1000], range(4), learn["single"])
by_metric = {name: part.pivot(index="seed", columns="answer", values="value") for name, part in rows.groupby("metric")}
found = {name: by_metric[metric][list(by_hand)] for name, metric in (("accuracy", "accuracy"), ("years off", "mae"))}
shown = {name: table.assign(baseline=baseline.loc["median", name]) for name, table in found.items()}
shown["accuracy"] *= 100  # percent, so that its spread is seen beside that of the years
plots.show(plots.lying_bar_panels(shown), "Accuracy in % and years off of five answers; those from classes win.")

# %% [markdown]
# ### Gender and age: three ways
#
# Again the same faces, layers, steps and batches. `all right` is the share of faces with both answers right.

# %%
ways = {"two networks": learn["single"], "two heads": learn["hard"], "joint classes": learn["joint classes"]}
together = figures.compare_joint(train, test, (gender, age), 1000, range(4), ways)
fig = plots.lying_bar_panels(together, "{:.3f}", columns=2)
plots.show(fig, "Accuracy of gender, age and both at once: two networks, two heads, joint classes.")

# %% [markdown]
# ## Look at the result
#
# ### Age
#
# How far are levels and number behind, seed by seed? In accuracy behind the most probable class, in years behind the
# median:

# %% tolerance=0.2
behind = {"accuracy": found["accuracy"].rsub(found["accuracy"]["most probable"], axis=0)}
behind["years off"] = found["years off"].sub(found["years off"]["median"], axis=0)
pd.concat({name: with_spread(table[["levels", "number"]]) for name, table in behind.items()}, axis=1)

# %% [markdown]
# The two codings that know about order lose to the one that does not. Two things may explain it:
#
# - Cross-entropy does not know that bands are neighbours, but the labels do. Faces of 29 and 30 look alike, so the
#   probabilities spread over neighbouring bands.
# - Levels and number must lay all ages on **one** line. In FaceNet's features children, adults and the old may differ
#   in different directions, and nine outputs may use nine.
#
# And **the same nine probabilities** give the smallest error through their median. That cost nothing. Here are
# single faces; the answers differ most where the network is least sure:

# %%
from facekit.models.embedding import embed

backbone, shown = course.backbone(), faces.split("test").select(range(12))
probe = linear_probe(embed(backbone, faces.split("train")), [age])
p = predict(probe, embed(backbone, shown))["age"].softmax(1)
bands = [[age.classes[k] for k in each] for each in (p.argmax(1), (p.cumsum(1) < 0.5).sum(1))]
told = zip(shown.labels["age"], *bands, p @ middles, strict=True)
captions = [f"label {a}\nprobable {b}\nmedian {c}\nmean {d:.0f} years" for a, b, c, d in told]
plots.show(
    plots.image_grid(shown.images, captions, cell=1.35), "Twelve faces: label, most probable band, median, mean."
)

# %% [markdown]
# On drawn features a result can be a property of the model that drew them. The same on real photos:

# %%
from facekit.records import recorded

record = recorded("codings_fairface")
rows = record.rows.assign(task=record.rows["metric"].replace("mae", "years off"), metric="on test photos")
curves = dict(list(rows.groupby("answer", sort=False)))
plots.show(plots.learning_curve_panels(curves, metric="on test photos"), "Recorded: accuracy and years off by labels.")
print(record.caption())

# %% [markdown]
# On photos `levels` and `number` are behind, too: by about six points of accuracy and by more than half a year.
#
# Which answer from the classes is best does change. With 200 labels it is the mean: the probabilities are poor, and
# averaging guards against gross mistakes. From a thousand on the median has the smallest error.
#
# Two limits: all codings had one recipe, and the features were frozen.
#
# ### Gender and age
#
# The three ways are within a few points of each other. Joint classes are not even ahead in what they alone were trained
# for, both answers right. And of 1,000 faces the rarest of the 18 classes has a handful. Lessons
# [06](06_hard_parameter_sharing.ipynb) and [07](07_soft_parameter_sharing.ipynb) ask more closely what two tasks gain
# by one network.

# %% [markdown]
# ### Try it: what does an error cost?
#
# Choose the right band and how sure the network is. The bars show what each coding charges for each answer. Losses of
# different codings have different units, so the dearest answer is 1.

# %%
from facekit.show.widgets import explore

explore(
    lambda label, sure: plots.bars_by_column(figures.relative_costs(age, label, sure)),
    label=["30-39", *(name for name in age.classes if name != "30-39")],
    sure=[0.9, 0.6, 0.99],
    alt=lambda label, sure: f"What answers to a face of {label} cost at {sure:.0%}: flat for classes, else rising.",
)

# %% [markdown]
# Classes charge the same for every wrong answer. Levels charge one more for every band further. The number charges by
# the years, and it cannot say how sure it is.

# %% [markdown]
# ### How to choose
#
# | The label | Target and loss | Answer | Metric | Baseline |
# |---|---|---|---|---|
# | classes without order | an output each; cross-entropy | most probable | accuracy, balanced accuracy | most frequent class |
# | bands in an order | classes first; levels as a rival | most probable, or median | accuracy; mean error | most frequent; median |
# | a number with a unit | a number on a scale around 1; classes of it as a rival | the number; median | mean error | median |
# | several at once | a head each; joint classes if the combination is the question | of each | each, and all right | that of each |
#
# Gender and age are **two tasks**. First beat the baseline of each with a simple classifier on frozen features.

# %% [markdown]
# ## What goes wrong
#
# ### Joint classes without common labels
#
# A hundred faces have a gender, a hundred others an age. Two heads can learn from them; joint classes cannot.

# %% tags=["raises-exception"]
apart = few_labels(train, 200, seed=0)
apart.labels.loc[:99, "age"] = None
apart.labels.loc[100:, "gender"] = None
linear_probe(replace(apart, labels=both.add_to(apart.labels)), [both.task])

# %% [markdown]
# ### The noise is the label
#
# A published model for gender and race was measured like this: photos of **all races but White** were altered at
# random, to have more of them, also those that are scored. What can that do? Here is a task with **nothing to learn**:
# for each face a coin is thrown, and the photos with tails get strong noise.

# %%
coin, rng = Task("coin", "multiclass", ("heads", "tails")), np.random.default_rng(0)
plain = few_labels(faces.split("train"), 300, seed=0)
plain.labels["coin"] = rng.choice(coin.classes, len(plain))
noise = rng.normal(0, 50, plain.images.shape) * (plain.labels["coin"] == "tails").to_numpy()[:, None, None, None]
noisy = replace(plain, inputs=(plain.images + noise).clip(0, 255).astype(np.uint8))
pictures = np.concatenate([plain.images[:6], noisy.images[:6]])
plots.show(plots.image_grid(pictures, [*plain.labels["coin"][:6]] * 2), "Six faces, below the same: tails are grainy.")

# %% tags=["broken-on-purpose"] tolerance=0.1
probe = linear_probe(embed(backbone, noisy).select(range(200)), [coin])
for name, photos in {"altered like those it learnt from": noisy, "as they come": plain}.items():
    accuracy = scores(probe, embed(backbone, photos).select(range(200, 300)), [coin])["value"][0]
    print(f"scored on photos {name}: {accuracy:.2f}")

# %% [markdown]
# It has learnt to see noise. **What is done to photos must not depend on their label.**
#
# ### Copies on both sides
#
# Rare classes may be repeated until all are equally frequent. Done **before** the split, this puts copies of one face
# on both sides. `divide` does it in either order; `test` is other faces.

# %%
from facekit.data.leaks import Protocol, divide


def repeated(seed):
    rows, found = few_labels(train, 1000, seed), {}
    for name, where in (("before", "before the split"), ("after", "training")):
        sides = divide(rows, Protocol(name, where), "age", seed, held_out=0.2)
        model = learn["single"](sides.train, [age], seed)
        for on, data in (("held out", sides.scored), ("test", test)):
            found[f"{name} the split: {on}"] = scores(model, data, [age])["value"][0]
    return found


# %% tolerance=0.04
with_spread(over_seeds(repeated, seeds=range(3)), 2)

# %% [markdown]
# Copied before the split, the score says much more than the model can do: on new faces both models are alike. It scored
# copies of faces that it had learnt by heart.
#
# ### The published model, measured again
#
# Two linear layers on FaceNet's features, on UTKFace. As far as its log and code show, photos of rarer races were
# repeated and then divided, and photos of all but White were altered on both sides. facekit rebuilt it and measured it
# by one protocol after another. `White` is telling White from all others, `leaked` the share of scored photos of which
# a copy was learnt from.

# %%
record = recorded("reference_utkface")
rows = record.rows.query("data == 'UTKFace' and metric in ['accuracy', 'leaked']").replace("photos", "leaked")
parts = rows.assign(protocol=pd.Categorical(rows["protocol"], rows["protocol"].unique())).groupby("task", sort=False)
panels = {task: part.pivot(index="seed", columns="protocol", values="value") for task, part in parts}
fig = plots.lying_bar_panels(panels, "{:.3f}", columns=2)
plots.show(fig, "Recorded: accuracy for gender, race and White, and the share of leaked photos, by protocol.")
print("published:", figures.PUBLISHED, "\n" + record.caption())

# %% [markdown]
# - **Noise** in training alone costs five points in race and six in White. With noise on both sides nearly all of it is
#   back: the noise is used.
# - **Who is scored**: with races repeated on the scored side, too, White gains nearly five points with the same model.
#   Fewer White faces are scored.
# - **Copies**: four fifths of the scored photos are leaked, and race gains only a point. Linear layers learn little by
#   heart. What a leak is worth cannot be known beforehand, so close it.
# - **The published figures** are not reached. The original also trained FaceNet, on more photos. How much of its
#   figures is measuring, nobody can tell any more: that is the damage.

# %% [markdown]
# ## Exercises
#
# ### 05.1 Which coding?
#
# - `hair`: which of five colours has the hair?
# - `stars`: one to five stars that somebody gave a photo
# - `years`: the age from a birth certificate; the error is to be told in years
# - `worn`: glasses, hat, mask: which of them does the person wear?

# %% tags=["solution"]
# TODO: one of "classes", "ordinal", "number", "several tasks" for each
# <solution>
choices = {"hair": "classes", "stars": "ordinal", "years": "number", "worn": "several tasks"}
# <todo>
# choices = {"hair": ..., "stars": ..., "years": ..., "worn": ...}
# </solution>

# %%
exercise("05.1").check(choices)
# exercise("05.1").hint()

# %% [markdown]
# ### 05.2 The answer with the smallest expected error
#
# From probabilities (N, K) of classes in their order to the median (N,): the first class at which the probabilities,
# added up from the first class on, reach one half.


# %% tags=["solution"]
def median_class(probabilities):
    # TODO: cumsum, and count
    # <solution>
    return (probabilities.cumsum(1) < 0.5).sum(1)
    # </solution>


# %%
exercise("05.2").check(median_class)
# exercise("05.2").hint()

# %% [markdown]
# ### 05.3 From levels back to classes
#
# `above[:, k]` is the probability of lying above class k, for all classes but the last. Give the probability of each
# class: from (N, K - 1) to (N, K).


# %% tags=["solution"]
def class_probabilities(above):
    # TODO: differences between neighbouring levels; what lies at the two ends?
    # <solution>
    end = torch.ones(len(above), 1)
    return torch.cat([end, above], 1) - torch.cat([above, 0 * end], 1)
    # </solution>


# %%
exercise("05.3").check(class_probabilities)
# exercise("05.3").hint()

# %% [markdown]
# ### 05.4 Split, then repeat
#
# From an array of labels (N,) and a seed to two arrays of row numbers: rows to learn from, where every class is equally
# frequent, and a fifth of the rows, drawn at random, as the test.


# %% tags=["solution"]
def split_then_repeat(labels, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    # TODO: cut off the test; then np.resize(rows, most) repeats the rows of a class until there are `most`
    # <solution>
    test_rows, rest = np.split(order, [len(labels) // 5])
    most = max(np.sum(labels[rest] == name) for name in np.unique(labels))
    repeated_rows = [np.resize(rest[labels[rest] == name], most) for name in np.unique(labels)]
    return np.concatenate(repeated_rows), test_rows
    # </solution>


# %%
exercise("05.4").check(split_then_repeat)
# exercise("05.4").hint()

# %% [markdown]
# ### 05.5 A problem of your own
#
# Make a task from the labels that are there, such as "below 20?", "60 and older?", "a child or a woman?". Take the six
# decisions. Answer with a table of `over_seeds`: three seeds or more, a column `baseline` and a way of your own.
#
# A good answer (the rubric): writes down all six decisions before the run · the metric fits the question, also where a
# class is rare · the baseline is the best constant for that metric · gives the spread beside the mean · chooses nothing
# on the test faces · says what you saw even if it is nothing.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "baseline"
# <solution>
# Task: is the face below 20? Metric: balanced accuracy, since few are; a constant answer gets 0.5. Target: two classes,
# cross-entropy; answer: the more probable one. Expected: well above 0.8.
young = Task("young", "multiclass", ("below 20", "20 and older"))


def with_young(rows):
    is_young = rows.labels["age"].isin(age.classes[:3])
    return replace(rows, labels=rows.labels.assign(young=np.where(is_young, *young.classes)))


def below_twenty(seed):
    probe = linear_probe(with_young(few_labels(train, 1000, seed)), [young])
    found = scores(probe, with_young(test), [young]).set_index("metric")["value"]
    return {"linear probe": found["balanced_accuracy"], "baseline": 0.5}


experiment = over_seeds(below_twenty, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %%
exercise("05.5").check(experiment)
# exercise("05.5").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("05").show()

# %% [markdown]
# ## Recap
#
# - Task, metric, baseline, target, loss, answer: six decisions, and the network is none of them.
# - The best constant depends on the metric: the most frequent class, the median, the mean.
# - Classes, levels and a number know more and more about order. Here classes won.
# - One softmax gives several answers: most probable for accuracy, median for absolute errors, mean for squared ones.
# - Heads take labels that are partly missing, joint classes do not.
# - Losses of different codings cannot be compared, metrics can.
# - Split first, then repeat; alter photos regardless of their label; score what nothing was done to.

# %% [markdown]
# ## References
#
# - Rothe, Timofte, Van Gool: [Deep Expectation of Real and Apparent Age from a Single Image Without Facial Landmarks](https://doi.org/10.1007/s11263-016-0940-3), IJCV 2018 (DEX)
# - Cao, Mirjalili, Raschka: [Rank Consistent Ordinal Regression for Neural Networks with Application to Age Estimation](https://arxiv.org/abs/1901.07884), Pattern Recognition Letters 2020 (CORAL)
# - Paplhám, Franc: [A Call to Reflect on Evaluation Practices for Age Estimation](https://arxiv.org/abs/2307.04570), CVPR 2024
# - Kärkkäinen, Joo: [FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age](https://arxiv.org/abs/1908.04913), WACV 2021
# - The published model: [race_gender_recognition](https://github.com/jgabriellima/race_gender_recognition), TensorFlow, its code and its log
# - Zhang, Song, Qi: [Age Progression/Regression by Conditional Adversarial Autoencoder](https://arxiv.org/abs/1702.08423), CVPR 2017 (UTKFace)
