# %% [markdown]
# # 00 · Start here
#
# Check that your computer has everything, see what the lessons are about, and write out in PyTorch what you know from
# Keras as `compile`, `fit` and `predict`.

# %% [markdown]
# ## What you will be able to do
#
# - say what works on your machine, and type the line that mends what does not
# - find your way through the lessons and switch between the two profiles
# - read the shape, the type and the order of the axes of a batch of photos
# - write a network and its training loop in PyTorch, line by line, and name what each line is in Keras
# - freeze a part of a network, save its weights and load them again
# - recognise four mistakes that every newcomer to PyTorch makes

# %% [markdown]
# ## What you need
#
# Python and a little Keras: you have called `fit` on a small network at least once. No GPU, no network connection.
#
# Run each cell with Shift + Enter, from the top. The first one looks at your installation.

# %%
from facekit.course.doctor import checks

for check in checks(required_only=True):
    print(f"{check.status:<4}  {check.name}")

# %% [markdown]
# Six times OK? Then everything in this course runs here. Where it says FAIL, the next cell prints the line to type. For
# the rest (graphics card, free disk, photos, FaceNet's weights), type `python -m facekit doctor` in a terminal; the
# lessons run without any of these.

# %% tags=["nbval-ignore-output"] reason="versions differ from machine to machine"
for check in checks(required_only=True):
    print(f"{check.name}: {check.detail}{'  -> ' if check.remedy else ''}{check.remedy}")

# %% [markdown]
# ## The idea
#
# **Transfer learning** means: a network that has learnt one thing gets you started on another one. The lessons answer,
# one question each, when that helps and how it is done.
#
# | Lesson | The question that it answers |
# |---|---|
# | 00 | What is on this machine, and how does PyTorch do what Keras does? You are here. |
# | [01 What transfer learning is](01_what_transfer_learning_is.ipynb) | What is carried over, and what do few labels cost without it? |
# | [03 Feature extraction](03_feature_extraction.ipynb) | How far do you get with a network that you do not touch? |
# | [04 Fine-tuning](04_fine_tuning.ipynb) | How much of the network should learn, and how fast? |
#
# Still to come: a map of the kinds of transfer (02), how to define the problem (05), sharing a network between tasks
# (06, 07) and between domains (08), learning from unlabelled photos (09), photos from another source (10), a biased
# choice of photos (11), a fairness audit (12), and everything at full size on a GPU (13).

# %% [markdown]
# ### Two profiles, one notebook
#
# | | `laptop` (as you have it now) | `full` |
# |---|---|---|
# | faces | portraits drawn by facekit; these people do not exist | FairFace photos |
# | network | facenet-mini, small, comes with the course | FaceNet, trained on VGGFace2 |
# | needs | nothing else | photos and weights (the README says where from), better with a GPU |
# | results | the same on every machine | those of your machine |
#
# You switch before JupyterLab starts, with an environment variable: `FACEKIT_PROFILE=full make lab` on Linux and macOS,
# `set FACEKIT_PROFILE=full` and then `python -m facekit lab` on Windows. `FACEKIT_DATA` names the folder with photos
# and weights. The cells are the same in both; the line that `start` prints says which profile it is.

# %% [markdown]
# ### What `fit` does
#
# ![A training step as a circle: photos go through the model and give outputs, then a loss; backward computes gradients, step moves the weights, zero_grad empties the gradients before the next batch. After every epoch the model is evaluated](figure.svg)
#
# Keras hides the loop over the batches in `model.fit`. In PyTorch you write it yourself. That is five lines more, and in
# return nothing is hidden: to freeze a part, to give two parts different speeds, to mix two losses, you change a line
# that you can see. All of transfer learning is such changes, so here you write the loop once.

# %% [markdown]
# ## Build it
#
# Every lesson begins like this: imports, and `start`, which sets the seeds and tells you what it runs on.

# %%
import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from facekit.course import exercise, quiz, start
from facekit.experiments import chance, few_labels, scores
from facekit.show import plots

course = start("00")
faces = course.faces().resized(32)
task = course.tasks[0]
print(f"{len(task.classes)} classes of {task.name}")

