# %% [markdown]
# # 09 · Self-taught learning
#
# Faces without labels cost nothing; labels do. You learn features from faces that nobody labelled, see what they know
# that a network trained with labels has forgotten, and where they fail.

# %% [markdown]
# ## What you will be able to do
#
# - learn features from small pieces of photos with K-means, and code a face with them
# - write the contrastive loss, and see features collapse although the loss falls
# - compare with the baselines that count: pixels, a random network, a network that labels taught
# - say for which question each wins, and why
# - tell when a model may learn from its own answers, and when that does harm

# %% [markdown]
# ## What you need
#
# The map of [lesson 02](02_the_map.ipynb), the linear [probe](glossary.md#probe) and the
# [embedding](glossary.md#embedding) of [lesson 03](03_feature_extraction.ipynb), and convolutional networks as far as
# [lesson 04](04_fine_tuning.ipynb) used them. New terms stand in the [glossary](glossary.md).

# %% [markdown]
# ## The idea
#
# ![Many faces without labels are cut into small patches; a list of typical patches is found; a few labelled faces are written down by how near their patches are to the typical ones, and a small classifier learns from that; beside it the modern form, two changed views of one photo that a network has to find again](figure.svg)
#
# In [self-taught learning](glossary.md#self-taught-learning) the first set of photos has **no labels**. Features are
# learnt from it, then a classifier from [few labels](glossary.md#few-labels) of the second set. (Some lists of the four
# kinds of transfer call the first set labelled. In the paper that named the method, Raina et al. 2007, it is
# [unlabelled](glossary.md#unlabelled), and it need not even hold the classes that are asked for later.)
#
# Nothing tells the method what matters. So it learns **what varies**, and this can be good luck: a network that was
# taught people's names had to forget the light on a face, and with it much of the skin's colour.

# %% [markdown]
# ## Build it
#
# ### The faces
#
# In profile laptop they are drawn portraits, and the large set shows other people than the small one. In profile full
# they are photos, and those of the small set that are not tested are in the large one as well. The labels of the large
# set are not looked at anywhere.

# %%
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import few_labels
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.records import recorded
from facekit.show import plots
from facekit.training.loop import TrainConfig, fit, predict
from facekit.training.plans import plan
from facekit.transfer.contrastive import Contrastive, Views, dead_dimensions, nt_xent
from facekit.transfer.patches import patch_codes
from facekit.transfer.probe import linear_probe, pixel_features
from facekit.transfer.selftaught import components
from facekit.transfer.spreading import label_spreading, self_training

course, figures = start("09"), lesson("09").figures
many, faces = course.many_faces(48), course.faces()
pool, test = faces.split("train"), faces.split("test")
(looks, gender), race = course.tasks[:2], course.feature_tasks[0]
print(f"{len(many):,} faces without labels, {len(pool):,} to label some of, {len(test):,} to test")

# %%
plots.show(plots.image_grid(many.images[:12]), "Twelve of the faces without labels, 48 pixels wide.")

# %% [markdown]
# ### Patches by hand
#
# A [patch](glossary.md#patch) is a small square cut out of a photo, here 6 × 6 pixels with 3 colours: 108 numbers. Each
# is brought to the same brightness and contrast. [Whitening](glossary.md#whitening) then turns and scales the 108
# numbers so that none goes with another. Without it, all that is found is light and dark.


# %%
def patches(images):
    cut = F.unfold(torch.tensor(np.asarray(images)).float(), 6, stride=2).transpose(1, 2)  # photo, place, 108
    cut = cut - cut.mean(2, keepdim=True)
    return cut / (cut.square().mean(2, keepdim=True) + 10).sqrt()


def whitener(x):
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    return (vectors / (values + 0.1).sqrt()) @ vectors.T


some = patches(many.images[:400]).flatten(0, 1)
some = some[torch.randperm(len(some))[:20_000]]
mean, whitening = some.mean(0), whitener(some)
white = (some - mean) @ whitening

