# %% [markdown]
# # 14 · Full scale: from one core to many GPUs
#
# The same training on one core, on one GPU, on many. You guess what each switch brings and measure it on your machine,
# find out where the time goes, make two processes agree, and compute what a run costs before it starts.

# %% [markdown]
# ## What you will be able to do
#
# - say what each switch of the training loop changes, and measure what it brings where you are
# - say with numbers why weights stay in float32 when a network computes in 16 bits
# - read a profile, and find what slows a loop down
# - average gradients over processes by hand, and say what else changes with several of them
# - compute time, energy, money and memory of a run

# %% [markdown]
# ## What you need
#
# The training loop of [lesson 00](00_start_here.ipynb) and [fine-tuning](glossary.md#fine-tuning) from
# [lesson 04](04_fine_tuning.ipynb). Any machine will do, even one core. What is said here about GPUs is arithmetic
# or has its source beside it; what was not measured is said to be "not measured".

# %% [markdown]
# ## The idea
#
# ![A training step as four boxes: batch, forward, backward, optimiser. Below, two processes take half of the batch each, an arrow between them averages their gradients, and both make the same step. At the right three ways to be faster: cheaper parts, no gaps, more hands](figure.svg)
#
# A training step makes a batch, goes forward and backward, and moves the weights.
# [Throughput](glossary.md#throughput) is how many photos go through it in a second. Three things raise it:
#
# - **Cheaper parts**: fewer bits, another order in memory, fewer passes over it.
# - **No gaps**: data that is there, and nobody who waits.
# - **More hands**: several processes share each batch, which is called [data parallelism](glossary.md#data-parallelism).
#
# None of them may change what is learnt, but for rounding. So each comes with a check.

# %% [markdown]
# ## Build it

# %%
import math

import pandas as pd
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.profiler import profile, record_function
from torchvision.transforms import v2

from facekit.course import exercise, lesson, quiz, start
from facekit.data.portraits import render_portraits
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import few_labels, speed
from facekit.records import recorded
from facekit.show import plots
from facekit.tasks import GENDER, RACE
from facekit.training.augment import Augment
from facekit.training.batches import Batches

course, figures, scale = start("14"), lesson("14").figures, lesson("14").load("scale")
all_rows = course.features()
learn, test = few_labels(all_rows.split("train"), 6000, seed=0), all_rows.split("test")
features, classes = torch.tensor(learn.features), learn.targets([RACE])["race"]

# %% [markdown]
# ### Fewer bits, by hand
#
# A number in a computer is a sign, an exponent and a [mantissa](glossary.md#mantissa). The exponent says between which
# two powers of two it lies, the mantissa where between them. Half the bits are half the work for memory, and less for
# the arithmetic. The price is a wider gap between one number and the next:

# %%
BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}  # of the mantissa


def gap(x, bits):
    return 2.0 ** (math.floor(math.log2(abs(x))) - bits)


def rounded(x, bits):
    return round(x / gap(x, bits)) * gap(x, bits)  # halfway Python takes the even one, as processors do


same = [rounded(x.item(), bits) == x.to(kind).item() for kind, bits in BITS.items() for x in torch.randn(1000)]
print("by hand and torch agree:", all(same))
pd.DataFrame({str(kind): {x: gap(x, bits) for x in (0.05, 1, 256, 900)} for kind, bits in BITS.items()})

# %% [markdown]
# [bfloat16](glossary.md#bfloat16) (Kalamkar et al. 2019) has the exponent of float32 and few bits of mantissa: 8 with
# the leading one, which is not stored.
#
# **Guess first:** 1 is added to a sum, again and again. From a weight of 1 you take 0.001, again and again. Where are
# both after 100, 300 and 900 times, in each of the three kinds?


# %%
def repeated(n, kind):
    total, weight = torch.zeros((), dtype=kind), torch.ones((), dtype=kind)
    for _ in range(n):
        total += 1
        weight -= 0.001
    return {"sum": total.item(), "weight": weight.item()}


