# %% [markdown]
# # 00 · Start here
#
# Check that your computer has everything, and write out in PyTorch what you know from Keras as `compile`, `fit` and
# `predict`: data, network, training loop, answers.

# %% [markdown]
# ## What you will be able to do
#
# - say what works on your machine, and switch between the two profiles
# - read the shape, the type and the order of the axes of a batch of photos
# - write a Dataset, a network and its training loop in PyTorch, and name what each line is in Keras
# - read a loss curve, and choose a learning rate from it
# - freeze a part of a network, save its weights and load them again
# - recognise four mistakes that every newcomer to PyTorch makes

# %% [markdown]
# ## What you need
#
# Python and a little Keras: you have called `fit` on a small network at least once. No GPU, no network connection.
#
# Run each cell with Shift + Enter. The first looks at your installation.

# %% tags=["nbval-ignore-output"] reason="versions differ from machine to machine"
from facekit.course.doctor import checks

for check in checks(required_only=True):
    print(f"{check.name}: {check.detail}{'  -> ' if check.remedy else ''}{check.remedy}")

# %% [markdown]
# An arrow `->` in a line says what is missing, and what to type. No arrow: everything in this course runs here.

# %% [markdown]
# ## The idea
#
# [Transfer learning](glossary.md#transfer-learning) means: a network that has learnt one thing gets you started on
# another one. The lessons say when that helps and how it is done.
#
# | Part | Lessons |
# |---|---|
# | The basics | 00 you are here · [01 What transfer learning is](01_what_transfer_learning_is.ipynb) · [02 The map](02_the_map.ipynb) · [03 Feature extraction](03_feature_extraction.ipynb) · [04 Fine-tuning](04_fine_tuning.ipynb) |
# | Many tasks, many domains | [05 Define the problem](05_define_the_problem.ipynb) · [06 Hard sharing](06_hard_parameter_sharing.ipynb) · [07 Soft sharing](07_soft_parameter_sharing.ipynb) · [08 Multi-domain learning](08_multi_domain_learning.ipynb) |
# | The map in depth | [09 Self-taught learning](09_self_taught_learning.ipynb) · [10 Domain adaptation](10_domain_adaptation.ipynb) · [11 Sample selection bias](11_sample_selection_bias.ipynb) · [12 Fairness audit](12_fairness_audit.ipynb) |
# | For real | [13 Which network to start from](13_which_network_to_start_from.ipynb) · [14 Full scale](14_full_scale.ipynb) · [15 Your own classifier](15_your_own_classifier.ipynb) |
#
# They build on one another in this order. New words are links to the [glossary](glossary.md), where the Korean word
# stands beside the English one.

# %% [markdown]
# ### Two profiles, one notebook
#
# | | `laptop` (as you have it now) | `full` |
# |---|---|---|
# | faces | portraits drawn by facekit; these people do not exist | FairFace photos |
# | network | facenet-mini, small, comes with the course | FaceNet, trained on VGGFace2 |
# | needs | nothing else | photos and weights (the README says where from), better with a GPU |
# | results | nearly the same on every machine | those of your machine |
#
# You choose the [profile](glossary.md#profile) before JupyterLab starts: `FACEKIT_PROFILE=full make lab` on Linux and
# macOS, `set FACEKIT_PROFILE=full` and then `python -m facekit lab` on Windows. `FACEKIT_DATA` names the folder with
# photos and weights. The cells are the same in both.

# %% [markdown]
# ### What `fit` does
#
# ![A training step as a circle: photos go through the model and give outputs, then a loss; zero_grad empties the old gradients, backward computes new ones, step moves the weights, and the next batch comes. After every epoch the model is evaluated](figure.svg)
#
# Keras hides the loop in `model.fit`. In PyTorch you write it. Words first:
#
# - a [batch](glossary.md#batch) is the photos that one step learns from, an [epoch](glossary.md#epoch) one pass over
#   all
# - the [loss](glossary.md#loss) is one number that says how wrong the answers are; training makes it small
# - a [gradient](glossary.md#gradient) says for each weight how the loss would change with it
# - the [optimiser](glossary.md#optimiser) moves the weights against the gradient; how far is the [learning
#   rate](glossary.md#learning-rate)
#
# The loop is five lines more than `fit`, and nothing is hidden. All of transfer learning is changes of lines that you
# can see: a part is frozen, two parts get different speeds, two losses are mixed.

# %% [markdown]
# ## Build it
#
# Every lesson begins like this: imports, and `start`, which sets the [seeds](glossary.md#seed) (where random numbers
# begin) and tells you what it runs on.