# %% [markdown]
# [K-means](glossary.md#K-means) finds typical patches: give each patch to its nearest
# [centroid](glossary.md#centroid), move each centroid to the mean of its patches, and again.


# %%
def k_means(x, k, rounds=10):
    centroids = x[torch.randperm(len(x))[:k]]
    for _ in range(rounds):
        nearest = torch.cdist(x, centroids).argmin(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, x)
        centroids = sums / torch.bincount(nearest, minlength=k).clamp(min=1)[:, None]
    return centroids


centroids = k_means(white, 64)
alt = "64 small patches found by K-means: borders between two colours in many directions, plain colours, grain."
plots.show(figures.centroids(centroids, mean, whitening), alt)

# %% [markdown]
# Nobody asked for borders in all directions, colours and grain, and there they are. A face is now written down by how near its patches
# are to each centroid. The **triangle code** keeps what is nearer than on average and sets the rest to 0:


# %%
def by_hand(images, mean, whitening, centroids):
    distances = torch.cdist((patches(images) - mean) @ whitening, centroids)
    near = (distances.mean(2, keepdim=True) - distances).clamp(min=0)  # photo, place, centroid
    rows = round(near.shape[1] ** 0.5)
    return near.transpose(1, 2).unflatten(2, (rows, rows))


maps = by_hand(many.images[:3], mean, whitening, centroids)
alt = "Three faces, and for four centroids a map of where each is near: each follows a part of the head or a shade."
plots.show(figures.where_near(many.select(range(3)), maps), alt)

# %% [markdown]
# A map has 22 × 22 places. To let a nose move a little, it is averaged over a grid of 3 × 3. That is the whole code:
# centroids × 9 numbers. facekit's `patch_codes` does these steps, with more patches and 100 centroids.

# %%
codes = patch_codes(many, k=100)
pooled = F.adaptive_avg_pool2d(by_hand(many.images[:20], codes.mean, codes.whitening, codes.centroids), 3).flatten(1)
print("the code by hand and facekit's agree:", torch.allclose(pooled, codes.raw(many.select(range(20))), atol=1e-3))

# %% [markdown]
# ### The modern form: a loss without labels
#
# In [contrastive learning](glossary.md#contrastive-learning) the photo itself gives the task. Two random changes of it
# are two [views](glossary.md#view) of one face:

# %%
torch.manual_seed(0)
pairs = [Views()(torch.tensor(np.asarray(many.images[:6]))) for _ in range(2)]
plots.show(plots.image_grid(torch.cat(pairs)), "Six faces in two rows of views: cut out, mirrored, recoloured, grey.")

# %% [markdown]
# The network has to find, for every view, its partner among all other views of the batch. Likeness is the cosine,
# divided by a [temperature](glossary.md#temperature), and the loss is the cross entropy of a choice among 2N − 1. It is
# called NT-Xent.


# %%
def nt_xent_by_hand(one, other, temperature=0.5):
    both = F.normalize(torch.cat([one, other]))
    n, total = len(one), 0.0
    for i in range(2 * n):
        alike = both @ both[i] / temperature
        partner = alike[(i + n) % (2 * n)]
        alike[i] = -torch.inf  # a view does not have to find itself
        total += alike.logsumexp(0) - partner
    return total / (2 * n)


one, other = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
print("by hand and facekit agree:", torch.allclose(nt_xent_by_hand(one, other), nt_xent(one, other)))
print(f"random: {nt_xent(one, other):.2f}   all views alike: {nt_xent(one * 0 + 1, one * 0 + 1):.2f}")

# %% [markdown]
# If all views are alike, each of the 15 is as good a guess: the loss is log 15. The other photos of the batch, the **negatives**,
# are what forbids that. Other tasks of this kind, which are all called
# [self-supervised learning](glossary.md#self-supervised-learning): hide a part of the photo and let the network fill it
# in (masked autoencoders), or turn the photo and ask by how much (rotation).