pd.DataFrame({(str(kind), n): repeated(n, kind) for kind in BITS for n in (100, 300, 900)}).T.round(3)

# %% [markdown]
# In bfloat16 the sum stands still at 256: 257 has no place, and halfway the even neighbour is 256. The weight never
# moves, since 0.001 is less than half the gap below 1. Nothing fails, no message comes.
#
# So in [mixed precision](glossary.md#mixed-precision) (Micikevicius et al. 2018) only the network **computes** in
# 16 bits. Weights, the optimiser's averages, sums and losses stay in float32. In PyTorch `torch.autocast` does that,
# layer by layer.
#
# float16 has a finer mantissa and a smaller exponent. Look at what its range does to small and to large numbers:

# %%
some = torch.tensor([1e-8, 1e-4, 1, 7e4])
kinds = {"float16": some.half(), "float16, scaled": (1024 * some).half().float() / 1024, "bfloat16": some.bfloat16()}
pd.DataFrame({name: values.float().numpy() for name, values in kinds.items()}, [f"{x:g}" for x in some.tolist()])

# %% [markdown]
# Gradients can be as small as 1e-8, and float16 makes them 0. So the loss is multiplied by a large factor before
# the way back, and the gradients are divided by it in float32: [loss scaling](glossary.md#loss-scaling). What gets too
# large becomes infinite; then `torch.amp.GradScaler` leaves the step out and takes a smaller factor. bfloat16 reaches
# as far as float32, and needs none of this. facekit has no float16.

# %% [markdown]
# ### Two processes, by hand
#
# Each process holds the whole network and takes every second row of a batch. The mean gradient of the batch is the mean
# of both halves' means. [All-reduce](glossary.md#all-reduce) puts the sum over all processes in the place of what each
# had.


# %%
def train(features, classes, batch=64, lr=0.1, epochs=1, rank=0, size=1, average=True, seed=0):
    torch.manual_seed(seed)  # the same first weights and the same order of rows in every process
    net = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 7))
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(features)).split(batch):
            mine = rows[rank::size]  # of two processes every second row, of one all
            loss = F.cross_entropy(net(features[mine]), classes[mine])
            optimiser.zero_grad()
            loss.backward()
            for weight in net.parameters() if size > 1 and average else ():
                dist.all_reduce(weight.grad)  # now it is the sum over all processes
                weight.grad /= size
            optimiser.step()
    return net


# %% [markdown]
# With a few lines below it, this function is a program. It trains twice: with averages, and without. gloo talks
# between processors; between NVIDIA's GPUs it is nccl.

# %%
OUT = scale.folder()
torch.save((features, classes), OUT / "rows.pt")
(OUT / "two.py").write_text(scale.program(train))
print(scale.JOIN)

# %%
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"
print(scale.python(OUT, f"{TORCHRUN} two.py"))

# %% [markdown]
# `torchrun`, which is `python -m torch.distributed.run`, starts as many processes as you say, and tells each its number,
# the [rank](glossary.md#rank). On Windows PyTorch's parts for this are little tested; if the cell above stops there, go
# on at "The switches", and leave out the part about facekit's command.
#
# **Guess first:** here are four networks, of both processes with and without averages. How far is each from the one
# that a single process learns with whole batches?

# %% tolerance=0.05
whole = train(features, classes).state_dict()


def apart(rank, average):
    found = torch.load(OUT / f"{rank}_{average}.pt")
    return max((found[key] - whole[key]).abs().max().item() for key in whole)


table = [[apart(rank, average) for average in (True, False)] for rank in (0, 1)]
pd.DataFrame(table, columns=["averaged", "not averaged"]).rename_axis("process").round(4)

# %% [markdown]
# With averages both processes hold the network of one process, up to rounding, which the order of a sum decides.
# Without them each has learnt from its own half, and there are two networks.

# %% [markdown]
# ## Run it
#
# ### The same from facekit
#
# facekit's loop is one for all of this. Only the start differs; each process then finds the others by itself. It
# averages with PyTorch's DistributedDataParallel, which sends the last layers' gradients while the first ones are still
# computed.

