# %% [markdown]
# # 08 · Multi-domain learning
#
# One network finds lesions on skin, names things and reads words. You share its layers among three kinds of pictures,
# see where they get in each other's way, give each a little of its own, and add a fourth without touching the others.

# %% [markdown]
# ## What you will be able to do
#
# - tell multi-task from multi-domain learning, and say what can be shared in each
# - train one network on pictures of several kinds, with a step that sees all of them
# - build a residual adapter by hand, and say what it costs and why it starts at zero
# - read a text of unknown length with CTC, and score boxes and texts
# - add a domain to a network that is in use, and prove that nothing else has changed
# - choose between a network each, one network, and a frozen trunk with adapters

# %% [markdown]
# ## What you need
#
# Fine-tuning, frozen stages and BatchNorm from [lesson 04](04_fine_tuning.ipynb), several heads on one trunk from
# lesson 06.

# %% [markdown]
# ## The idea
#
# ![Left, multi-task: a face goes through one trunk to three heads. Right, multi-domain: skin, things and words go through the layers of one trunk; beside each layer every domain has a small adapter, and above them a head of its own](figure.svg)
#
# In **multi-task** learning one picture has several labels: the same face is asked for gender and for age. In
# **multi-domain** learning there are several kinds of pictures, each with a task of its own: *where* is the lesion,
# *which* thing is it, *what* is written. No picture has more than one kind of label. What the domains have in common is
# only the network: early layers find edges and colours, and those are good for everything.
#
# Three ways to serve three domains:
#
# - **a network each**: nothing is shared, nothing interferes, and everything is paid for three times;
# - **one network** with three heads: cheapest, and every step for one domain moves the weights of the others;
# - **a frozen trunk**, and for each domain a few weights of its own inside of it, its **adapters** (Rebuffi et al. 2017).

# %% [markdown]
# ## Build it
#
# ### Three domains
#
# On a laptop all pictures are drawn by facekit, small ones, so that it can learn from them in seconds. In profile `full`
# the things are photos (CIFAR-10) and the words captchas, and photos of lesions (ISIC), to be told apart by diagnosis, are
# a domain of their own; the skin is drawn there as well, since nobody has drawn boxes on those photos. Nothing about
# medicine can be learnt from any of it. The trunk is facenet-mini in both profiles: it was taught to see faces, and faces
# will be the last domain.

# %%
import copy
import textwrap

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.course import exercise, lesson, quiz, start
from facekit.show import plots

course, figures = start("08"), lesson("08").figures
kinds = course.domains()
domains, train, test = kinds.domains, kinds.split("train"), kinds.split("test")
for domain in domains:
    about = ", ".join(f"{task.name} ({task.kind})" for task in domain.tasks)
    size = " × ".join(map(str, train[domain.name].images.shape[2:]))
    print(f"{domain.name}: {len(train[domain.name])} pictures of {size} to learn from, asked for {about}")

# %%
for domain in domains:
    pictures, column = train[domain.name], domain.tasks[0].name
    some = pictures.select(np.linspace(0, len(pictures) - 1, 6).astype(int))
    captions = [f"{column}:\n" + textwrap.fill(label, 16) for label in some.labels[column]]
    plots.show(plots.image_grid(some.images, captions), alt=f"{domain.name}: six pictures, each with its label.")

# %% [markdown]
# Several domains, three kinds of answer, and so three kinds of loss and score:
#
# | domain | task | the network's output | loss | score |
# |---|---|---|---|---|
# | skin | is there a lesion? | two scores | cross-entropy | accuracy |
# | skin | where is it? | left, top, right, bottom | distance of the sides, and overlap | intersection over union (IoU) |
# | things | which of ten? | ten scores | cross-entropy | accuracy |
# | words | which characters? | scores at every column of the picture | CTC | character error rate |
#
# A missing label (a box, where there is no lesion) does not count, as always.
#
# A `Domain` is a name with its tasks, such as `Domain("skin", (LESION, BOX))`. `DomainNet` takes a backbone as trunk and
# gives each domain its own adapters, BatchNorms and heads. The heads read
# different stages: a class is the mean over the last map, a box or a text needs a finer map, in which places are left.