# %% [markdown]
# ## Run it
#
# ### Few labels: patches against the baselines
#
# Three kinds of features, the same probe on each, the same labelled faces for all of one seed. `pixels` are the photo
# itself at 16 × 16. The last column is supervised transfer: the [pretrained](glossary.md#pretrained) network.


# %%
def right(probe, rows, task):
    return (task.predict(predict(probe, rows)[task.name]) == rows.targets([task])[task.name]).double().mean().item()


pretrained = course.backbone()
coders = {"pixels": pixel_features, "patches": codes, pretrained.name: lambda rows: embed(pretrained, rows)}
coded = {name: (code(pool), code(test)) for name, code in coders.items()}


def with_labels(task, n, seed):
    return {
        name: right(linear_probe(few_labels(train, n, seed), [task]), seen, task)
        for name, (train, seen) in coded.items()
    }


few = {(task.name, n): over_seeds(with_labels, task, n) for task in (gender, looks) for n in (50, 200)}

# %% [markdown]
# ### A few seconds of contrastive learning
#
# A small network with random weights goes through the course's one loop, `fit`. The method has no task and needs no
# label. Beside it the same training **without negatives**: pairs are brought together, and that is all. With a learning
# rate of almost 0 nothing is learnt, which makes the [random network](glossary.md#random-network).


# %%
class WithoutNegatives(Contrastive):
    def loss(self, model, batch):
        one, other = (self.projection(model(self.views(batch.inputs))) for _ in range(2))
        return 1 - F.cosine_similarity(one, other).mean(), {}


def trained(kind, lr):
    torch.manual_seed(0)
    network, how = FaceNetMini(), TrainConfig(batch_size=32, steps=30)
    method = kind(512, views=Views(smallest=0.6, light=0.1, grey=0))
    method.projection = torch.nn.Identity()  # usually a small network stands between; here the loss sees the embedding
    result = fit(network, method, many.resized(32), None, plan("scratch", list(network.stages), 1, lr), how)
    return network, result.history["train_loss"].iloc[-1]


networks = {"random network": trained(Contrastive, 1e-9), "contrastive": trained(Contrastive, 1e-3)}
networks["without negatives"] = trained(WithoutNegatives, 1e-3)

# %% [markdown]
# ### On features: what rows without labels add
#
# The features here are FaceNet's (in profile laptop **drawn** ones), 50 labels and 2,000 rows without. Three ways to
# use these rows, the last two with scikit-learn's estimators:
#
# - **8 components**: the directions in which they vary most, as in lesson 02
# - [label spreading](glossary.md#label-spreading): a label goes to the nearest neighbours, and on to theirs
# - [self-training](glossary.md#self-training): the probe answers, takes the answers of which it is 80 % sure as labels
#   ([pseudo-labels](glossary.md#pseudo-label)), and learns again

# %%
feature_pool, feature_test = (course.features().split(part) for part in ("train", "test"))


def beside_the_probe(task, seed, n=50):
    rows = few_labels(feature_pool, n + 2000, seed)
    few, rest = rows.select(range(n)), rows.select(range(n, n + 2000))
    eight, truth = components(rest, 8), feature_test.targets([task])[task.name].numpy()
    found = {"probe": right(linear_probe(few, [task]), feature_test, task)}
    found["8 components"] = right(linear_probe(eight(few), [task]), eight(feature_test), task)
    for name, learn in (("spreading", label_spreading), ("self-training", self_training)):
        found[name] = (learn(few, rest, task)(feature_test).argmax(1) == truth).mean()
    return found


added = {task.name: over_seeds(beside_the_probe, task) for task in (gender, race)}

# %% [markdown]
# ## Look at the result
#
# ### Who knows what

# %%
alt = "Accuracy of pixels, patches and the pretrained network with 200 labels, one plot a task: the values of the table below."
plots.show(plots.bar_panels({task: table for (task, n), table in few.items() if n == 200}), alt)