# %%
all_rows.save(OUT / "features")
command = "-m facekit train --data features --backbone none --tasks race --epochs 2 --device cpu"
scale.python(OUT, f"{command} --out one")
print(scale.python(OUT, f"{TORCHRUN} {command} --out two"))

# %%
logs = {name: pd.read_csv(OUT / name / "log.csv", index_col="epoch") for name in ("one", "two")}
pd.concat({name: log.filter(regex="_loss|accuracy") for name, log in logs.items()}, axis=1).T.round(4)

# %% [markdown]
# The same losses and the same accuracy, to the last digit shown. With eight GPUs it is `--nproc-per-node 8`; with
# several machines the same line on each, with `--nnodes` and the address of one of them.
#
# ### The switches
#
# Each changes how a step is computed, not what is learnt from it:

# %%
for switch, what in speed.SWITCHES.items():
    print(f"{switch}\n    {what}")

# %% [markdown]
# **Guess first:** how many times as fast as a plain loop is the step of facenet-mini with each, on **your** machine?

# %%
guess = dict.fromkeys([*speed.SWITCHES, "all switches"], 1.0) | {"channels_last": 1.0, "bf16": 1.0}  # yours here

# %%
here = speed.bench_training("mini", batch_size=16, steps=2)
plots.show(figures.switches(here, guess), "Speed of the step of facenet-mini with each switch, here and as recorded.")

# %% [markdown]
# The **bare step** is the limit: one batch that lies there, and nothing but forward, backward and optimiser. What a
# loop loses to it is the price of data, augmentation and bookkeeping. Rows take turns, so that a busy machine slows all
# of them. Run the cell again before you believe a small difference, or a loop above its limit.
#
# On a processor two switches are left out: `losses unread`, since only a GPU is waited for, and `compile`, which first
# takes a minute. `compile=True` measures it, where a compiler for C++ is found.
#
# Compare your bars with the recorded ones. A switch that wins there and not here is no mistake: bfloat16 needs a
# processor with instructions for it, and without them it can be slower. So one measures where one trains.

# %% [markdown]
# ## Look at the result
#
# ### Where the time goes
#
# A [profiler](glossary.md#profiler) notes each operation with its time. `record_function` gives parts of the step a
# name of their own. The last part, `item`, asks for the loss as a number, as many loops do to print it.
#
# **Guess first:** which part is the longest?

# %%
faces = render_portraits((192, 0, 0), seed=0, size=96, per_person=1)
pixels, truth = torch.tensor(faces.images), faces.targets([GENDER])["gender"]
net = scale.network([GENDER])
optimiser = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)


def step(batches):
    with record_function("batch"):
        photos, labels = next(batches)
    with record_function("forward"), torch.autocast("cpu", torch.bfloat16, scale.HAS_BF16):
        loss = F.cross_entropy(net(photos)["gender"].float(), labels)
    with record_function("backward"):
        optimiser.zero_grad()
        loss.backward()
    with record_function("optimiser"):
        optimiser.step()
    with record_function("item"):
        loss.item()


def profiled(batches):
    step(batches)  # the first one is slower: memory is fetched, ways are chosen
    with profile() as seen:
        step(batches)
    return seen.key_averages()


batches = Batches(faces, [GENDER], 64, augment=Augment()).endless()
quick = profiled((each.inputs, each.targets["gender"]) for each in batches)
plots.show(figures.parts({"facekit's batches": quick}), "Milliseconds of a step by part, and by operation.")

# %% [markdown]
# Read it from the left: which part is long? Then at the right: which operation, and how often is it called? Most of a
# good step is convolutions, and the way back costs about twice the way forward. All else should be thin.
#
# ### What a run costs
#
# Records of this course have their seconds. Energy is watts times hours, money is a price times hours. Both are **yours
# to set**: watts from a meter at the socket or a GPU's data sheet, the price from your provider's page.