# %%
from facekit.models.adapters import Domain, DomainNet, ParallelAdapter
from facekit.models.backbones.mini import FaceNetMini

mini = FaceNetMini.from_pretrained()
net = DomainNet(mini, domains).eval()
BOX, TEXT = domains[0].tasks[1], domains[-1].tasks[0]
net.costs()

# %% [markdown]
# Numbers of parameters. The trunk is there once. What a further domain costs is its row, and most of that are the
# adapters.
#
# ### A residual adapter by hand
#
# A filter of the trunk sees 3 × 3 pixels and is frozen. Beside it you put a 1 × 1 convolution that belongs to one domain
# and add what both say. It starts at **zero**: at the beginning the new domain has exactly what the trunk knows, and it
# moves away only as far as its labels ask. This is the *parallel* form; in *series*, the adapter stands behind the filter
# and sees its output.

# %%


class Adapted(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.adapter = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, bias=False)
        nn.init.zeros_(self.adapter.weight)

    def forward(self, x):
        return self.conv(x) + self.adapter(x)


conv, x = mini.stage_3.conv_1.conv, torch.rand(2, 128, 8, 8)
by_hand, theirs = Adapted(conv), ParallelAdapter(conv)
print("at the start exactly the frozen filter:", torch.equal(by_hand(x), conv(x)))
nn.init.normal_(by_hand.adapter.weight, std=0.1)
theirs.conv.load_state_dict(by_hand.adapter.state_dict())
print("by hand and facekit agree:", torch.equal(by_hand(x), theirs(x, conv(x))))

# %% [markdown]
# ### Reading with CTC
#
# How many letters a word has is not known before it is read. The head therefore gives scores at *every column* of a map:
# for each symbol, and for the **blank**, which means "nothing new here". Take the best class of each column and you
# have a path such as `7 7 – 4 – 4 4`. It spells a word in two steps: merge repeats, then drop blanks. Here that makes
# `744`; the blank between them keeps the two fours apart.
#
# The loss, **CTC** (Graves et al. 2006), is -log of the word's probability, summed over *all* paths that spell it, so
# that nobody has to say which digit is in which column.


# %%
def read(path):  # class 0 is the blank, class k the k-th character
    text, before = "", 0
    for sign in path:
        if sign not in (0, before):
            text += TEXT.classes[sign - 1]
        before = sign
    return text


print("spelled:", read([6, 6, 0, 3, 0, 3, 3]))
with torch.inference_mode():
    scores = net(torch.from_numpy(test["words"].images), "words")["text"]
print("scores of each word (columns, classes):", tuple(scores.shape[1:]))
by_hand = [read(path) for path in scores.argmax(2).tolist()]
print("by hand and facekit read the same:", by_hand == TEXT.texts(TEXT.predict(scores)))

# %% [markdown]
# ### A step for all domains
#
# A batch has pictures of one size, so each domain has its own. Their gradients add up in whatever weights they share,
# and then the optimiser makes one step.

# %%
net.freeze(net.trunk.stages)
net.train()
optimiser, losses = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2), {}
for domain in net.domains:
    batch = train[domain.name].select(range(16))
    outputs, targets = net(torch.from_numpy(batch.images), domain.name), batch.targets(domain.tasks)
    losses |= {task.name: task.loss(outputs[task.name], targets[task.name]) for task in domain.tasks}
(sum(losses.values()) / len(net.domains)).backward()
optimiser.step()
others = max(loss.item() for task, loss in losses.items() if task != "text")
print("a word costs more than three times what any other answer costs:", losses["text"].item() > 3 * others)

# %% [markdown]
# A word costs several times what a thing costs, because it is several answers at once. Where weights are shared, that
# would decide for whom they are made. facekit's `scale_weights` divides each loss by what it is without a look at the
# pictures (for classes the entropy of the labels), so that all start at about 1.
#
# `fit` takes several sets by name; with the method `PerDomain` it is the step above in a loop, with scales where you give
# them, a learning rate that rises and falls, and a choice of how many rows each domain gets.