# %% tolerance=0.03
pd.concat({name: with_spread(table)[["mean", "±"]] for name, table in few.items()}, axis=1)

# %% [markdown]
# Read both tasks. For gender the network that labels taught is far ahead; FaceNet, which it was made from, saw millions
# of faces. For skin tone the patches are ahead, although no label made them. (In profile full the second task is race,
# which FaceNet knows well.) FaceNet was taught to know a person again in any light, so colour had to go. **Supervised transfer keeps what its own labels needed; self-taught features keep what varies.** Ask
# which of the two your question is.
#
# The record has more of everything, and the baselines that take longer: the contrastive network with two kinds of views,
# and the network `from scratch` that sees the labelled faces alone.


# %%
def means(name, *columns, where="metric == 'accuracy'"):
    record = recorded(name)
    print(record.caption())
    table = record.rows.query("metric == 'accuracy'").query(where).groupby(["method", *columns], sort=False)["value"]
    print(f"standard error of a mean over draws of labels: at most {table.sem().max():.3f}")
    return table.mean().unstack(columns).sort_index(axis=1).round(3)


means("selftaught_portraits", "task", "n")

# %% [markdown]
# Look at `from scratch` (120 steps), too. For gender it stays below the pixels; transfer is worth much. For skin tone, a
# question of colour, it is as good as the patches and with 1,000 labels the best of all: **an easy question needs no
# transfer.** Without that row the patches would look better than they are.
#
# Real photos, gender:

# %%
means("selftaught_fairface", "n", where="on == 'photos'")

# %% [markdown]
# ### A falling loss is not a feature
#
# `loss` is the mean over the steps. `dead` counts the directions, of 512, that are not needed for 99 % of the variance.
# `gender` is the accuracy of a probe with 200 labels, one seed.

# %% tolerance=0.03
rows = {}
for name, (network, loss) in networks.items():
    train, seen = (embed(network, part, size=32, cache=False) for part in (pool, test))
    score = right(linear_probe(few_labels(train, 200, 0), [gender]), seen, gender)
    rows[name] = {"loss": loss, "dead": dead_dimensions(seen), "gender": score}
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# Without negatives the loss is nearly perfect, for a bad reason: the network squeezes all faces onto a handful of
# directions, where any two views agree. That is the [collapse](glossary.md#collapse). The loss does not show it; the
# count does. Negatives keep more directions alive, and still a few seconds on a laptop make nothing: for gender no row
# is clearly better than the random network.
#
# Is it the time? Recorded are 2,000 steps instead of 30. `found` says how often a view is nearest to its partner; the
# dashed lines are of the record above, with the same 200 labels.

# %%
longer = recorded("contrastive_portraits")
print(longer.caption())
figures.table_of_steps(longer.rows)

# %%
alt = "Accuracy over the steps of contrastive learning: for gender it rises a little and stays below all dashed lines, for skin tone it rises to those of the patches and of the network from scratch."
plots.show(figures.over_steps(longer.rows, recorded("selftaught_portraits").rows), alt)

# %% [markdown]
# At the end nearly every view finds its partner: the network has learnt its own task. What that task teaches is another
# matter. For skin tone a thousand steps bring about what the patches have, since these views leave the colours; for
# gender all steps together do not reach the pixels, and the second thousand bring less than the first. More directions are
# dead than before the first step. So time alone does not mend it. That does not make the method a weak one: the paper
# took thousands of larger photos a step and days of many processors.

# %% [markdown]
# ### Rows without labels, on features

# %% tolerance=0.03
pd.concat({name: with_spread(table)[["mean", "±"]] for name, table in added.items()}, axis=1)

# %%
means("selftaught_fairface", "task", "n", where="on == 'features'")

# %% [markdown]
# In profile laptop the first table is of drawn features. Where it differs from the record, the record counts: drawn
# features are clouds without a shape that labels could follow; real faces of one kind lie along a path of neighbours.
# So on real ones spreading helps for gender, most with 20 labels, and for race with 20 alone. Self-training helps once the
# probe is right often enough, for gender from 50 labels on and for race with 200; with fewer it does harm.

