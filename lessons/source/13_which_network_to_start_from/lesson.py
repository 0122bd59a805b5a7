# %% [markdown]
# # 13 · Which network to start from
#
# You have found three networks on the net. Which one do you take? You compare sources on targets, compute a score that
# promises the answer without training, see whether it keeps its promise, and read the small print.

# %% [markdown]
# ## What you will be able to do
#
# - compare networks on your own pictures by one fair rule, beside pixels and beside a network that was taught nothing
# - compute a score of transferability by hand, and say how far to trust it
# - weigh accuracy against size, speed, licence and the terms of the data
# - feed a network as it was fed when it was taught, and see what a wrong scale costs

# %% [markdown]
# ## What you need
#
# The [probe](glossary.md#probe) of [lesson 03](03_feature_extraction.ipynb), on frozen
# [embeddings](glossary.md#embedding).

# %% [markdown]
# ## The idea
#
# ![Three networks on the left: one that was taught faces, one things, one letters; arrows of different width lead to two tasks on the right, the widest from the network that was taught something like the task; below, a list: what was it taught, how well on your labels, how large and fast, may you use it](figure.svg)
#
# A [backbone](glossary.md#backbone) keeps what its old task needed and drops the rest. A network that had to tell people
# apart keeps what differs between faces; one for things keeps shapes. So the question is not which network is **good**,
# but which is good **for this task**. How well features of a [source](glossary.md#source) serve a
# [target](glossary.md#target) is their [transferability](glossary.md#transferability).
#
# The best known source is [ImageNet](glossary.md#ImageNet): nearly every network that you can download was taught it.
# Four questions decide, in this order: may I use it, what was it taught, how well does it do **on my labels**, what does
# it cost?

# %% [markdown]
# ## Build it
#
# ### Pictures
#
# Two sources, from which a small network can learn something, and four targets. All are drawn and have 32 pixels a side
# here, so that no network sees more of a picture than another. In profile full the targets are photos.

# %%
from functools import partial

import numpy as np
import pandas as pd
import torch

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.evaluation.transferability import h_score, logme
from facekit.experiments import few_labels, scores
from facekit.models.backbones.small import SmallNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.records import recorded
from facekit.show import plots
from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import centred, linear_probe, pixel_features, tuned_probe

course, figures = start("13"), lesson("13").figures
sources, targets = course.sources(), course.targets()
plots.show(figures.examples(sources, targets), "Four examples of each source and of each target, with their labels.")

# %% [markdown]
# The things and the symbols of the targets are **other** ones than those of the sources: a network that was taught
# mugs is asked about cars. Else we would test memory, not transfer.
#
# ### Networks
#
# facenet-mini comes with weights: it was taught faces. The other networks you teach here. They have less than a
# tenth of its size and start from the same random weights; only what they are taught differs. `nothing` still has the random weights, and
# only its BatchNorm has seen pictures.


# %%
def teach(pictures, task, steps=160):
    torch.manual_seed(0)
    net = Classifier(SmallNet(), Heads(SmallNet.embedding_dim, [task]))
    how = plan("scratch", list(net.stages), epochs=1, lr=3e-3)
    fit(net, Supervised([task]), pictures, None, how, TrainConfig(batch_size=64, seed=0, steps=steps))
    return net.backbone.eval()


taught = {name: teach(*source) for name, source in sources.items()}
torch.manual_seed(0)
nothing = SmallNet()
with torch.no_grad():
    nothing(torch.from_numpy(sources["things"][0].images[:512]))
networks = course.networks() | taught | {"nothing": nothing.eval()}

# %% [markdown]
# Each network is frozen and turns every picture into an embedding. Beside them stand **pixels**: the picture at
# 16 × 16, with no network at all.

# %%
ways = {name: partial(embed, network) for name, network in networks.items()} | {"pixels": pixel_features}
features = {(target, way): ways[way](pictures) for target, (pictures, _) in targets.items() for way in ways}

# %% [markdown]
# ### A score without training, by hand
#
# To try every network takes time. Can one look at the embeddings and labels alone? [LogME](glossary.md#LogME) (You et
# al. 2021) asks: if somebody drew the weights of a linear classifier at random, how **probable** would these labels be?
# That probability is called the [evidence](glossary.md#evidence). Weights are drawn from a bell curve, and noise is
# added. How wide both are is not known, so the widths are taken that make the labels most probable.
#
# For one class the target t is 1 for its rows and 0 for the others. The singular value decomposition turns the features
# so that every direction stands for itself. Then for each ratio of the two widths the best noise follows at once:


# %%
def logme_by_hand(features, classes):
    turned, sizes, _ = np.linalg.svd(features, full_matrices=False)
    n, found = len(features), []
    for one in np.unique(classes):
        t = (classes == one).astype(float)
        along = (turned.T @ t) ** 2  # how much of the target lies along each direction
        beside = t @ t - along.sum()  # and how much no weights can reach
        best = -np.inf
        for ratio in np.geomspace(1e-6, 1e3, 2000):  # of the noise's width to the weights', squared
            stretch = 1 + sizes**2 / ratio
            noise = ((along / stretch).sum() + beside) / n
            best = max(best, -0.5 * (np.log(2 * np.pi * noise) + 1) - 0.5 * np.log(stretch).sum() / n)
        found.append(best)
    return np.mean(found)


# %%
N = 200
first, (_, asked) = next(iter(targets)), next(iter(targets.values()))
few = few_labels(features[first, "facenet-mini"].split("train"), N, seed=0)
by_hand = logme_by_hand(few.features.astype(float), few.targets([asked])[asked.name].numpy())
print("by hand and facekit agree:", np.isclose(by_hand, logme(few, asked), atol=1e-4))

# %% [markdown]
# This model has no bias, as in the paper. So a network also gains by what all its embeddings have in common, which
# tells no class from another. With a bias the features and the target are taken less their means; we look at both.
#
# The other score, [H-score](glossary.md#H-score) (Bao et al. 2019), compares how far the class means lie apart with how
# far all rows lie apart, after both are brought to a common scale. Higher is better in both.

# %% [markdown]
# ## Run it
#
# One rule for all, or the comparison says nothing. Every way gets the same 200 labels. Features are **centred**: their
# mean is taken away, and they get one length. A linear probe learns from them, and the strength of its prior is chosen
# on a fifth of the 200 labels, never on the test. Three draws of labels give the spread.


# %%
def accuracy(probe, rows, task):
    return scores(probe, rows, [task]).set_index("metric").loc["accuracy", "value"]


def truth(target, seed):
    task, found = targets[target][1], {}
    for way in ways:
        few = few_labels(features[target, way].split("train"), N, seed)
        move = centred(few)
        probe = tuned_probe(move(few), task, seed=seed)
        found[way] = accuracy(probe, move(features[target, way].split("test")), task)
    return found


measured = {target: over_seeds(truth, target, seeds=range(3)) for target in targets}

# %% [markdown]
# Beside LogME and H-score stands the plain rival, `trying`: a probe learns from four fifths of the labels and is scored
# on the last fifth. It needs a training, which takes a fraction of a second on frozen features.