# %% [markdown]
# ## Run it
#
# ### Who shares what
#
# `METHODS` lists the ways to serve several domains. Here are three of them, from the same start, with the same pictures
# in the same batches:
#
# - *frozen, own norms*: no filter of the trunk moves; each domain has its BatchNorms and heads;
# - *one network*: all domains train the trunk, and have nothing but heads of their own;
# - *parallel adapters*: the trunk is frozen; each domain has its adapters, BatchNorms and heads.

# %%
from facekit.transfer.domains import METHODS, PerDomain, score_domains, serve

ways = {way.name: way for way in METHODS}
names = ("frozen, own norms", "one network", "parallel adapters")
runs = {name: serve(ways[name], mini, domains, train, kinds.recipe, seed=0) for name in names}
results = pd.DataFrame({name: run.summary(test) for name, run in runs.items()}).T

# %%
plots.show(plots.bars_by_column(results), alt="Scores of three ways on each domain, computed here.")

# %% tags=["nbval-ignore-output"] reason="seconds differ from machine to machine"
costs = [(name, run.parameters, round(run.seconds, 1)) for name, run in runs.items()]
pd.DataFrame(costs, columns=["way", "parameters a domain adds", "seconds of training, all domains"])

# %% [markdown]
# For accuracy and IoU higher is better, for the character error rate (edits divided by letters) lower is. The seconds are
# this machine's. And all this is one short run, an anecdote. Here are all seven ways on drawn pictures, recorded with more
# of them, more steps and three seeds (the dots).

# %%
from facekit.records import recorded

record = recorded("domains_drawn")
plots.show(figures.ways_figure(record.rows), alt="Seven ways to serve three domains, three seeds each, recorded.")
print(record.caption())

# %%
figures.ways_table(record.rows)

# %% [markdown]
# Means over the seeds; the seconds are those of training for all domains, on one core of a machine with other work to do.
#
# Read the figure from both ends.
#
# - **A network each** is what there is to reach: 0.74 of the things named right, 6 of a hundred letters misread, and 1.8
#   million parameters a domain.
# - **One network** interferes with itself: it names 0.67 of the things, its boxes are three points worse, and it misreads
#   12 letters of a hundred. **Own norms**, some four thousand parameters a domain, bring back nearly all that boxes have
#   lost, most of what things have, and two fifths of what words have.
# - The **frozen** trunk with heads alone is what face features give away for nothing, and it is far behind in all three.
#   Own norms add 18 points on things.
# - **Adapters** close most of the rest with the trunk still frozen. In *series*, at 18 % of a network's parameters, they
#   are within one point of a network each in all three. In *parallel*, at 14 %, they are between one and two points
#   behind on things, and between two and three on boxes and words.
#
# In the paper of 2018 the parallel form is the better one; with this trunk and one learning rate for both it is not, on
# drawn pictures. All seven had the same budget; the rates were chosen for a network each and for parallel adapters, on
# other pictures, and the other ways had to do with them. For domains of your own, `compare_domains` in
# `facekit.transfer.domains` measures the same seven ways.
#
# So sharing costs a little here, and helps nobody: each domain has pictures enough of its own, and skin teaches little
# about digits. What sharing buys is room and, with a frozen trunk, the safety that you will see below.

# %% [markdown]
# ### The same on real pictures
#
# Photos of lesions, CIFAR-10 and captchas, again with three seeds, scored on test pictures:

# %%
real = recorded("domains_real")
rows = real.rows[real.rows["split"] == "test"]
fig = figures.ways_figure(rows, figures.REAL_PANELS)
plots.show(fig, alt="Five ways to serve lesions, things and captchas, three seeds each.")
print(real.caption())

# %%
figures.ways_table(rows, figures.REAL_PANELS)