# %%
WATTS, PRICE = 40, 0.10  # set your own: of the whole machine while it computes, and of an hour of it

runs = {name: recorded(name).about for name in ("ladder_fairface", "stages_fairface", "best_fairface", "networks_cost")}
cost = pd.DataFrame({name: [run["hardware"], run["seconds"] / 3600] for name, run in runs.items()}).T
cost = cost.set_axis(["machine", "hours"], axis=1).infer_objects()
cost.assign(kWh=WATTS * cost["hours"] / 1000, money=PRICE * cost["hours"]).round(3)

# %% [markdown]
# Small sums, all of processors. What makes a project dear is how often it is run: seeds, rates that were tried and runs
# that failed belong into the sum (Strubell et al. 2019).
#
# ### A hundred million photos
#
# **Guess first:** 64 GPUs read photos, compute, and average gradients. Which of the three takes longest in a step? No
# number in the first line was measured: take yours.

# %%
PHOTOS, GPUS, EACH, NETWORK, DISK = 100e6, 64, 2000, 10e9, 20e9  # photos; GPUs; photos/s of one; bytes/s of both

batch, photo, gradients = 256, 3 * 160**2, 4 * 23.5e6  # rows on a GPU; bytes of a photo and of FaceNet's gradients
seconds = {"compute": batch / EACH, "read": batch * GPUS * photo / DISK}
seconds["average"] = 2 * (GPUS - 1) / GPUS * gradients / NETWORK  # in a ring each GPU sends nearly all of it twice
print(f"{PHOTOS * photo / 1e12:.1f} TB of pixels, {PHOTOS / GPUS / EACH / 3600:.2f} hours a pass; ms of a step:")
pd.Series(seconds).mul(1000).round(1)

# %% [markdown]
# Reading and averaging are done while the GPU computes, so they cost nothing as long as they are shorter. Make `EACH`
# ten times as large, or `DISK` a tenth, and see what waits.
#
# When a process dies, `torchrun --max-restarts 3` starts all anew, and with `--resume true` they go on. More is on the
# [page about scale](../docs/scale.md).

# %% [markdown]
# ## What goes wrong
#
# ### Photo by photo
#
# Many loops change one photo after the other. The network is the same, and so are the changes.
#
# **Guess first:** which part grows, and how many calls does it take?


# %% tags=["broken-on-purpose"]
changes = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(0, (0.06, 0.06)), v2.ColorJitter(0.15, 0.2)])


def photo_by_photo():
    while True:
        rows = torch.randperm(len(pixels))[:64]
        yield torch.stack([changes(pixels[row]) for row in rows]), truth[rows]


slow = profiled(photo_by_photo())
plots.show(figures.parts({"facekit's batches": quick, "photo by photo": slow}), "Parts and operations of both loops.")

# %% [markdown]
# The culprit is not the operation at the top. It is many small ones, each with a little of its own around it. Here
# the network is slow, so it is still the longest part. The faster the device, the more the batch weighs: exercise 14.3.
# `item` costs nothing here. A GPU works through a queue, and there each `item` waits until the queue is empty. So
# facekit's loop asks once an epoch.
#
# ### Weights in 16 bits
#
# The same small network learns in three ways, at a small rate: in float32, with autocast, and with the weights
# themselves in bfloat16.


# %% tags=["broken-on-purpose"]
plots.show(figures.curves(scale.losses_by_precision(features, classes)), "Loss over 600 steps in three precisions.")

# %% [markdown]
# A weight of 0.05 has gaps of 0.00024 (the table above). AdamW moves it by some 0.0001 a step, which is less than half
# of that: only small weights move at all.
#
# ### Several processes are not one
#
# [BatchNorm](glossary.md#BatchNorm) takes its mean over the rows that it sees, and a process sees its own. To try that,
# no second process is needed: cut a batch of 64 into parts, and average their gradients.
#
# **Guess first:** how alike is the averaged gradient to that of the whole batch (1: the same direction)?