# %%
def trying(rows, task):
    held, learn = rows.select(range(N // 5)), rows.select(range(N // 5, N))
    move = centred(learn)
    return accuracy(linear_probe(move(learn), [task], prior=30), move(held), task)


def promised(score, target, seed):
    return {way: score(few_labels(features[target, way].split("train"), N, seed), targets[target][1]) for way in ways}


cheap = {"LogME": logme, "LogME, bias": partial(logme, bias=True), "H-score": h_score, "trying": trying}
promises = {
    name: {target: over_seeds(partial(promised, score), target, seeds=range(3)) for target in targets}
    for name, score in cheap.items()
}

# %% [markdown]
# ## Look at the result

# %%
plots.show(figures.heat(measured), "Accuracy of every way on every target; the best of each column framed.")

# %% [markdown]
# Read by columns. What a network was taught shows: faces help gender, letters help digits, and a network with less than a
# tenth of the size beats facenet-mini there. On things the small one that was taught things cannot be told from it. Skin
# tone is the exception. Pixels have it, and networks that were taught things or letters in **any** colour fall behind
# random weights. This is [negative transfer](glossary.md#negative-transfer): what a network learnt to ignore cannot be
# read from it.
#
# ### Do cheap scores keep their promise?
#
# The same table once more, as places: 1 is the best way for a target. First the truth, then what each score says.

# %%
plots.show(
    figures.places({"measured": measured} | promises),
    "Places of all ways on all targets: measured, by LogME, by H-score and by trying.",
)


# %% tolerance=0.25
def judged(score):
    rows = {}
    for target, table in measured.items():
        real, said = table.mean(), score[target].mean()
        rows[target] = real.corr(said, method="spearman"), 100 * (real.max() - real[said.idxmax()])
    return pd.DataFrame(rows, ["rank correlation", "points lost"]).T


pd.concat({name: judged(score) for name, score in promises.items()}, axis=1).round(1)

# %% [markdown]
# Framed places are two or more off. LogME as in the paper and H-score often choose wrongly, and dearly. H-score takes
# pixels for the best of all four: of many numbers for few labels, some fit by chance, and its correction is not enough
# here. LogME with a bias does well. `trying` does, too, but 40 held-out labels make a coarse ruler. Four targets are few,
# so look at the record before you trust any of them.

# %% [markdown]
# ### The same on real photos
#
# Recorded, with other networks: FaceNet, a network for ImageNet (EfficientNet-Lite0), facenet-mini, the same with
# random weights, and pixels; 1,000 labels. Look at `object` (CIFAR-10) and `diagnosis` (skin lesions) beside the faces.

# %%
record = recorded("networks_real")
tested = record.rows[record.rows["tested"].isin(["held-out training photos", "test"])]
print(record.caption())
plots.show(figures.heat(figures.by_task(tested, n=1000)), "Recorded accuracies of five ways on five tasks.")

# %% [markdown]
# On faces the networks that were taught faces win by far, and a network of 7 MB keeps up with one of 94. On things the
# one for ImageNet wins by as much. On lesions the networks for faces are the **worst** of all: pixels and random weights
# beat them. "Pretrained" says nothing until you know on what. (facenet-mini has seen these photos of faces, without
# labels, when FaceNet taught it; on others it is a little behind FaceNet.)

# %%
figures.kept(record.rows[record.rows["tested"] != "official test photos here"]).round(2)

# %% [markdown]
# `points lost`: how far the network that a score puts first is behind the best one, on average; `at most`: in the worst
# draw. On real photos, too, LogME needs its bias, and the H-score is no help. With 1,000 labels LogME with a bias and
# `trying` lose next to nothing. With 50 no score is to be trusted: each can cost some 7 points or more.
#
# ### What each network costs
#
# Embedding is nearly all of the work when a classifier is used. Recorded on one core: photos per second in two
# precisions, each network at its own size.

# %%
cost = recorded("networks_cost")
print(cost.caption())
cost.rows.set_index("network")[["side", "embedding", "megabytes", "fp32", "bf16"]].round(0).astype(int)

# %% [markdown]
# The smallest file is not the fastest network: it depends on the side of the photos and on how its layers suit the
# machine. So measure on yours:

# %% tags=["nbval-ignore-output"] reason="speed differs between machines and runs"
from time import perf_counter

some = targets[first][0].select(range(200))
for name, network in networks.items():
    start_time = perf_counter()
    embed(network, some, cache=False)
    size = sum(each.numel() for each in network.parameters())
    print(f"{name:14}{size / 1e6:6.2f} M parameters {200 / (perf_counter() - start_time):8,.0f} pictures/s")

# %% [markdown]
# ### May I use it?
#
# Code, weights and data each have terms of their own, and the strictest counts. What is known of these three:

# %%
for row in cost.rows.itertuples():
    print(f"{row.network}, taught {row.taught}\n    {row.terms}")

# %% [markdown]
# "Apache 2.0" on a file of weights does not change the terms of the photos behind it. Whether these bind who only uses
# the weights is disputed, and this is no legal advice: before you sell something, ask somebody who knows. For faces
# there is a second question, which no licence answers: were these people asked? See
# [lesson 12](12_fairness_audit.ipynb).

# %% [markdown]
# ## What goes wrong
#
# ### Fed with the wrong numbers
#
# Photos are stored as 0 to 255. Each network wants them as it saw them when it was taught: this is its
# [normalisation](glossary.md#normalisation). In most of the code that you will find, `torchvision` does it in a
# [transform](glossary.md#transform). What it does for networks for ImageNet:

# %%
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

imagenet = ResNet18_Weights.DEFAULT.transforms()
imagenet

# %% [markdown]
# Resize, cut out the middle, bring to 0 … 1, take away the mean of each colour, divide by its spread. For facenet-mini
# the numbers are other ones. facekit's networks do it inside, so that it cannot be forgotten; by hand it is this:

# %%
photos = torch.from_numpy(targets[first][0].select(range(200)).resized(96).images)
mini = course.networks()["facenet-mini"]
steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [128 / 255] * 3)]
scaled, ours = steps[0](photos), v2.Compose(steps)(photos)
theirs = v2.Normalize(imagenet.mean, imagenet.std)(scaled)
print("by hand and facekit agree:", torch.allclose(ours, mini.prepare(photos), atol=1e-5))