# %%
shown = faces.split("train").select(range(12))
figure = plots.image_grid(shown.images, [f"{task.name}\n{label}" for label in shown.labels[task.name]])
plots.show(figure, alt=f"Twelve small faces of the training part, each with its label of {task.name} below it.")

# %% [markdown]
# The faces are a `FaceSet`: an array of pixels, a table with a row of labels for each of them, and a fixed split into
# training, validation and test. Here they are made small, 32 × 32 pixels, so that a network learns in seconds.
#
# ### Tensors: shape, type, order of the axes
#
# A **tensor** is PyTorch's array. It does what a NumPy array does, and two things more: it can live on a GPU, and it
# can remember how it was computed. `photos[0]` is the first photo, (3, 32, 32), and `photos[0, 0]` its red channel.

# %%
photos = torch.from_numpy(shown.images)
print(tuple(photos.shape), photos.dtype, "on the", photos.device)

# %% [markdown]
# Keras wants pictures as (number, height, width, channels), in short NHWC. PyTorch wants the channels before height and
# width: **NCHW**. `permute` puts the axes of a tensor into another order. It copies nothing.

# %%
for_keras = photos.permute(0, 2, 3, 1)
print(tuple(for_keras.shape), "and back it is the same:", torch.equal(for_keras.permute(0, 3, 1, 2), photos))
print("reshape gives the same shape, but other pixels:", not torch.equal(photos.reshape(for_keras.shape), for_keras))

# %% [markdown]
# Pixels are stored as `uint8`, whole numbers from 0 to 255. A network computes with `float32` around zero. In Keras you
# would put a `Rescaling` layer at the bottom; the networks of facekit do the same inside, so that it cannot be forgotten:
# `(photos.float() - 127.5) / 128`.

# %% [markdown]
# ### A batch is an index
#
# There is a `Dataset` and a `DataLoader` in PyTorch, for data that does not fit into memory. Ours does, and then a batch
# is nothing but a tensor indexed by row numbers, and shuffling is a permutation of those.

# %%
rows = torch.tensor([7, 0, 3])
print("rows", rows.tolist(), "-> a batch", tuple(photos[rows].shape))

# %% [markdown]
# ### Gradients
#
# A tensor with `requires_grad` remembers what becomes of it. `backward` goes back from a result and writes into `grad`
# how the result would change with each number of the tensor.

# %%
weight = torch.tensor([2.0, 3.0], requires_grad=True)
(weight**2).sum().backward()
print("gradient of the sum of squares at 2 and 3:", weight.grad.tolist())

# %% [markdown]
# ### A network: `nn.Module` for `keras.Model`
#
# This is the network that you are about to train, in Keras:
#
# ```python
# model = keras.Sequential([
#     layers.Rescaling(1 / 128, offset=-127.5 / 128),
#     layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
#     layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
#     layers.Flatten(),
#     layers.Dense(64),
#     layers.Dense(n_classes)])
# ```
#
# A PyTorch network is a class: `__init__` makes the layers, `forward` says how the data flows through them. A layer is
# told how many numbers come in, too; Keras finds out at the first call.


# %%
from facekit.models.backbones.base import Backbone


def block(inputs, outputs):
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallNet(Backbone):
    name, image_size, embedding_dim = "small-net", 32, 64

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 16), block(16, 32))
        self.embedding = nn.Sequential(nn.Flatten(), nn.Linear(32 * 8 * 8, 64))

    @property
    def stages(self):
        return {"blocks": [self.blocks], "embedding": [self.embedding]}

    def forward(self, photos):
        return F.normalize(self.embedding(self.blocks(self.prepare(photos))))


# %% [markdown]
# `Backbone` is facekit's kind of `nn.Module`. It adds three things: names for the parts of the network (`stages`), the
# scaling of the pixels (`prepare`), and a clear message when something else than photos comes in. It ends in an
# **embedding**, a vector of numbers that describes the photo, brought to length 1 by `F.normalize`.
#
# What answers the question stands on top of it: a **head**, the last `Dense` of the Keras network. One backbone can
# carry several, one for each task.

# %%
from facekit.models.heads import Classifier, Heads, parameter_counts


def new_model(seed=0):
    torch.manual_seed(seed)
    return Classifier(SmallNet(), Heads(SmallNet.embedding_dim, [task]))