# %% [markdown]
# ## What goes wrong
#
# ### Self-training for race
#
# Seven classes, 50 labels, and the probe learns on from its surest answers. Each row is the share of the faces that are,
# or are said to be, of this race:

# %% tags=["broken-on-purpose"] tolerance=0.05
few_rows, rest = few_labels(feature_pool, 50, 0), few_labels(feature_pool, 2000, 100)
first = race.predict(predict(linear_probe(few_rows, [race]), feature_test)[race.name]).numpy()
answers = {"true": feature_test.targets([race])[race.name].numpy(), "probe": first}
answers["self-training"] = self_training(few_rows, rest, race)(feature_test).argmax(1)
shares = {name: np.bincount(each, minlength=7) / len(each) for name, each in answers.items()}
pd.DataFrame(shares, race.classes).round(2)

# %% [markdown]
# The column `self-training` has given up some races almost wholly: their faces got another race's label, with
# confidence, and became its teachers. This is harm that no average shows. Before a model may learn from its own answers
# its probabilities must be right ([calibration](glossary.md#calibration)), and you need labels enough to see what
# happens to each class.
#
# ### Other ways to fool yourself
#
# - **No dull baseline.** A learnt feature that loses to 16 × 16 pixels is easy to publish and worth nothing.
# - **Views that erase the answer.** What two views of a face differ in, the network learns to ignore. Compare the two
#   contrastive rows of the record for skin tone: views with other colours train away what the question needs.
# - **Other classes.** Self-taught learning allows an unlabelled set of anything; spreading and self-training do not.
#   They give every row one of your classes, also a cat.

# %% [markdown]
# ## Exercises
#
# ### 9.1 Which kind of transfer?
#
# - `cats`: a million photos from the web, then 200 labelled photos of your cats
# - `clinic`: 50 of 3,000 photos of one clinic are labelled, and the others of these 3,000 are to be used, too
# - `names`: a network that was trained to tell people apart, then 200 labels of age
# - `sketch`: labelled photos, and sketches of the same classes without any label

# %% tags=["solution"]
# TODO: "self-taught", "semi-supervised", "supervised transfer" or "domain adaptation" for each
# <solution>
kinds = {
    "cats": "self-taught",
    "clinic": "semi-supervised",
    "names": "supervised transfer",
    "sketch": "domain adaptation",
}
# <todo>
# kinds = {"cats": ..., "clinic": ..., "names": ..., "sketch": ...}
# </solution>

# %%
exercise("09.1").check(kinds)
# exercise("09.1").hint()

# %% [markdown]
# ### 9.2 The triangle
#
# Distances of one patch to all centroids come in. What is its code?


# %% tags=["solution"]
def code_of(distances):
    # TODO: how much nearer than the mean, and 0 where it is not nearer
    # <solution>
    return (distances.mean() - distances).clamp(min=0)
    # </solution>


# %%
exercise("09.2").check(code_of)
# exercise("09.2").hint()

# %% [markdown]
# ### 9.3 The loss that says nothing
#
# A batch has `n` photos, so 2n views, and the network has collapsed: all views are alike. What is the loss?


# %% tags=["solution"]
def collapsed_loss(n):
    # TODO: every view guesses among how many others?
    # <solution>
    return np.log(2 * n - 1)
    # </solution>


# %%
exercise("09.3").check(collapsed_loss)
# exercise("09.3").hint()

# %% [markdown]
# ### 9.4 The surest answers, fairly
#
# Self-training took all answers above a threshold, and one class took over. Take instead, for each class, the `k` rows
# whose probability of this class is highest, if they also answer it. Return their places in rising order.