# %% tolerance=0.01
views = {"stored": photos.float(), "0 to 1": scaled, "facenet-mini's": ours, "ImageNet's": theirs}
found = {name: [x.min().item(), x.mean().item(), x.max().item()] for name, x in views.items()}
pd.DataFrame(found, ["lowest", "mean", "highest"]).T.round(2)

# %% [markdown]
# Nothing fails when a network gets the wrong one of these: every one is a tensor of the right shape. Below,
# facenet-mini gets all four. `asked only`: the probe learnt from right features, and only the new pictures are scaled
# wrongly, as happens when somebody else writes the program that uses the model. `both`: wrong from the start.


# %% tags=["broken-on-purpose"]
def fed(mean, std):
    network = course.networks()["facenet-mini"]
    network.mean, network.std = mean, std
    return embed(network, targets[first][0], cache=False)


of_imagenet = [tuple(255 * each for each in values) for values in (imagenet.mean, imagenet.std)]
scales = {"ImageNet's": of_imagenet, "0 to 1": (0.0, 255.0), "stored": (0.0, 1.0)}
fed_with = {"right": features[first, "facenet-mini"]} | {name: fed(*scale) for name, scale in scales.items()}


def asked_wrongly(both, seed):
    found = {}
    for name, wrong in fed_with.items():
        few = few_labels((wrong if both else fed_with["right"]).split("train"), N, seed)
        move = centred(few)
        found[name] = accuracy(tuned_probe(move(few), asked, seed=seed), move(wrong.split("test")), asked)
    return found


# %% tags=["broken-on-purpose"] tolerance=0.05
wrongly = {"asked only": over_seeds(asked_wrongly, False, seeds=range(3))}
wrongly["both"] = over_seeds(asked_wrongly, True, seeds=range(3))
pd.concat({name: with_spread(table, 2) for name, table in wrongly.items()}, axis=1)

# %% [markdown]
# It costs most where the wrong numbers come after training: with stored pixels little is left above guessing, which is
# 0.5. A probe that learns from wrong features gets a part back, since it at least sees the same in training and use. No
# message tells you; only a test with pictures that go the whole way does.

# %% [markdown]
# ## Exercises
#
# ### 13.1 Where would you begin?
#
# Say which network to try **first**, from what each was taught: `"faces"`, `"things"`, `"letters"`, or `"none"` of
# them (then pixels are the first try).
#
# - `beard`: does this person wear a beard?
# - `bird`: which of twenty birds is in the photo?
# - `plate`: which letter of a number plate is this?
# - `exposure`: is the photo too dark, too light or right?

# %% tags=["solution"]
# TODO: "faces", "things", "letters" or "none" for each
# <solution>
begin = {"beard": "faces", "bird": "things", "plate": "letters", "exposure": "none"}
# <todo>
# begin = {"beard": ..., "bird": ..., "plate": ..., "exposure": ...}
# </solution>

# %%
exercise("13.1").check(begin)
# exercise("13.1").hint()

# %% [markdown]
# ### 13.2 What trust in a score costs
#
# `real` holds the accuracies of some networks, `said` what a score says of the same ones, in the same order. You take
# the network with the highest score. How many points behind the best one are you?


# %% tags=["solution"]
def points_lost(real, said):
    # TODO: the highest accuracy less that of the network with the highest score, in points
    # <solution>
    return 100 * (max(real) - real[np.argmax(said)])
    # </solution>


