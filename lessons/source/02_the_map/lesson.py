# %% [markdown]
# # 02 · The map
#
# Which kind of transfer fits a problem is decided by a few questions, the first of them: where are the labels? You sort
# four kinds by it, run each in a few lines against the baseline that it has to beat, and get a guide for your own case.

# %% [markdown]
# ## What you will be able to do
#
# - name the kind of transfer that fits, from where the labels are and what differs between source and target
# - tell the four kinds apart from pre-trained models, fine-tuning and layer re-use
# - run each kind in its simplest form, and name the baseline that it has to beat
# - say what each kind assumes, and notice when the assumption does not hold
# - find the lesson for your case with the decision guide

# %% [markdown]
# ## What you need
#
# The words *source*, *target*, *domain* and *task* from [lesson 01](01_what_transfer_learning_is.ipynb). Embeddings and
# the linear probe are from [lesson 03](03_feature_extraction.ipynb); it is enough to know that FaceNet describes a face
# in 512 numbers and that a linear probe is a logistic regression on them.

# %% [markdown]
# ## The idea
#
# ![A square of four fields: source with or without labels, target with or without labels; multi-task learning where both have labels, self-taught learning where only the target has, domain adaptation and sample selection bias where only the source has, unsupervised transfer where neither has](figure.svg)
#
# Two questions, labels in the source and labels in the target, make four fields. Four kinds of transfer live in three
# of them:
#
# - **Multi-task learning** ([lessons 05](05_define_the_problem.ipynb) to 07): both have labels. Several tasks are learnt together and share what they need alike.
# - **Self-taught learning** ([lesson 09](09_self_taught_learning.ipynb)): only the target has labels, and few. Features
#   are learnt from inputs without labels, then a classifier on the few.
# - **Domain adaptation** ([lesson 10](10_domain_adaptation.ipynb)): only the source has labels, and its inputs are of
#   another kind. Features are made that cannot tell the domains apart.
# - **Sample selection bias** ([lesson 11](11_sample_selection_bias.ipynb)): only the source has labels. It comes from
#   the target's own population, but some of it was more likely to be collected. Its rows are weighted or chosen.

# %% [markdown]
# ### The same in the survey
#
# Most books sort by the survey of Pan and Yang (2010). It has three settings:
#
# | Setting | Labels in source | Labels in target | Tasks | The four kinds in it |
# |---|---|---|---|---|
# | inductive | yes or no | yes | differ | multi-task (source with labels), self-taught (source without) |
# | transductive | yes | no | the same | domain adaptation (domains differ), sample selection bias (they do not) |
# | unsupervised | no | no | differ, but are related | none |
#
# Where both agree: the four kinds are the four named cases of the survey's inductive and transductive settings, and the
# first question, where are the labels, is the same.
#
# Where they differ:
#
# - Labels alone do not separate all four. Domain adaptation and sample selection bias share a field; the survey tells
#   them apart by a second question, whether the domains differ.
# - The survey sets inductive transfer *beside* multi-task learning: the one wants the target alone to get better, the
#   other all tasks. Both have the same labels.
# - The field without any labels, unsupervised transfer, has no place among the four kinds.
# - The survey's *transductive* asks only that some inputs of the target are there while you train. Elsewhere the word
#   means that all test inputs are there and no others will be asked for.

# %% [markdown]
# ### Three words that are not kinds
#
# - A **pre-trained model** is what you start from: weights that somebody else has learnt
#   ([lesson 01](01_what_transfer_learning_is.ipynb)).
# - **Layer re-use** is what you carry over: some of its layers, kept as they are
#   ([lesson 03](03_feature_extraction.ipynb)).
# - A **fine-tuned network** is what you get when they learn on ([lesson 04](04_fine_tuning.ipynb)).
#
# They say *how* knowledge travels; the map says *between what*. Starting from a pre-trained model with labels of your
# own is inductive transfer, one task after the other. And every experiment of this lesson stands on a pre-trained
# network, for its inputs are FaceNet's features.