# %% tags=["solution"]
def surest(answers, k):
    # TODO: answers (N, K): for each class the k highest among the rows whose answer it is
    # <solution>
    said, chosen = answers.argmax(1), []
    for c in range(answers.shape[1]):
        rows = np.flatnonzero(said == c)
        chosen += list(rows[np.argsort(-answers[rows, c], kind="stable")[:k]])
    return np.sort(chosen)
    # </solution>


# %%
exercise("09.4").check(surest)
# exercise("09.4").hint()

# %% [markdown]
# ### 9.5 Your own experiment
#
# Change one thing about the patches and say beforehand what should happen: number of centroids, size of patches, how many
# unlabelled faces. Give a table of `over_seeds` with a column `pixels` and at least 3 seeds.
#
# **What counts** (a point each): one thing is changed and all else is equal; the test faces chose nothing; the spread
# is there and you say what it allows; you said before what you expected; you say where it should fail.

# %% tags=["solution"]
# TODO: a table with one row a seed and one column a method, "pixels" among them
# <solution>
# Expected: a hundred unlabelled faces already show nearly all edges there are, so many more should add little.
by_size = {f"{n} faces": patch_codes(many.select(range(n)), k=40) for n in (100, 1000)}
inputs = {name: (code(pool), code(test)) for name, code in by_size.items()} | {"pixels": coded["pixels"]}


def sizes(seed):
    return {name: right(linear_probe(few_labels(a, 200, seed), [looks]), b, looks) for name, (a, b) in inputs.items()}


experiment = over_seeds(sizes, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.03
exercise("09.5").check(experiment)
# exercise("09.5").hint()

# %% [markdown] tags=["solution-only"]
# A hundred faces hold 48,000 patches, and edges look alike everywhere: ten times as many faces change little. It should
# fail with faces of one light and one skin.

# %% [markdown]
# ## Quiz

# %%
quiz("09").show()

# %% [markdown]
# ## Recap
#
# - The first set has no labels. Features are learnt from it, then a classifier from few labels.
# - Patches, K-means and the triangle code are self-taught learning in a page of code. They beat pixels.
# - Supervised transfer wins where its labels asked something like your question; self-taught features win where it had
#   to forget what you ask for. Where the question is easy, no transfer is needed: run `from scratch` to see.
# - A contrastive loss needs negatives (or another guard against collapse), and falls whether features are good or not.
# - Neighbours help with very few labels. A model that learns from itself repeats what it is wrongly sure of.
# - The assumption that decides: what varies among inputs must have to do with what is asked.

# %% [markdown]
# ## References
#
# - Raina, Battle, Lee, Packer, Ng: [Self-taught Learning: Transfer Learning from Unlabeled Data](https://doi.org/10.1145/1273496.1273592), ICML 2007
# - Coates, Lee, Ng: [An Analysis of Single-Layer Networks in Unsupervised Feature Learning](https://proceedings.mlr.press/v15/coates11a.html), AISTATS 2011
# - Chen, Kornblith, Norouzi, Hinton: [A Simple Framework for Contrastive Learning of Visual Representations](https://arxiv.org/abs/2002.05709), ICML 2020
# - Jing, Vincent, LeCun, Tian: [Understanding Dimensional Collapse in Contrastive Self-supervised Learning](https://arxiv.org/abs/2110.09348), ICLR 2022
# - He, Chen, Xie, Li, Dollár, Girshick: [Masked Autoencoders Are Scalable Vision Learners](https://arxiv.org/abs/2111.06377), CVPR 2022
# - Gidaris, Singh, Komodakis: [Unsupervised Representation Learning by Predicting Image Rotations](https://arxiv.org/abs/1803.07728), ICLR 2018
# - Zhou, Bousquet, Lal, Weston, Schölkopf: [Learning with Local and Global Consistency](https://papers.nips.cc/paper/2506-learning-with-local-and-global-consistency), NIPS 2003
# - Yarowsky: [Unsupervised Word Sense Disambiguation Rivaling Supervised Methods](https://aclanthology.org/P95-1026/), ACL 1995