model = new_model()
print("photos", tuple(photos.shape), "-> outputs", tuple(model(photos)[task.name].shape))
parameter_counts(model)

# %% [markdown]
# ### The loop by hand
#
# Here is `model.fit`. Follow the figure: outputs, loss, `zero_grad`, `backward`, `step`.
#
# `F.cross_entropy` takes the outputs **before** any softmax and the classes as whole numbers. It is what Keras calls
# `SparseCategoricalCrossentropy(from_logits=True)`. The function trains the model in place and returns the mean loss of
# every epoch.


# %%
def train_by_hand(model, data, task, epochs, lr, batch_size=50, seed=0, optimiser=torch.optim.AdamW):
    model.to(course.device)
    photos = torch.from_numpy(data.images).to(course.device)
    targets = task.encode(data.labels[task.name]).to(course.device)
    optimiser = optimiser(model.parameters(), lr=lr, weight_decay=0)
    history = []
    for epoch in range(epochs):
        model.train()
        losses = []
        order = np.random.default_rng([seed, epoch]).permutation(len(photos))
        for rows in torch.from_numpy(order).split(batch_size):
            outputs = model(photos[rows])[task.name]
            loss = F.cross_entropy(outputs, targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        history.append(np.mean(losses))
    return history


# %%
train, test = few_labels(faces.split("train"), 600, seed=0), faces.split("test")
EPOCHS, LR = 8, 0.003
losses_by_hand = train_by_hand(model, train, task, EPOCHS, LR)
print("the last loss is below three quarters of the first:", losses_by_hand[-1] < 0.75 * losses_by_hand[0])

# %% [markdown]
# ### The same with facekit
#
# From now on the lessons use `fit`, which does the same and, when you ask for it, more: validation after every epoch,
# the best weights kept, checkpoints, several tasks, a GPU or eight. What is learnt when, and how fast, is a **plan**,
# which you can print before anything is trained. The **method** says what is minimised.

# %%
from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

same_model = new_model()
everything = plan("scratch", list(same_model.stages), EPOCHS, LR, warmup=0, schedule="constant")
config = TrainConfig(batch_size=50, weight_decay=0)
result = fit(same_model, Supervised([task]), train, None, everything, config)

difference = np.abs(result.history["train_loss"] - losses_by_hand).max()
assert difference < 0.02, difference
print("by hand and fit: the same loss in every epoch, to 0.02:", difference < 0.02)
everything.table(same_model)

# %% [markdown]
# Same first weights (the seed), same order of the photos, same arithmetic: the two agree up to rounding errors, which
# grow a little with every step.

# %% [markdown]
# ## Run it
#
# How good is it? Two things must be said before a score is worth anything: what **chance** would give, and how much the
# score changes when only the **seed** changes, which decides the first weights and the order of the photos.

# %%
models = [same_model, new_model(1), new_model(2)]
for seed in (1, 2):
    train_by_hand(models[seed], train, task, EPOCHS, LR, seed=seed)
guess = chance(train, test, [task])["value"][0]  # the first row is the accuracy
found = [scores(each, test, [task])["value"][0] for each in models]
learnt = [scores(each, train, [task])["value"][0] for each in models]
print("better than chance with every seed:", bool(min(found) > guess))
print("better on the photos it has learnt from, with every seed:", all(np.array(learnt) > found))

# %% [markdown]
# Both are what you should expect. The second one is **overfitting**: 600 photos are few for a network that starts from
# nothing, and part of what it learns is true of these photos only. More photos would help, or a network that has seen
# faces before. The second way is this course.

# %% [markdown]
# ### Predicting
#
# `model.predict` of Keras is two lines: `eval()` switches dropout off and makes BatchNorm use its stored statistics,
# `inference_mode` tells PyTorch to remember nothing for gradients. (`no_grad` does nearly the same; its results may
# later be used where gradients are wanted.)

# %%
first = torch.from_numpy(test.images[:12]).to(course.device)
model.eval()
with torch.inference_mode():
    probabilities = model(first)[task.name].softmax(1)
print("most probable class of each photo:", tuple(probabilities.argmax(1).shape))

# %% [markdown]
# ### Freezing
#
# Most transfer begins with a part that must not change. Keras has one switch for it, `layer.trainable = False`. It does
# two things, and PyTorch has a call for each:
#
# - the weights get no gradient: `requires_grad_(False)`
# - BatchNorm stops to follow the batches: `eval()`, and again after each `model.train()`, which undoes it
#
# facekit's `freeze` does both, and `train()` does not undo it.

# %%
frozen = copy.deepcopy(same_model)
frozen.freeze(["blocks", "embedding"])
train_by_hand(frozen, train, task, epochs=1, lr=LR)
weights = same_model.state_dict()
print("moved:", [name for name, value in frozen.state_dict().items() if not torch.equal(value, weights[name])])

# %% [markdown]
# ### Weights as a dictionary
#
# `state_dict` is what `save_weights` writes in Keras: the name of each tensor and its numbers, nothing about the class.
# To load, make the network first, then fill it. Besides the weights it holds what BatchNorm has counted: running means
# and variances, and the number of batches.

# %%
for name in list(weights)[:6]:
    print(f"{name:42s} {tuple(weights[name].shape)}")
print(new_model(seed=7).load_state_dict(weights))

# %% [markdown]
# ## Look at the result
#
# Every dot is a seed.

# %%
fig, axis = plots.figure()
plots.bars_with_spread(axis, {"chance": [guess], "test photos": found, "training photos": learnt})
axis.set(ylabel=f"accuracy, {task.name}")
plots.show(fig, alt="Bars of accuracy: chance is lowest, then come the test photos, and highest the training photos.")

# %% [markdown]
# ### Try it: the learning rate
#
# The learning rate is the number that you will change most often. Here is the same network, trained for four epochs with
# the rate that you choose. Too small, and it has not begun to learn when the time is over. Too large, and each step
# jumps over what it was looking for.

# %%
from facekit.show.widgets import explore


def loss_with(learning_rate):
    losses = train_by_hand(new_model(), train, task, 4, learning_rate)
    fig, axis = plots.figure()
    axis.plot(range(1, 5), losses)
    axis.set(xlabel="epoch", ylabel="training loss", title=f"learning rate {learning_rate}", ylim=(0, 3))
    return fig


rates, settings = [0.003, 0.0001, 0.001, 0.01, 0.1], [{"learning_rate": 0.0001}, {"learning_rate": 0.003}]
explore(loss_with, learning_rate=rates, settings=settings, alt=lambda learning_rate: f"Loss at rate {learning_rate}.")

# %% [markdown]
# ## What goes wrong
#
# ### The shape: channels last
#
# Photos from a picture library or from a Keras project come as NHWC. PyTorch takes the second axis for the channels,
# whatever it holds, and counts:

# %% tags=["raises-exception"]
nn.Conv2d(3, 8, kernel_size=3)(for_keras.float())

# %% [markdown]
# Read such a message for its two numbers, the one wanted and the one that came. Here 32, the height, stands where the 3
# should be: `permute(0, 3, 1, 2)` is missing.
#
# ### The type, and the device
#
# A layer with `float32` weights does not take `uint8` photos. PyTorch never converts by itself; you write `.float()`.
# With a GPU you meet the sister of this message: *Expected all tensors to be on the same device*. Then the network is
# on the GPU and the batch is not, or the other way round: `.to(course.device)` is missing.

# %% tags=["raises-exception", "nbval-ignore-output"] reason="the wording of this message differs between versions of PyTorch"
nn.Conv2d(3, 8, kernel_size=3)(photos)

# %% [markdown]
# ### `zero_grad` forgotten
#
# No message this time, which is worse. `backward` **adds** to `grad`: the gradient of this batch comes on top of those
# of all batches before it. Here is an optimiser that forgets to empty them, in the same loop as above:


# %% tags=["broken-on-purpose"]
class Forgetful(torch.optim.AdamW):
    def zero_grad(self):
        pass


losses_without = train_by_hand(new_model(), train, task, EPOCHS, LR, optimiser=Forgetful)
print("the last loss is more than twice that with zero_grad:", losses_without[-1] > 2 * losses_by_hand[-1])

# %% [markdown]
# If a loss bounces or grows although the learning rate is small, look for this line first.

# %% [markdown]
# ### `eval` forgotten
#
# In training mode BatchNorm scales by the mean and variance of the batch. Then the answer for a photo depends on the
# photos that happen to stand beside it, and even asking changes the network. The same photo, asked twice, once with
# bright pictures beside it and once with dark ones:

# %% tags=["broken-on-purpose"]
others = {"bright": torch.full_like(first, 220), "dark": torch.full_like(first, 30)}
for training in (True, False):
    asked = copy.deepcopy(same_model).train(training)
    with torch.inference_mode():
        bright, dark = (asked(torch.cat([first[:1], each]))[task.name][0] for each in others.values())
    unchanged = all(torch.equal(value, weights[name]) for name, value in asked.state_dict().items())
    print(f"training {training!s:5} same answer: {torch.allclose(bright, dark, atol=1e-4)}, unchanged: {unchanged}")

# %% [markdown]
# The network is left changed although nothing was trained: the running statistics have moved towards those strange
# batches. In Keras `predict` passes `training=False` for you. Here you call `eval()`; facekit's `predict` and `scores`
# do it too, and put the mode back afterwards.

# %% [markdown]
# ## Exercises
#
# ### 00.1 From Keras's order to PyTorch's


# %% tags=["solution"]
def to_torch(images):
    """NumPy uint8 (N, H, W, 3) to a tensor uint8 (N, 3, H, W)."""
    # TODO: make it a tensor, then put the axes into PyTorch's order
    # <solution>
    return torch.from_numpy(images).permute(0, 3, 1, 2)
    # </solution>


# %%
exercise("00.1").check(to_torch)
# exercise("00.1").hint()

# %% [markdown]
# ### 00.2 One training step
#
# `model(x)` gives outputs (n, classes), `y` holds the classes. The gradients of an earlier step may still be there.


# %% tags=["solution"]
def training_step(model, optimiser, x, y):
    """Does one step and returns the loss of this batch as a float."""
    # TODO: outputs, loss, and three calls
    # <solution>
    loss = F.cross_entropy(model(x), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
    # </solution>


# %%
exercise("00.2").check(training_step)
# exercise("00.2").hint()

# %% [markdown]
# ### 00.3 Frozen means frozen
#
# The module holds linear layers and BatchNorm. After your function, a training step must change nothing in it.


# %% tags=["solution"]
def freeze(module):
    """Freezes the module in place, as `trainable = False` does in Keras; returns nothing."""
    # TODO: its weights, and the statistics of its BatchNorm
    # <solution>
    module.requires_grad_(False)
    module.eval()
    # </solution>


# %%
exercise("00.3").check(freeze)
# exercise("00.3").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("00").show()

# %% [markdown]
# ## Recap
#
# | Keras | PyTorch |
# |---|---|
# | pictures (N, H, W, 3) | pictures (N, 3, H, W), and you say which type and which device |
# | `keras.Model`, layers find out what comes in | `nn.Module` with `__init__` and `forward`; you say what comes in |
# | `compile(optimizer, loss)` | an optimiser object and a function for the loss |
# | `fit` | the loop: outputs, loss, `zero_grad`, `backward`, `step` |
# | `training=True` and `False` | `model.train()` and `model.eval()` |
# | `predict` | `eval()`, and the call inside `torch.inference_mode()` |
# | `layer.trainable = False` | `requires_grad_(False)` and `eval()`, or facekit's `freeze` |
# | `save_weights`, `load_weights` | `state_dict`, `load_state_dict` |
# | `summary()` | `print(model)`, or facekit's `parameter_counts` |
#
# A score needs chance and several seeds beside it. With few photos a network learns part of them by heart; what to do
# about that is [lesson 01, what transfer learning is](01_what_transfer_learning_is.ipynb).

# %% [markdown]
# ## References
#
# - PyTorch: [Learn the basics](https://pytorch.org/tutorials/beginner/basics/intro.html), tensors to saved models in eight short parts
# - PyTorch: [Autograd mechanics](https://pytorch.org/docs/stable/notes/autograd.html), with the difference between `no_grad`, `inference_mode` and `eval`
# - Keras: [Transfer learning and fine-tuning](https://keras.io/guides/transfer_learning/), with what `trainable` does to BatchNormalization
# - Ioffe, Szegedy: [Batch Normalization](https://arxiv.org/abs/1502.03167), ICML 2015
# - Loshchilov, Hutter: [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), ICLR 2019, the optimiser AdamW