# %%
exercise("13.2").check(points_lost)
# exercise("13.2").hint()

# %% [markdown]
# ### 13.3 Prepare a pixel
#
# A network wants pixels from 0 to 1, less `mean` and divided by `std`. What does it get for a stored pixel from 0 to
# 255?


# %% tags=["solution"]
def prepared(pixel, mean, std):
    # TODO: first the range, then the mean, then the spread
    # <solution>
    return (pixel / 255 - mean) / std
    # </solution>


# %%
exercise("13.3").check(prepared)
# exercise("13.3").hint()

# %% [markdown]
# ### 13.4 Will it be ready by the morning?
#
# `photos` photos have to be embedded once, at `per_second` photos a second, and the mirror image of each as well. How
# many hours does that take?


# %% tags=["solution"]
def hours(photos, per_second):
    # TODO: twice as many pictures as photos; an hour has 3,600 seconds
    # <solution>
    return 2 * photos / per_second / 3600
    # </solution>


# %%
exercise("13.4").check(hours)
# exercise("13.4").hint()

# %% [markdown]
# ### 13.5 Choose for a job
#
# A museum wants to sort 40,000 small drawings of things in its archive, on an office computer without a GPU, in one
# night. Somebody will label 100 drawings. The program will be given to other museums for nothing. Which network do you
# start from? Take the target `things`, and answer with a table of `over_seeds`: the column `pixels` and two networks or
# more. Then write five lines for the museum.
#
# A good answer (the rubric): says before the run what you expect · gives every network the same 100 labels and the same
# rule · gives the spread, and says so where it cannot tell two apart · names size, speed and hours for each · names
# the terms of code, weights and data, and what is not known · says which network, why, and what would change your mind.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "pixels"
# <solution>
# Expected: the network that was taught things is ahead of facenet-mini, with half of the labels less clearly.
def museum(seed):
    rows = {}
    for way in ("pixels", "things", "facenet-mini"):
        few = few_labels(features["things", way].split("train"), 100, seed)
        move = centred(few)
        probe = tuned_probe(move(few), targets["things"][1], seed=seed)
        rows[way] = accuracy(probe, move(features["things", way].split("test")), targets["things"][1])
    return rows


experiment = over_seeds(museum, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.03
exercise("13.5").check(experiment)
# exercise("13.5").hint()

# %% [markdown] tags=["solution-only"]
# With 100 labels the network that was taught things is ahead; with 200 it could not be told from facenet-mini. For the
# museum also counts that it is small, and was taught by drawn pictures alone, of which nobody has to be asked.

# %% [markdown]
# ## Quiz

# %%
quiz("13").show()

# %% [markdown]
# ## Recap
#
# - What a source was taught decides more than how large it is or how good it was at its own task.
# - Pixels and a network that was taught nothing belong into every comparison; now and then they win.
# - Cheap scores look at embeddings and labels alone. As published they often chose wrongly, and dearly; with a bias and
#   enough labels LogME chose well. A probe that is scored on held-out labels does as well, and costs little more.
# - Ask for the terms of code, weights and data before you measure, and for size and speed before you decide.
# - Feed a network as it was fed when it was taught. Nothing fails if you do not; it is only worse.

# %% [markdown]
# ## References
#
# - You, Liu, Wang, Long: [LogME: Practical Assessment of Pre-trained Models for Transfer Learning](https://arxiv.org/abs/2102.11005), ICML 2021
# - Bao et al.: [An Information-Theoretic Approach to Transferability in Task Transfer Learning](https://doi.org/10.1109/ICIP.2019.8803726), ICIP 2019
# - Ibrahim, Ponomareva, Mazumder: [Newer is not always better: Rethinking transferability metrics, their peculiarities, stability and performance](https://openreview.net/pdf?id=iz_Wwmfquno), 2021
# - Agostinelli et al.: [How stable are Transferability Metrics evaluations?](https://arxiv.org/abs/2204.01403), ECCV 2022
# - Kornblith, Shlens, Le: [Do Better ImageNet Models Transfer Better?](https://arxiv.org/abs/1805.08974), CVPR 2019
# - Yosinski, Clune, Bengio, Lipson: [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), NIPS 2014
# - Tan, Le: [EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks](https://arxiv.org/abs/1905.11946), ICML 2019