# %% [markdown]
# Means over the seeds; in brackets the 95 % interval over the test pictures.
#
# - **One network** with own norms is level with a network each on things and captchas and 1.5 points behind on lesions.
#   Nearly everything is shared here, and nearly nothing is lost.
# - **Parallel adapters**, at 14 % of a network's parameters, are 1.3 points behind on lesions and 2.8 on things, and misread
#   one captcha of all that three seeds were asked. **Series adapters** are 3.1 and 2.3 points behind, and with one seed of
#   three they never began to read: every answer stayed blank or wrong (the dot at zero).
# - The **frozen** trunk with own norms, two per cent of the parameters, reads the captchas all the same, and is 7 to 8
#   points behind on lesions and things.
#
# How far can that be trusted? There are 206 test photos of lesions, and the interval over photos is ± 6 points: on lesions
# only the frozen trunk is farther behind than that. On 1,000 things it is ± 3. The captchas, all in one font and in nearly
# the same places, are too easy to tell the others apart.

# %% [markdown]
# ## Look at the result
#
# ### What it sees
#
# The network with adapters, on test pictures: the box that it draws (white) and the true one (black), and what it reads.

# %%

from facekit.tasks.boxes import outlined
from facekit.training.loop import TrainConfig, fit, predict

net = runs["parallel adapters"].nets["skin"]
some = test["skin"].select(np.flatnonzero(test["skin"].labels["lesion"] == "yes")[:6])
images = outlined(some.images, some.targets([BOX])["box"], value=0)
images = outlined(images, BOX.predict(predict(net.only("skin"), some)["box"]), value=255)
plots.show(plots.image_grid(images), alt="Six lesions with the true box in black and the predicted one in white.")

# %%
from facekit.tasks.texts import beam_search

shown = test["words"].select(range(6))
scores = predict(net.only("words"), shown)["text"]
read_as = zip(shown.labels["text"], TEXT.texts(TEXT.predict(scores)), TEXT.texts(beam_search(scores)), strict=True)
captions = ["\n".join(text or "–" for text in texts) for texts in read_as]
plots.show(plots.image_grid(shown.images, captions), alt="Six words: what is written, and two readings of it.")

# %% [markdown]
# Below each word stand what is written, what **greedy** decoding reads (the best class at each column), and what **beam
# search** reads, which adds up the paths that spell the same word. Where the network is sure they agree. Where it is not,
# the blank may be the best class of every column, and greedy decoding loses a symbol whose probability lies on several.
#
# ### Domains of different size
#
# How many of a step's rows should a small domain get? In proportion to its pictures it hardly occurs; in equal parts its
# few pictures are repeated until they are known by heart. A **temperature** lies between: shares are proportional to
# the sizes at 1 and equal at infinity.

# %%
from facekit.show.widgets import explore
from facekit.training.shares import domain_shares


def shares_at(temperature):
    shares = domain_shares({"10,000 pictures": 10_000, "1,000": 1_000, "100": 100}, temperature)
    return plots.bars_by_column(pd.DataFrame({f"share of a step at temperature {temperature}": shares}))


explore(
    shares_at,
    temperature=[1, 2, 5, 100],
    alt=lambda temperature: f"Shares of domains of 10,000, 1,000 and 100 pictures at temperature {temperature}.",
    settings=[{"temperature": 1}, {"temperature": 5}],
)

# %% [markdown]
# ### One more domain: faces
#
# The network is in use, and somebody wants faces, too. Add the domain, train what it owns, and compare: has anything
# changed for the others?

# %%
from facekit.tasks import GENDER
from facekit.training.plans import plan

faces = course.faces().resized(32)
before, answers = net.hashes(), predict(net.only("things"), test["things"])["object"]
net.add(Domain("faces", (GENDER,)))
method, parts = PerDomain(net.domains[-1:]), {"faces": faces.split("train")}
fit(net, method, parts, None, plan("everything", ["faces"], 1, 1e-2), TrainConfig(32, steps=50))  # the rest is frozen
print("unchanged:", [name for name, value in net.hashes().items() if value == before.get(name)])
same = torch.equal(predict(net.only("things"), test["things"])["object"], answers)
print("answers for things are the same, bit for bit:", same)
accuracy = score_domains(net, {"faces": faces.split("test")})["value"][0]
print("gender is told better than by chance:", accuracy > 0.55)