# %%
def gradient(parts, batchnorm):
    net.train(batchnorm).zero_grad()
    for part in range(parts):
        mine = slice(part, 64, parts)
        (F.cross_entropy(net(pixels[mine])["gender"], truth[mine]) / parts).backward()
    return F.normalize(torch.cat([weight.grad.flatten().double() for weight in net.parameters()]), dim=0)


def alike(batchnorm):
    whole = gradient(1, batchnorm)
    return {64 // parts: (gradient(parts, batchnorm) * whole).sum().item() for parts in (2, 8, 32)}


# %% tolerance=0.02
net = scale.network([GENDER])
pd.DataFrame({"BatchNorm of each": alike(True), "BatchNorm frozen": alike(False)}).rename_axis("rows of each").round(3)

# %% [markdown]
# With frozen statistics, as in a frozen stage, the law holds to the last digit. With statistics of its own a process of
# two rows goes elsewhere. Remedies: enough rows for each process, frozen statistics, or statistics over all
# processes (`torch.nn.SyncBatchNorm`, for GPUs).
#
# The other change is the batch itself. Sixteen processes of 64 rows make a batch of 1,024, and a sixteenth of the
# steps. So the rate has to grow: by the same factor, says the
# [linear scaling rule](glossary.md#linear-scaling-rule) (Goyal et al. 2017, for this optimiser, and up to a point).
#
# **Guess first:** what do you get at the old rate, at 16 times, and at 64 times of it?

# %% tolerance=0.03
plans = {"64, 0.1": (64, 0.1), "1024, 0.1": (1024, 0.1), "1024, 1.6": (1024, 1.6), "1024, 6.4": (1024, 6.4)}


def by_batch(seed):
    nets = {name: train(features, classes, *each, epochs=3, seed=seed) for name, each in plans.items()}
    return {name: scale.accuracy(net, test, RACE) for name, net in nets.items()}


with_spread(over_seeds(by_batch, seeds=range(3)), 2).rename_axis("rows, rate")

# %% [markdown]
# At the old rate a large batch has too few steps to get anywhere; with sixteen times the rate it gets there; with more
# it breaks. A [warmup](glossary.md#warmup) helps at high rates. For Adam and its relatives the square root of the factor
# is a usual first try (Malladi et al. 2022). In any case the rate is chosen again, on validation.

# %% [markdown]
# ## Exercises
#
# ### 14.1 Where does the sum stop?
#
# 1 is added again and again. At which value does the sum stand still, with `bits` bits of mantissa, the leading one not
# counted?


# %% tags=["solution"]
def stops_at(bits):
    # TODO: where is the gap to the next number 2?
    # <solution>
    return 2 ** (bits + 1)
    # </solution>


# %%
exercise("14.1").check(stops_at)
# exercise("14.1").hint()

# %% [markdown]
# ### 14.2 Parts that are not equal
#
# The last batch of an epoch has 7 rows: 4 for the one process, 3 for the other. Each has the mean gradient of its own
# rows. Give the mean over all rows.


# %% tags=["solution"]
def averaged(gradients, rows):
    # TODO: gradients and rows are lists, an entry for each process
    # <solution>
    return sum(g * n for g, n in zip(gradients, rows, strict=True)) / sum(rows)
    # </solution>


# %%
exercise("14.2").check(averaged)
# exercise("14.2").hint()

# %% [markdown]
# ### 14.3 Ten times as fast?
#
# `parts` has the milliseconds of a step: `"batch"`, `"forward"`, `"backward"`, `"optimiser"`. On another device all
# but the batch take `k` times less; the batch takes as long as before. How many times as fast is the step?


# %% tags=["solution"]
def times(parts, k):
    # TODO: the old sum, divided by the new one
    # <solution>
    batch, whole = parts["batch"], sum(parts.values())
    return whole / (batch + (whole - batch) / k)
    # </solution>


# %%
exercise("14.3").check(times)
# exercise("14.3").hint()

# %% [markdown]
# ### 14.4 Find the culprit
#
# Is it `"data"`, `"precision"`, `"batchnorm"`, `"rate"` or `"average"`?
#
# - `idle`: the GPU computes a fifth of the time; one core is always busy, with `batch`
# - `still`: the loss falls, then stands still; with weights in float32 it goes on
# - `two rows`: 32 processes with two photos each; training looks well, validation does not
# - `worse`: 16 processes, an epoch takes a sixteenth of the time, and the network is worse after as many epochs
# - `apart`: two processes, and each has other weights in the end

# %% tags=["solution"]
# TODO: one of the five for each
# <solution>
culprit = {"idle": "data", "still": "precision", "two rows": "batchnorm", "worse": "rate", "apart": "average"}
# <todo>
# culprit = {"idle": ..., "still": ..., "two rows": ..., "worse": ..., "apart": ...}
# </solution>

# %%
exercise("14.4").check(culprit)
# exercise("14.4").hint()

# %% [markdown]
# ### 14.5 Plan a run
#
# You want to train all of facenet-mini on photos of your own, on **your** machine. Say before you start what it takes:
# photos, epochs, photos a second (the table `here` has them), hours, gigabytes of memory, and what it costs. Training
# holds four numbers of 4 bytes for each of 1.8 million parameters: weight, gradient, and two averages of AdamW. Add
# what a batch takes. In `why`: what you assume, and what you would change if it took too long.
#
# A good answer (the rubric): the speed was measured here, with the switches that the run will have · counts seeds and
# tries, not one run · says what is an assumption · names what waits first on a faster machine · says how it goes on
# after a crash (`--resume true`) · says what would make you stop early.

# %% tags=["solution"]
# TODO: a dictionary with these names
# <solution>
rate = here.set_index("row").loc["facekit's loop, all switches", "value"]
run = {"photos": 20_000, "epochs": 10, "per_second": rate, "hours": 20_000 * 10 / rate / 3600, "gigabytes": 1.0}
run["cost"] = PRICE * run["hours"]
run["why"] = "Three seeds and four rates: twelve times that. If it took too long I would train the last stages only."
# <todo>
# run = {"photos": ..., "epochs": ..., "per_second": ..., "hours": ..., "gigabytes": ..., "cost": ..., "why": ...}
# </solution>

# %%
exercise("14.5").check(run)
# exercise("14.5").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("14").show()

# %% [markdown]
# ## Recap
#
# - A switch is worth what it brings **where you train**: measure beside the bare step, rows in turn.
# - Compute in 16 bits, keep weights, averages and sums in 32. bfloat16 needs no scaler, float16 does.
# - A profile says where the time is; the number of calls says why.
# - Processes that average their gradients are one process with the whole batch, but for BatchNorm, rounding and
#   means over parts that are not equal.
# - More processes: a larger batch, fewer steps, another rate. Before a long run: hours, memory, energy, money.

# %% [markdown]
# ## References
#
# - Micikevicius et al.: [Mixed Precision Training](https://arxiv.org/abs/1710.03740), ICLR 2018
# - Kalamkar et al.: [A Study of BFLOAT16 for Deep Learning Training](https://arxiv.org/abs/1905.12322), 2019
# - Goyal et al.: [Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour](https://arxiv.org/abs/1706.02677), 2017
# - Malladi, Lyu, Panigrahi, Arora: [On the SDEs and Scaling Rules for Adaptive Gradient Algorithms](https://arxiv.org/abs/2205.10287), NeurIPS 2022
# - Li et al.: [PyTorch Distributed: Experiences on Accelerating Data Parallel Training](https://arxiv.org/abs/2006.15704), VLDB 2020
# - Strubell, Ganesh, McCallum: [Energy and Policy Considerations for Deep Learning in NLP](https://arxiv.org/abs/1906.02243), ACL 2019
# - PyTorch: [Automatic Mixed Precision](https://docs.pytorch.org/docs/stable/amp.html), [torchrun](https://docs.pytorch.org/docs/stable/elastic/run.html), [profiler](https://docs.pytorch.org/docs/stable/profiler.html)