# %%
import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from facekit.course import exercise, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.show import plots

course = start("00")
large = course.faces()
faces, task = large.resized(32), course.tasks[0]

# %%
shown = large.split("train").select(range(12))
figure = plots.image_grid(shown.images, [f"{task.name}\n{label}" for label in shown.labels[task.name]])
plots.show(figure, alt=f"Twelve faces of the training part, each with its label of {task.name} below it.")

# %% [markdown]
# The [task](glossary.md#task) is what is asked of a face, here the [skin tone](glossary.md#skin-tone): one of ten
# [classes](glossary.md#class), from 1 (light) to 10 (dark), the steps of the Monk scale. (In profile `full` it is race,
# as annotators perceived it.)
#
# `faces` are pixels, a table with the labels of each face, and a fixed [split](glossary.md#split): you learn from the
# training part, choose on the [validation](glossary.md#validation) part and report the test part. They are shrunk to
# 32 × 32 pixels, so that a network learns in seconds.
#
# ### Tensors: shape, type, order of the axes
#
# A [tensor](glossary.md#tensor) is PyTorch's array. Beyond what a NumPy array does, it can live on a GPU and remember
# how it was computed.

# %%
photos = torch.from_numpy(faces.split("train").images[:12])
print(tuple(photos.shape), photos.dtype, "on the", photos.device)

# %% [markdown]
# Keras wants pictures as (number, height, width, channels), in short NHWC. PyTorch wants the channels before height and
# width: **NCHW**. `permute` puts the axes into another order; `reshape` only cuts the numbers into other rows.

# %%
for_keras = photos.permute(0, 2, 3, 1)
print("permute:", tuple(for_keras.shape), "first pixel (red, green, blue):", for_keras[0, 0, 0].tolist())
print("reshape:", tuple(for_keras.shape), "first three numbers:", photos.reshape(12, 32, 32, 3)[0, 0, 0].tolist())

# %% [markdown]
# The shapes agree, the pixels do not: after `reshape` the first "pixel" is the red of three neighbours.
#
# Pixels are stored as `uint8`, whole numbers from 0 to 255. A network computes with `float32` around zero. In Keras you
# would put a `Rescaling` layer at the bottom; here the network does it: `(photos.float() - 127.5) / 128`.
#
# ### A Dataset and a DataLoader
#
# A `Dataset` knows two things: how many rows there are, and what row number i is. A `DataLoader` shuffles the numbers,
# asks for the rows and stacks them to batches. A [transform](glossary.md#transform) changes a photo on the way, for
# example `v2.RandomHorizontalFlip()`, which mirrors every second one.


# %%
class Faces(Dataset):
    def __init__(self, faces, task, transform=None):
        self.photos = torch.from_numpy(faces.images)
        self.targets = task.encode(faces.labels[task.name])  # classes as whole numbers from 0
        self.transform = transform or nn.Identity()  # which changes nothing

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, row):
        return self.transform(self.photos[row]), self.targets[row]


train, validation, test = (Faces(faces.split(part), task) for part in ("train", "validation", "test"))
some, their_targets = next(iter(DataLoader(train, batch_size=50, shuffle=True)))
print(f"{len(train)} rows to learn from; a batch: photos {tuple(some.shape)}, targets {tuple(their_targets.shape)}")

# %% [markdown]
# ### Gradients
#
# A tensor with `requires_grad` remembers what becomes of it. `backward` goes back from a result and writes into `grad`
# how the result would change with each number of the tensor. The square grows by 2 · 2 at 2 and by 2 · 3 at 3:

# %%
weight = torch.tensor([2.0, 3.0], requires_grad=True)
(weight**2).sum().backward()
print(weight.grad.tolist())

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
#     layers.Flatten(), layers.Dense(64, activation="relu"),
#     layers.Dense(n_classes)])
# ```
#
# A PyTorch network is a class: `__init__` makes the layers, `forward` says how the data flows through them. A layer is
# told how many numbers come in. Two parts: a **body**, which describes the photo in 64 numbers, and a
# [head](glossary.md#head), which makes of them one number for each class.