# %% [markdown]
# `hashes` takes every number into account, weights and BatchNorm statistics. Nothing of the trunk has moved, and
# nothing that belongs to the others, so that no test of the old domains has to be repeated. Nor has the new one helped
# them: what is frozen learns from nobody.
#
# ### How far do face features carry?
#
# The trunk was taught faces and nothing else. Is it of any use for skin, things and words, or would any filters do?
# Here is the way *frozen, own norms* once more, on a trunk of random weights. (Its BatchNorms are each domain's own, so
# that nothing but the filters is compared.)

# %%
torch.manual_seed(0)
random = serve(ways["frozen, own norms"], FaceNetMini(), domains, train, kinds.recipe, seed=0).summary(test)
trunks = pd.DataFrame({"random, own norms": random} | dict(results.drop("one network").T.items())).T
plots.show(plots.bars_by_column(trunks), alt="Scores with frozen filters that are random and that were taught faces.")
gain = trunks.loc["frozen, own norms"] - trunks.loc["random, own norms"]
gain *= 1 - 2 * gain.index.str.contains("error")  # of errors fewer are better
print("the filters that know faces are better at", [name.replace("\n", ": ") for name in gain[gain > 0.05].index])

# %% [markdown]
# They know nothing of skin, things or letters, and are still better than filters that know nothing at all, wherever those
# leave something to gain: edges, colours, corners and strokes are common to all pictures. What they lack, the adapters
# add. How far features carry is measured in this way, against a **random** trunk; a comparison with chance alone would
# give them credit for what any filters do.

# %% [markdown]
# ## What goes wrong
#
# ### The trunk learns along
#
# A few steps for faces again, but this time the trunk learns along, at a rate that suits a new network.

# %% tags=["broken-on-purpose"]
spoiled, stages = copy.deepcopy(net), [*net.trunk.stages, "faces"]
fit(spoiled, method, parts, None, plan("everything", stages, 1, 1e-2), TrainConfig(32, steps=40, seed=1))
before, after = (score_domains(each, test).set_index(["task", "metric"])["value"] for each in (net, spoiled))
ratio = after / before
print("of the things named right before, less than two thirds are left:", ratio["object", "accuracy"] < 0.67)
print("and at least a fifth more letters are misread:", ratio["text", "character_error_rate"] > 1.2)

# %% [markdown]
# No error message, and nobody who tests faces alone would notice. The other domains' adapters and heads are as they were,
# but they were made for a trunk that is no longer there. Either the trunk is frozen, or a step must see pictures of every
# domain that is to be kept.

# %% [markdown]
# ### Statistics of no domain
#
# Look at "one network" in the recorded figure once more, and at its neighbour with own norms: the same training, but for
# some four thousand numbers a domain. With common BatchNorms each batch in training is of one domain and is normalised
# with its own mean and variance; in use the stored averages take their place, and those are a mixture of skin, things and
# words. The loss in training looks fine, and the network in use is another one. Own norms remove the question.

# %% [markdown]
# ### A letter that is not in the alphabet
#
# CTC can read only what it has a class for. Somebody has typed the letter O where no letter belongs:

# %% tags=["raises-exception"]
TEXT.encode(pd.Series(["74", "7O"]))

# %% [markdown]
# ## Exercises
#
# ### 08.1 Intersection over union
#
# Write the score of a box: the area that two boxes have in common, divided by the area that they cover together. A box
# is a tuple (left, top, right, bottom).


# %% tags=["solution"]
def iou(one, other):
    # TODO: the sides of the intersection, its area (0 if they do not meet), then the union
    # <solution>
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)
    # </solution>


# %%
exercise("08.1").check(iou)
# exercise("08.1").hint()

# %% [markdown]
# ### 08.2 What an adapter costs
#
# A 3 × 3 convolution leads from 128 to 320 channels, and a BatchNorm follows. A new domain gets a parallel adapter beside
# the convolution and a BatchNorm of its own. How many numbers does it learn here?