# %% [markdown]
# ## Build it

# %%
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import exercise, lesson, quiz, start
from facekit.data.sets import FeatureSet
from facekit.evaluation.paired import clearly_better, over_seeds
from facekit.experiments import few_labels
from facekit.show import plots
from facekit.tasks import Task
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe
from facekit.transfer.selftaught import components, learn_dictionary

course, figures = start("02"), lesson("02").figures
features = course.features()
race, gender, age = course.feature_tasks

# %% [markdown]
# FaceNet's embeddings fill only a small part of their 512 dimensions. On the 49 directions in which they vary most they
# are all but complete, and everything below is ten times as fast.

# %%
compact = components(features.split("train"), 49)
train, test = compact(features.split("train")), compact(features.split("test"))
print(f"{compact.share:.3f} of the variance on {train.features.shape[1]} of 512 directions")

# %% [markdown]
# One helper: the accuracy on `test` of a linear probe that has learnt from `train`.


# %%
def accuracy(train, test, task, **how):
    outputs = predict(linear_probe(train, [task], **how), test)[task.name]
    return (task.predict(outputs) == test.targets([task])[task.name]).double().mean().item()


# %% [markdown]
# ### Multi-task, by hand
#
# The smallest network with several heads: one linear layer of 16 numbers that all tasks share, and a **head** for each
# task. The loss is the sum over all labels that exist, whatever task they belong to. A face without a label for some
# task adds nothing to that task's loss; so the faces of the tasks need not be the same (**partial labels**). What
# counts in the end is the accuracy of the first task, the target's.