# %%
def block(inputs, outputs):
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallNet(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.body = nn.Sequential(block(3, 16), block(16, 32), nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU())
        self.head = nn.Linear(64, n_classes)

    def forward(self, photos):
        return self.head(self.body((photos.float() - 127.5) / 128))


def new_model(seed=0):
    torch.manual_seed(seed)
    return SmallNet(len(task.classes))


model = new_model()
print("photos", tuple(photos.shape), "-> outputs", tuple(model(photos).shape))

# %% [markdown]
# ### The loop by hand
#
# Here is `model.fit`. Follow the figure: outputs, loss, `zero_grad`, `backward`, `step`.
#
# `F.cross_entropy` takes the [logits](glossary.md#logits), the outputs **before** any
# [softmax](glossary.md#softmax), and the classes as whole numbers: Keras's
# `SparseCategoricalCrossentropy(from_logits=True)`. AdamW is Adam with [weight decay](glossary.md#weight-decay). What
# comes back is, for every epoch, the loss on the training rows and on `held_out`.


# %%
@torch.inference_mode()
def ask(model, photos):
    return model.eval()(photos.to(course.device)).cpu()


def train_by_hand(model, data, epochs, lr, held_out=validation, optimiser=torch.optim.AdamW):
    model.to(course.device)
    optimiser = optimiser(model.parameters(), lr=lr)
    history = []
    for _ in range(epochs):
        model.train()
        losses = []
        for photos, targets in DataLoader(data, batch_size=50, shuffle=True):
            outputs = model(photos.to(course.device))
            loss = F.cross_entropy(outputs, targets.to(course.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        history.append([np.mean(losses), F.cross_entropy(ask(model, held_out.photos), held_out.targets).item()])
    return np.array(history)


# %% [markdown]
# `ask` is `model.predict`: `eval()` switches dropout off and makes [BatchNorm](glossary.md#BatchNorm) use its stored
# statistics, `inference_mode` tells PyTorch to remember nothing for gradients. From lesson 01 on facekit's `fit` is
# this loop, with checkpoints, several tasks, and a GPU or eight.

# %% [markdown]
# ## Run it
#
# Eight epochs. This is what learning looks like:


# %% tolerance=0.1
def curves(lines, first=1, **options):
    fig, axis = plots.figure()
    for name, losses in lines.items():
        axis.plot(range(first, first + len(losses)), losses, label=name)
    axis.set(xlabel="epoch", ylabel="loss", xticks=range(first, first + len(losses)), **options)
    axis.minorticks_off()
    axis.legend()
    return fig


EPOCHS, LR = 8, 0.001
history = train_by_hand(model, train, EPOCHS, LR)
both = curves({"training rows": history[:, 0], "validation rows": history[:, 1]})
plots.show(both, alt="Two lines over eight epochs: the training loss falls all the way, the validation loss flattens.")
print("training loss, epoch 1 to 8:", *history[:, 0].round(2))

# %% [markdown]
# The training loss falls in every epoch. The validation loss stops falling earlier: then the network learns what is
# true of these photos only.
#
# ### Freezing
#
# Most transfer begins with a part that must not change: it is [frozen](glossary.md#freeze). Keras has one switch for
# it, `layer.trainable = False`. In PyTorch `requires_grad_(False)` stops the weights. Does that do? The body is frozen
# so, one epoch is trained, and this has changed all the same:

# %%
frozen, weights = copy.deepcopy(model), model.state_dict()
frozen.body.requires_grad_(False)
train_by_hand(frozen, train, 1, LR)
print(*[name for name, value in frozen.state_dict().items() if not torch.equal(value, weights[name])], sep="\n")

# %% [markdown]
# The head has learnt, as it should. But BatchNorm in the body has followed the batches: `model.train()` in the loop
# allows that. Frozen means two calls, `requires_grad_(False)` and `eval()`, the second again after each `train()`.
# facekit's `freeze`, which you meet in lesson 01, does both.
#
# ### Weights as a dictionary
#
# `state_dict` is what `save_weights` writes in Keras: the name of each tensor and its numbers. To load, make the
# network first, then fill it.

# %%
print(*(f"{name:32s} {tuple(value.shape)}" for name, value in list(weights.items())[:6]), sep="\n")
print(new_model(seed=7).load_state_dict(weights))

# %% [markdown]
# ## Look at the result
#
# ### How good is it?
#
# [Accuracy](glossary.md#accuracy) is the share of right answers. It needs two things beside it. One is what **chance**
# gives: always the most frequent class. The other is how much changes with the seed alone, with other first weights and
# another order of the photos. `over_seeds` runs a function once for each seed; ± is the
# [standard error](glossary.md#standard-error) of the mean.


# %% tolerance=0.06
def accuracy(model, data):
    return (ask(model, data.photos).argmax(1) == data.targets).float().mean().item()


def once(seed):
    model = new_model(seed)
    train_by_hand(model, train, EPOCHS, LR)
    chance = (test.targets == train.targets.mode().values).float().mean().item()
    return {"chance": chance, "test photos": accuracy(model, test), "training photos": accuracy(model, train)}


with_spread(over_seeds(once, seeds=range(3)), digits=2)

# %% [markdown]
# Far better than chance, and far better on the photos it has learnt from. The second is
# [overfitting](glossary.md#overfitting): some hundred photos are few for a network that starts from nothing. More
# photos would help, or a network that has seen faces before. The second way is this course.
#
# ### Answers under faces
#
# The softmax of the outputs gives probabilities; the largest is the answer. The first six right answers on test photos,
# then the first six wrong ones. (The network saw only 32 × 32 pixels.)

# %%
sure, answers = ask(model, test.photos).softmax(1).max(1)
right = answers == test.targets
rows = torch.cat([right.nonzero()[:6, 0], (~right).nonzero()[:6, 0]])
captions = [f"{task.classes[answers[i]]} ({sure[i]:.0%})\nlabel {task.classes[test.targets[i]]}" for i in rows]
figure = plots.image_grid(large.split("test").images[rows.numpy()], captions)
plots.show(figure, alt="Six test faces with right answers, then six with wrong ones; answer, its probability, label.")

# %% [markdown]
# Look at the second row: how far is each answer from its label? Would you have told them apart in this light?
#
# ### Try it: the learning rate
#
# The learning rate is the number that you will change most often. Here is the curve of the rate that you choose, beside
# that of 0.001. The points at 0 are before training; the axis is logarithmic, so that all points fit.

# %%
from facekit.show.widgets import explore


def losses_with(rate):
    fresh = new_model().to(course.device)
    before = F.cross_entropy(ask(fresh, train.photos), train.targets).item()
    return [before, *train_by_hand(fresh, train, 4, rate)[:, 0]]


def compare(learning_rate):
    lines = {f"learning rate {rate}": losses_with(rate) for rate in (LR, learning_rate)}
    return curves(lines, first=0, yscale="log", yticks=(1, 2, 5, 10, 20), yticklabels=["1", "2", "5", "10", "20"])


rates, settings = [0.001, 0.00001, 0.0001, 0.01, 0.1], [{"learning_rate": 0.00001}, {"learning_rate": 0.1}]
explore(compare, learning_rate=rates, settings=settings, alt="Training loss by epoch: the chosen rate beside 0.001.")

# %% [markdown]
# **Too small** (1e-05, that is 0.00001): after four epochs the loss has hardly moved. **Too large** (0.1): the first
# steps throw the weights far off, and the loss shoots up. It comes back, but not below where it began. A good rate is
# found by trying, in steps of three or ten, on the validation loss.

# %% [markdown]
# ## What goes wrong
#
# ### The shape: channels last
#
# Photos from a picture library or from Keras come as NHWC. PyTorch takes the second axis for the channels, whatever it
# holds:

# %% tags=["raises-exception"]
nn.Conv2d(3, 8, kernel_size=3)(for_keras.float())

# %% [markdown]
# Look for two numbers, the one wanted and the one that came. Here 32, the height, stands where the 3 should be:
# `permute(0, 3, 1, 2)` is missing.
#
# ### The type, and the device
#
# A layer with `float32` weights does not take `uint8` photos. PyTorch never converts by itself; you write `.float()`.
# With a GPU you meet the sister of this message: "Expected all tensors to be on the same device". Then
# `.to(course.device)` is missing, for the network or for the batch.

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


without = train_by_hand(new_model(), train, EPOCHS, LR, optimiser=Forgetful)
both = curves({"with zero_grad": history[:, 0], "without": without[:, 0]})
plots.show(both, alt="Training loss by epoch: with zero_grad it falls; without, it is higher in every epoch.")

# %% [markdown]
# If a loss bounces or grows although the learning rate is small, look for this line first.
#
# ### `eval` forgotten
#
# In training mode BatchNorm scales by the mean and variance of the batch. Then the answer for a photo depends on the
# photos beside it. The probability of the right class of one photo, beside bright pictures and beside dark ones:

# %% tags=["broken-on-purpose"] tolerance=0.15
for mode in (True, False):
    asked = copy.deepcopy(model).train(mode)
    beside = [torch.cat([photos[:1], torch.full_like(photos, grey)]).to(course.device) for grey in (220, 30)]
    with torch.inference_mode():
        bright, dark = (asked(each).softmax(1)[0, train.targets[0]].item() for each in beside)
    print(f"{'train()' if mode else 'eval()':8} beside bright pictures {bright:.2f}, beside dark ones {dark:.2f}")

# %% [markdown]
# The same photo, the same weights, two answers. Keras's `predict` passes `training=False` for you; here you call
# `eval()`.

# %% [markdown]
# ## Exercises
#
# ### 00.1 From Keras's order to PyTorch's
#
# From a NumPy array uint8 (N, H, W, 3) to a tensor uint8 (N, 3, H, W).


# %% tags=["solution"]
def to_torch(images):
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
# Do one step and return the loss of the batch as a float. `model(x)` gives outputs (n, classes), `y` holds the
# classes. Gradients of something else may still be there.


# %% tags=["solution"]
def training_step(model, optimiser, x, y):
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
# The module holds linear layers and BatchNorm. After your function, a training step must change nothing in it. The
# function returns nothing.


# %% tags=["solution"]
def freeze(module):
    # TODO: its weights, and the statistics of its BatchNorm
    # <solution>
    module.requires_grad_(False)
    module.eval()
    # </solution>


# %%
exercise("00.3").check(freeze)
# exercise("00.3").hint()

# %% [markdown]
# ### 00.4 A Dataset of your own
#
# Give every face of `data` twice: rows 0 to n − 1 as they are, rows n to 2 n − 1 the same faces mirrored, with the same
# targets. `v2.functional.horizontal_flip(photo)` mirrors a photo.


# %% tags=["solution"]
class Doubled(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        # TODO: how many rows are there?
        # <solution>
        return 2 * len(self.data)
        # </solution>

    def __getitem__(self, row):
        # TODO: photo and target of this row
        # <solution>
        photo, target = self.data[row % len(self.data)]
        return (photo if row < len(self.data) else v2.functional.horizontal_flip(photo)), target
        # </solution>


# %%
exercise("00.4").check(Doubled)
# exercise("00.4").hint()

# %% [markdown]
# ### 00.5 Your own experiment
#
# Change one thing, and answer with a table of `over_seeds`: at least three seeds, a column `as it was` (the
# [baseline](glossary.md#baseline)) and your way beside it. Ideas: your `Doubled` faces; a transform; a wider network;
# another learning rate; 100 photos in place of all.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone, with as many steps · looks
# at `validation`, not at `test` · gives the spread beside the mean · says what you saw, even if it is nothing.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "as it was"
# <solution>
# Expected: mirrored faces are new pixels with the same skin, so a little better. As many steps: half the epochs.
def mirrored(seed):
    found = {}
    for name, data in {"as it was": train, "doubled": Doubled(train)}.items():
        model = new_model(seed)
        train_by_hand(model, data, EPOCHS * len(train) // len(data), LR)
        found[name] = accuracy(model, validation)
    return found


experiment = over_seeds(mirrored, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.06
exercise("00.5").check(experiment)
# exercise("00.5").hint()

# %% [markdown] tags=["solution-only"]
# The gain is smaller than its spread: with as many steps, mirrored faces tell these two networks nothing new. For an
# answer that holds, take more seeds.

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
# | arrays, or a `tf.data.Dataset` | a `Dataset` with `__len__` and `__getitem__`, and a `DataLoader` |
# | `keras.Model`, layers find out what comes in | `nn.Module` with `__init__` and `forward`; you say what comes in |
# | `compile(optimizer, loss)` | an optimiser object and a function for the loss |
# | `fit` | the loop: outputs, loss, `zero_grad`, `backward`, `step` |
# | `predict` | `eval()`, and the call inside `torch.inference_mode()` |
# | `layer.trainable = False` | `requires_grad_(False)` and `eval()` |
# | `save_weights`, `load_weights` | `state_dict`, `load_state_dict` |
#
# A score needs chance and several seeds beside it.

# %% [markdown]
# ## References
#
# - PyTorch: [Learn the basics](https://pytorch.org/tutorials/beginner/basics/intro.html), tensors to saved models in eight short parts
# - PyTorch: [Autograd mechanics](https://pytorch.org/docs/stable/notes/autograd.html), with the difference between `no_grad`, `inference_mode` and `eval`
# - Keras: [Transfer learning and fine-tuning](https://keras.io/guides/transfer_learning/), with what `trainable` does to BatchNormalization
# - Ioffe, Szegedy: [Batch Normalization](https://arxiv.org/abs/1502.03167), ICML 2015
# - Loshchilov, Hutter: [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), ICLR 2019, the optimiser AdamW
# - Monk: [The Monk Skin Tone Scale](https://skintone.google/), 2019