# %% tags=["solution"]
# TODO: count the adapter's weights and what the BatchNorm learns
# <solution>
adapter_numbers = 128 * 320 + 2 * 320
# <todo>
# adapter_numbers = ...
# </solution>

# %%
exercise("08.2").check(adapter_numbers)
# exercise("08.2").hint()

# %% [markdown]
# ### 08.3 How often is each domain seen?
#
# `sizes` is the number of pictures of each domain. Return their shares of a step, a list that sums to 1, at a temperature:
# proportional to the sizes at 1, equal at infinity.


# %% tags=["solution"]
def shares(sizes, temperature):
    # TODO: raise each size to a power that depends on the temperature, then divide by the sum
    # <solution>
    weights = [size ** (1 / temperature) for size in sizes]
    return [weight / sum(weights) for weight in weights]
    # </solution>


# %%
exercise("08.3").check(shares)
# exercise("08.3").hint()

# %% [markdown]
# ### 08.4 A domain of your own
#
# Take pictures of two or more kinds (mugs and plates, your handwriting, leaves) and sort them into a folder for each. Write
# the function that makes a domain of such a folder: pack it at 32 pixels into `dest` with `kind="classes"`, ask
# `class_task` for the task of its column `class`, and return the pictures and a `Domain` called `mine` with that task. The
# check tries it on a folder of its own.

# %% tags=["solution"]
from facekit.data.pack import pack
from facekit.data.readers.classes import class_task


def own_domain(folder, dest):
    # TODO: pack the folder, make the task, return (pictures, domain)
    # <solution>
    packed = pack(folder, dest, size=32, kind="classes")
    return packed, Domain("mine", (class_task(packed, "class"),))
    # </solution>


# %%
exercise("08.4").check(own_domain)
# exercise("08.4").hint()

# %% [markdown]
# Then go on as with the faces: `net.add(domain)`, `fit` with `PerDomain([domain])` and the rate 0.01 for the stage
# `mine`, `score_domains`. Fifty pictures of each kind are a start.

# %% [markdown]
# ## Quiz

# %%
quiz("08").show()

# %% [markdown]
# ## Recap
#
# - Multi-task: several labels for the same pictures. Multi-domain: several kinds of pictures, each with its own task; only
#   the network is common.
# - A step sees a batch of every domain, adds up their gradients and moves once. Scales make losses comparable, a
#   temperature says how often each domain is seen.
# - A residual adapter is a 1 × 1 convolution beside a frozen filter; at zero it changes nothing.
# - Give every domain its own BatchNorm, or at least test in evaluation mode on each of them.
# - With a frozen trunk a domain can be added later, and the others stay as they are, bit for bit.
# - Whether features carry over to another kind of picture is measured against a random trunk, not assumed.
# - What if there are no labels at all for the kind of picture you have? That is
#   self-taught learning, lesson 09.

# %% [markdown]
# ## References
#
# - Bilen, Vedaldi: [Universal representations: The missing link between faces, text, planktons, and cat breeds](https://arxiv.org/abs/1701.07275), 2017
# - Rebuffi, Bilen, Vedaldi: [Learning multiple visual domains with residual adapters](https://arxiv.org/abs/1705.08045), NIPS 2017 (series)
# - Rebuffi, Bilen, Vedaldi: [Efficient parametrization of multi-domain deep neural networks](https://arxiv.org/abs/1803.10082), CVPR 2018 (parallel)
# - Graves, Fernández, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006
# - Hannun, Maas, Jurafsky, Ng: [First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs](https://arxiv.org/abs/1408.2873), 2014 (beam search over prefixes)
# - Rezatofighi et al.: [Generalized Intersection over Union](https://arxiv.org/abs/1902.09630), CVPR 2019
# - Arivazhagan et al.: [Massively Multilingual Neural Machine Translation in the Wild](https://arxiv.org/abs/1907.05019), 2019 (temperature)