# %%
def heads_side_by_side(rows, test, tasks, seed, prior=30):
    torch.manual_seed(seed)
    x, targets = 7 * torch.from_numpy(rows.features), rows.targets(tasks)
    shared = torch.nn.Linear(49, 16, bias=False)
    heads = torch.nn.ModuleDict({task.name: torch.nn.Linear(16, len(task.classes)) for task in tasks})
    optimiser = torch.optim.LBFGS([*shared.parameters(), *heads.parameters()], 1, 80, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = prior / 2 * (shared.weight.square().sum() + sum(head.weight.square().sum() for head in heads.values()))
        for name, head in heads.items():  # -1 stands for a missing label
            loss = loss + F.cross_entropy(head(shared(x)), targets[name], ignore_index=-1, reduction="sum")
        (loss / len(x)).backward()
        return loss / len(x)

    optimiser.step(closure)
    score = heads[tasks[0].name](shared(7 * torch.from_numpy(test.features)))
    return (score.argmax(1) == test.targets(tasks[:1])[tasks[0].name]).double().mean().item()


# %% [markdown]
# The 7 is √49, which brings the numbers to a size that suits the penalty (lesson 03 says why). There is nothing to
# choose but the width and the strength of the penalty, and both stay the same in all that is compared.

# %% [markdown]
# ### Self-taught, by hand
#
# Which directions do faces vary along? No label is needed to see that. The first eight **principal components** of
# the unlabelled faces become the features:

# %%
axes = np.linalg.svd(train.features - train.features.mean(0), full_matrices=False)[2][:8]
eight = components(train, 8)
same = np.abs((test.features - train.features.mean(0)) @ axes.T) * np.sqrt(49 / 8)  # an axis may point either way
print("by hand and facekit, the same up to the sign:", np.allclose(same, np.abs(eight(test).features), atol=1e-2))

# %% [markdown]
# facekit's version multiplies by √(49 / 8), so that a probe's penalty means the same as before. What differs is then
# only that 41 directions are gone.
#
# ### Domain adaptation, by hand
#
# **CORAL** (correlation alignment) takes from the source's features their own mean and covariance and gives them those
# of the target: first *whiten* with the source, then *colour* with the target. No label is looked at.


# %%
def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def align(source, target):
    s, t = 7 * source.features.astype(float), 7 * target.features.astype(float)
    c_source, c_target = (np.cov(x, rowvar=False) + np.eye(49) for x in (s, t))
    return ((s - s.mean(0)) @ power(c_source, -0.5) @ power(c_target, 0.5) + t.mean(0)) / 7


# %% [markdown]
# A second domain is needed: the same kind of faces, seen by **another camera**. It is made, not measured: a fixed
# linear map that mixes and stretches the features, and an offset. So we know what differs, and that it is what CORAL
# assumes.

# %%
from facekit.transfer.adaptation import another_camera, coral, domain_accuracy

some = few_labels(train, 3000, seed=0)
source, target = some.select(range(1500)), another_camera(some.select(range(1500, 3000)))
aligned = coral(source, target)(source)
print("by hand and facekit agree:", np.allclose(align(source, target), aligned.features, atol=1e-3))

# %%
versions = {"as they are": source.features[:400], "after CORAL": aligned.features[:400]}
plots.show(figures.domain_clouds(versions, target.features[:400]), "Source beside target, and upon it after CORAL.")

# %% [markdown]
# ### Sample selection, by hand
#
# Here the faces are of one kind, but children were easy to collect: each was kept with probability 0.9, all others with
# 0.02. The source has too many children, the target is the whole population.
#
# The right **weight** of a source face is how much more frequent such a face is in the target,
# p_target(x) / p_source(x). Nobody needs the two densities for that: a classifier that tells source from target has
# their ratio in its **odds**. (`DOMAIN` is the task with the classes *source* and *target*.)

# %%
from facekit.transfer.selection import DOMAIN, density_ratio, effective_size, rejection_sample


def children(rows):
    return rows.labels["age"].isin(["0-2", "3-9"]).to_numpy()


def collect(seed):
    return few_labels(rejection_sample(train, np.where(children(train), 0.9, 0.02), seed), 800, seed)


collected, population = collect(seed=0), few_labels(train, 2000, seed=0)
labels = pd.DataFrame({"domain": np.repeat(DOMAIN.classes, [800, 2000]), "split": "train"})
both = FeatureSet(np.concatenate([collected.features, population.features]), labels)
scores = predict(linear_probe(both, [DOMAIN]), collected)["domain"].double()
weights = (scores[:, 1] - scores[:, 0]).exp().numpy()
print("by hand and facekit agree:", np.allclose(weights / weights.mean(), density_ratio(collected, population), 1e-3))

# %%
adult = ~children(collected)
print("who is no child weighs more than twice as much:", weights[adult].mean() > 2 * weights[~adult].mean())
print("800 weighted rows are worth fewer than 250:", effective_size(weights) < 250)

# %% [markdown]
# The classifier has never seen an age. That children look different was enough. The last line is the price:
# rows of very different weight scatter like fewer rows. Exercise 02.3 is about that number.

# %% [markdown]
# ## Run it
#
# Each kind now meets its baseline, over five seeds or ten. A seed draws other training faces; all methods in one row
# of the table learn from the same ones, so that they can be compared row by row.
#
# ### Multi-task: 100 ages, and 2,000 labels of something else
#
# The target is the age band of a hundred faces. 2,000 other faces have other labels: once gender and race, once a
# coarse *stage of life*, the way another data set might have labelled them. Baselines: the same network with the age
# head alone, and the linear probe.

# %%
stage = Task("stage", "multiclass", ("child", "young", "middle", "old"))
# Two age bands make a stage; the last one has three.
train.labels["stage"] = [stage.classes[min(band, 7) // 2] for band in train.targets([age])["age"].tolist()]


def multi_task(seed):
    rows = few_labels(train, 2100, seed)
    mine = rows.select(range(100))
    rows.labels.loc[100:, "age"] = None
    rows.labels.loc[:99, ["race", "gender", "stage"]] = None
    found = {"probe": accuracy(mine, test, age), "alone": heads_side_by_side(mine, test, [age], seed)}
    for name, others in {"with gender, race": [gender, race], "with stage": [stage]}.items():
        found[name] = heads_side_by_side(rows, test, [age, *others], seed)
    return found


sharing = over_seeds(multi_task)

# %% [markdown]
# ### Self-taught: 50 labels, features from thousands of faces without
#
# Two ways to learn features without labels: the eight components, and **sparse coding**, with which the method was
# published: a dictionary of 64 atoms, and every face a sum of few of them. Baseline: the features as they are.

# %%
dictionary = learn_dictionary(few_labels(train, 2000, seed=0), 64, penalty=3.0, rounds=5, steps=40)
encoders = {"as they are": lambda rows: rows, "8 components": eight, "sparse codes": dictionary}
encoded = {name: (encode(train), encode(test)) for name, encode in encoders.items()}


def self_taught(task, seed):
    return {name: accuracy(few_labels(a, 50, seed), b, task) for name, (a, b) in encoded.items()}


selftaught = {task.name: over_seeds(self_taught, task, seeds=range(10)) for task in (race, gender)}

# %% [markdown]
# ### Domain adaptation: another camera
#
# The source has 1,500 faces with labels, the target 1,500 faces of the other camera without. Each seed is another
# camera. Baselines: no adaptation, and moving only the mean (CORAL with a huge `ridge`). The upper end: a probe that
# has the target's labels.


# %%
def adapt(task, seed):
    rows = few_labels(train, 3000, seed)
    source, (target, seen) = rows.select(range(1500)), (another_camera(each, seed=seed) for each in (rows, test))
    target = target.select(range(1500, 3000))
    return {
        "none": accuracy(source, seen, task),
        "mean only": accuracy(coral(source, target, ridge=1e6)(source), seen, task),
        "CORAL": accuracy(coral(source, target)(source), seen, task),
        "target's labels": accuracy(target, seen, task),
    }


adapted = {task.name: over_seeds(adapt, task) for task in (race, gender)}

# %% [markdown]
# ### Sample selection: too many children
#
# 800 source faces, most of them children, and 2,000 unlabelled ones of the population. Baseline: all weights equal.
# *Exact* uses the probabilities with which faces were kept, which one seldom knows. *Chosen* keeps each face with a
# probability that is proportional to its exact weight. The upper end: 800 faces that were collected fairly.


# %%
def select(task, seed):
    source = collect(seed)
    exact = np.where(children(source), 1 / 0.9, 1 / 0.02)
    ratio = density_ratio(source, few_labels(train, 2000, seed + 100))
    return {
        "equal": accuracy(source, test, task),
        "density ratio": accuracy(source, test, task, weights=ratio),
        "exact": accuracy(source, test, task, weights=exact),
        "chosen": accuracy(rejection_sample(source, exact, seed), test, task),
        "fair": accuracy(few_labels(train, 800, seed), test, task),
    }


selected = {task.name: over_seeds(select, task) for task in (race, gender)}

# %% [markdown]
# ## Look at the result
#
# Bars are means over the seeds, dots the single seeds. `clearly_better` asks for a mean gain within the rows of more than
# half a point and of more than twice its standard error.
#
# **Multi-task**

# %%
plots.show(plots.bar_panels({"age band": sharing}), "Accuracy for age: probe, age head alone, with other heads.")

# %%
for name in ("with stage", "with gender, race"):
    print(name, "beats", {baseline: clearly_better(sharing, name, baseline) for baseline in ("alone", "probe")})

# %% [markdown]
# Sharing helps where the tasks need the same features. The stage of life is nearly the same question as the age, and
# its 2,000 labels shape the shared layer to the age's advantage. Gender and race ask for other directions and bring
# the age nothing. With linear layers on frozen features there is little else to share; lessons 05 to 07 take whole
# networks.
#
# **Self-taught**

# %%
plots.show(plots.bar_panels(selftaught), "Race and gender with 50 labels: features as they are, 8 components, codes.")

# %%
for name, table in selftaught.items():
    print(f"{name}: sparse codes beat the features as they are:", clearly_better(table, "sparse codes", "as they are"))
print("gender: 8 components do:", clearly_better(selftaught["gender"], "8 components", "as they are"))

# %% [markdown]
# Eight directions that were found without a label help when labels are few: the probe then has less to be led astray
# by. For gender that is clear, for race the gain is smaller and hardly larger than its spread.
#
# Sparse codes do not help; they are clearly worse. They were made for raw inputs, pictures and sound, where much is
# redundant. Here the inputs are features already, learnt by FaceNet from far more faces than ours, and what the codes
# leave out to be sparse was of use. A baseline that stands on a pre-trained network is hard to beat with unlabelled
# data of the same kind.
#
# **Domain adaptation**

# %%
plots.show(plots.bar_panels(adapted), "Race and gender: no adaptation, mean only, CORAL, the target's own labels.")

# %%
print("CORAL beats no adaptation:", {name: clearly_better(table, "CORAL", "none") for name, table in adapted.items()})
print("source and target can be told apart:", domain_accuracy(source, target) > 0.9)
print("after CORAL they cannot, by a line:", domain_accuracy(aligned, target) < 0.55)

# %% [markdown]
# CORAL undoes nearly all that the other camera has done. Moving the mean alone undoes a part of it; the covariance does
# the rest. That was to be expected: the shift is linear, as the method assumes, and the same kinds of faces occur as
# often in both domains. The second condition will be taken away below.
#
# **Sample selection**

# %%
plots.show(plots.bar_panels(selected), "Race and gender: equal, estimated, exact weights, chosen rows, a fair sample.")

# %%
for name, table in selected.items():
    print(name, {method: clearly_better(table, method, "equal") for method in ("density ratio", "fair")})

# %% [markdown]
# For gender the weights win back a part of what the bias has cost, the estimated ones about as much as the exact ones.
# For race the bars of the weighted probes are the lower ones, that of the exact weights, too: a better estimate would
# not help.
#
# Weights correct a bias and pay for it with rows. The likely reason for the difference: what tells women from men is
# not the same in children and in adults, one line cannot serve both, and the weights decide whom it serves. Where one
# line serves both groups about as well, there is little to correct, and fewer rows count all the same. And a source
# that was collected fairly beats every weight.

# %% [markdown]
# ### The decision guide
#
# Your own case: begin at the top and follow the lines; a green box opens its lesson. Below, the same in words, folded,
# and as a widget, in which Tab moves and the arrow keys choose.

# %%
figures.guide().show()

# %% [markdown]
# ## What goes wrong
#
# ### Aligned, and wrong
#
# Let the other camera stand where other people pass: nine in ten of the target's faces are labelled female, of the
# source's about half. CORAL sees only that the means differ, and moves one upon the other.


# %% tags=["broken-on-purpose"]
def other_people(seed):
    source = few_labels(train, 1000, seed)
    shares = [np.where(rows.labels["gender"] == "Female", 0.9, 0.1) for rows in (train, test)]
    people = [rejection_sample(rows, share, seed) for rows, share in zip((train, test), shares, strict=True)]
    target, seen = (another_camera(rows, 0.5, 0.2, seed) for rows in people)
    aligned = coral(source, target)(source)
    apart = domain_accuracy(aligned, target)
    return {"none": accuracy(source, seen, gender), "CORAL": accuracy(aligned, seen, gender), "apart": apart}


wrong = over_seeds(other_people, seeds=range(3))
print("CORAL costs more than 0.1 of accuracy:", (wrong["none"] - wrong["CORAL"]).mean() > 0.1)
print("and a line cannot tell the domains apart:", wrong["apart"].mean() < 0.55)

# %% [markdown]
# The domains look alike, as was asked. But the middle between the source's women and men now lies in the middle of the
# target's faces, most of which are women, and the line between the classes runs through them. **That features cannot
# tell the domains apart does not say that a classifier carries over.** It needs the classes to be about as frequent in
# both ([lesson 11](11_sample_selection_bias.ipynb) mends this very case). Without a label in the target nothing in the
# training shows the mistake: hence the advice of the guide, to label a few all the same.
#
# ### One field, taken for another
#
# Weights cannot help against another camera: no source face looks like those of the target, and no weight makes one.

# %%
print("of 1,500 rows fewer than 150 count:", effective_size(density_ratio(source, target)) < 150)

# %% [markdown]
# A small effective size is the warning: the two sets hardly overlap. Then the domains differ, and it is a case for
# adaptation, not for weights.

# %% [markdown]
# ## Exercises
#
# ### 02.1 Which kind is it?
#
# - `age`: 10,000 faces of one set are labelled with gender, 5,000 of another with age. One network shall learn both.
# - `sketch`: photos with labels for gender; the target is gender in drawings, of which none is labelled.
# - `archive`: a million photos without any label, and 60 with a label that only you need.
# - `survey`: photos with labels from a sports club, taken with the same camera as those of the whole town, without.

# %% tags=["solution"]
# TODO: one of "multi-task", "self-taught", "domain adaptation", "sample selection" for each
# <solution>
kinds = {
    "age": "multi-task",
    "sketch": "domain adaptation",
    "archive": "self-taught",
    "survey": "sample selection",
}
# <todo>
# kinds = {"age": ..., "sketch": ..., "archive": ..., "survey": ...}
# </solution>

# %%
exercise("02.1").check(kinds)
# exercise("02.1").hint()

# %% [markdown]
# ### 02.2 From a probability to a weight
#
# A classifier that learnt from `n_source` source and `n_target` target rows says with probability `p` that a face is
# from the target. What weight does the face get, before the weights are brought to mean 1?


# %% tags=["solution"]
def weight(p, n_source, n_target):
    # TODO: odds, and the numbers of rows taken out of them
    # <solution>
    return p / (1 - p) * n_source / n_target
    # </solution>


# %%
exercise("02.2").check(weight)
# exercise("02.2").hint()

# %% [markdown]
# ### 02.3 How many rows are left?
#
# Write the effective number of rows of an array of weights: n for n equal weights, 1 if one row has all the weight, and
# the same for weights of twice the size.


# %% tags=["solution"]
def effective_rows(weights):
    # TODO: the square of a sum over a sum of squares
    # <solution>
    return weights.sum() ** 2 / (weights**2).sum()
    # </solution>


# %%
exercise("02.3").check(effective_rows)
# exercise("02.3").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("02").show()

# %% [markdown]
# ## Recap
#
# - Where are the labels? Both: multi-task. Only in the target: self-taught. Only in the source: domain adaptation if
#   the inputs are of another kind, sample selection bias if only their shares differ. In neither: unsupervised.
# - These are the named cases of Pan and Yang's inductive and transductive settings; pre-trained model, layer re-use and
#   fine-tuning say how knowledge travels, not between what.
# - Sharing helps tasks that need the same features. Features without labels help when labels are few, and less the
#   better the inputs are already.
# - Alignment assumes that the classes are as frequent in both domains; weights assume that the domains overlap. Look
#   at the effective number of rows, and label a few target faces to see.

# %% [markdown]
# ## References
#
# - Pan, Yang: [A Survey on Transfer Learning](https://doi.org/10.1109/TKDE.2009.191), IEEE TKDE 2010
# - Caruana: [Multitask Learning](https://doi.org/10.1023/A:1007379606734), Machine Learning 1997
# - Raina, Battle, Lee, Packer, Ng: [Self-taught Learning: Transfer Learning from Unlabeled Data](https://doi.org/10.1145/1273496.1273592), ICML 2007
# - Sun, Feng, Saenko: [Return of Frustratingly Easy Domain Adaptation](https://arxiv.org/abs/1511.05547), AAAI 2016
# - Shimodaira: [Improving predictive inference under covariate shift by weighting the log-likelihood function](https://doi.org/10.1016/S0378-3758%2800%2900115-4), Journal of Statistical Planning and Inference 2000
# - Bickel, Brückner, Scheffer: [Discriminative Learning Under Covariate Shift](https://www.jmlr.org/papers/v10/bickel09a.html), JMLR 2009
