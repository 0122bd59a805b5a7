# %% [markdown]
# # 11 · Sample selection bias
#
# The faces you could collect are not the faces you will meet. You see what that costs, win a part of it back with
# weights, and learn to tell it from its twin, label shift, which five lines of code mend almost wholly.

# %% [markdown]
# ## What you will be able to do
#
# - measure what a biased draw costs, and for whom
# - weight rows by the odds of a domain probe, and say how many rows are left
# - say when weights cost more than the bias
# - tell a shift of inputs from a shift of labels, and mend the second with EM
# - name the one thing that beats every weight, and what it costs

# %% [markdown]
# ## What you need
#
# The map of [lesson 02](02_the_map.ipynb), where weights are met for the first time, and the linear
# [probe](glossary.md#probe) of [lesson 03](03_feature_extraction.ipynb). Every term that is new stands in the
# [glossary](glossary.md).

# %% [markdown]
# ## The idea
#
# ![Two hills over the same line of faces: the source's hill stands over children, the target's over adults; arrows under the line show small weights for children and large ones for adults; a second picture shows two piles, women and men, mixed half and half in the source and nine to one in the target](figure.svg)
#
# [Source](glossary.md#source) and [target](glossary.md#target) hold the same kind of photo. Two things can differ:
#
# - **The inputs were not drawn fairly.** Children came to the camera more often. A face of a child means the same in
#   both; there are only more of them. This is [sample selection bias](glossary.md#sample-selection-bias).
# - **The classes are mixed otherwise.** Nine in ten people in the target are women. Women look the same in both;
#   there are only more of them. This is [label shift](glossary.md#label-shift).
#
# In neither case is there a label in the target. The first is mended with
# [importance weights](glossary.md#importance-weight) on the source's rows, the second by correcting the answers.

# %% [markdown]
# ## Build it
#
# ### The faces
#
# Features of faces come from FaceNet. In profile laptop they are **drawn**: made by a statistical model of FaceNet's
# features, no real person behind any of them. The crowds below are faces to look at; they show what a biased draw does.

# %%
import numpy as np
import pandas as pd

from facekit.course import exercise, lesson, quiz, start
from facekit.evaluation.paired import over_seeds, with_spread
from facekit.experiments import few_labels
from facekit.records import recorded
from facekit.show import plots
from facekit.training.loop import predict
from facekit.transfer.label_shift import estimated_mixture, mixture_by_confusion, reweighted
from facekit.transfer.probe import linear_probe
from facekit.transfer.selection import density_ratio, effective_size, kernel_mean_matching, rejection_sample
from facekit.transfer.selftaught import components

course, figures = start("11"), lesson("11").figures
race, gender, age = course.feature_tasks
features = course.features()
compact = components(features.split("train"), 49)
pool, test = compact(features.split("train")), compact(features.split("test"))


# %%
def children(rows):
    return rows.labels["age"].isin(["0-2", "3-9"]).to_numpy()


faces = course.faces()
alt = "Twelve faces of a draw in which children were 45 times as likely, and twelve of a fair draw."
plots.show(figures.two_crowds(faces, np.where(children(faces), 1.0, 1 / 45)), alt)

# %% [markdown]
# ### A biased draw, and its loss
#
# Of the pool, 600 faces are drawn, and a child is 45 times as likely to be drawn as anybody else. The task is gender.
# The test is the whole population, as it is.

# %%
CHANCE = np.where(children(pool), 1.0, 1 / 45)


def draw(seed, n=600):
    rows = np.random.default_rng(seed).choice(len(pool), n, replace=False, p=CHANCE / CHANCE.sum())
    return pool.select(rows), 1 / CHANCE[rows]


def right(probe, rows, task=gender):
    return (task.predict(predict(probe, rows)[task.name]) == rows.targets([task])[task.name]).double().numpy()


source, exact = draw(seed=0)
fair = few_labels(pool, 600, seed=0)
who = np.where(children(test), "children", "others")
scores = {name: right(linear_probe(rows, [gender]), test) for name, rows in (("biased", source), ("fair", fair))}

# %% tolerance=0.03
pd.DataFrame(scores).groupby(who).mean().round(2).assign(faces=pd.Series(who).value_counts())

# %% [markdown]
# Read the table by rows. The biased draw is a little better for children and much worse for all others, and they are
# most of the test. **Who was missing from the source pays.**

# %% [markdown]
# ### Weights from odds, by hand
#
# Give every source row the weight w(x) = p_target(x) / p_source(x), and means over the source become means over the
# target. Nobody has the two densities. But a classifier that answers **source or target?** has their ratio in its odds.
# This is logistic regression by Newton's method, on source rows and on target rows without any label:


# %%
def weights_from_odds(source, target, prior=100):
    x = 7 * np.concatenate([source.features, target.features])  # 7 is √49
    x = np.column_stack([x.astype(float), np.ones(len(x))])
    is_target = np.repeat([0.0, 1.0], [len(source), len(target)])
    pull = np.append(np.full(49, prior / 2), 0.0)  # a prior pulls the weights to 0, but not the bias
    w = np.zeros(50)
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ w))
        curvature = (x.T * (p * (1 - p))) @ x + np.diag(pull)
        w -= np.linalg.solve(curvature, x.T @ (p - is_target) + pull * w)
    odds = np.exp(x[: len(source)] @ w)
    return odds / odds.mean()


target = few_labels(pool, 3000, seed=100)  # its labels are not looked at
ratio = weights_from_odds(source, target)
print("by hand and facekit agree:", np.allclose(ratio, density_ratio(source, target), rtol=1e-3))

# %%
child = children(source)
plots.show(figures.weights(ratio, exact, child), "Histograms of estimated weights: children low, others high.")

# %% [markdown]
# The classifier never saw an age; that children look different was enough. The dashed lines are the exact weights,
# which only the one who made the draw knows. The estimate is softer: between the groups it goes less far, and within
# a group it also follows what does not matter.
#
# ### How many rows are left
#
# Rows of very unequal weight scatter like fewer rows. The
# [effective sample size](glossary.md#effective-sample-size) says like how many: (Σw)² / Σw².

# %% tolerance=0.03
kinds = {"equal": np.ones(len(ratio)), "ratio": ratio, "√ratio": np.sqrt(ratio), "exact": exact}
for name, weights in kinds.items():
    print(f"{name:8}{effective_size(weights) / len(weights):5.2f} of {len(weights):,} rows")

# %% [markdown]
# Weights buy fairness and pay with rows. **Flattened** weights, the square root here, pay less and correct less.
#
# ### Label shift by EM, by hand
#
# Now the other twin. A probe says p(class | x) for the mixture of classes that it was trained on. If only the mixture
# changes, Bayes' rule gives the new answer: multiply by new share / old share, and bring the sum back to 1. The new
# shares are not known either. So guess and count in turns, which is called [EM](glossary.md#EM): correct the answers
# with the shares of now, and take their mean as the next shares (Saerens et al. 2002).


# %%
def em(answers, before, rounds=200):
    now = before
    for _ in range(rounds):
        corrected = answers * now / before
        corrected /= corrected.sum(1, keepdims=True)
        now = corrected.mean(0)
    return now


def shares(rows, task):
    return np.bincount(rows.targets([task])[task.name], minlength=len(task.classes)) / len(rows)


def answers_of(probe, rows, task):
    return predict(probe, rows)[task.name].double().softmax(1).numpy()


# %%
def shifted(task, wanted, seed, n=1000):
    """A target from the test faces in which each class is `wanted` times as frequent as it was."""
    chance = np.array([wanted.get(name, wanted["*"]) for name in task.classes])[test.targets([task])[task.name]]
    return test.select(np.random.default_rng(seed).choice(len(test), n, p=chance / chance.sum()))


women = shifted(gender, {"Female": 9.0, "*": 1.0}, seed=0)
probe, before = linear_probe(fair, [gender]), shares(fair, gender)
answers = answers_of(probe, women, gender)
by_hand = em(answers, before)
print("by hand and facekit agree:", np.allclose(by_hand, estimated_mixture(answers, before), atol=1e-3))

# %% tolerance=0.03
pd.DataFrame({"source": before, "EM says": by_hand, "true": shares(women, gender)}, gender.classes).round(2)

# %% [markdown]
# Not one label of the target was used, and EM knows how many women there are.

# %% [markdown]
# ## Run it
#
# ### A biased draw: six ways against the fair draw
#
# Five seeds; all ways of a seed learn from the same draw. `equal` is the [baseline](glossary.md#baseline): do nothing.
# `chosen` keeps a row with a chance as large as its exact weight. `kernel means` asks for no probe: it finds weights
# for which both sets have the same mean in a kernel's space (kernel mean matching).


# %%
def against_bias(task, seed):
    (source, exact), target = draw(seed), few_labels(pool, 3000, seed + 100)
    ratio = density_ratio(source, target)
    matched = kernel_mean_matching(source, target, steps=60)
    weights = {"equal": None, "ratio": ratio, "√ratio": np.sqrt(ratio), "kernel means": matched, "exact": exact}
    found = {name: linear_probe(source, [task], weights=each) for name, each in weights.items()}
    found["chosen"] = linear_probe(rejection_sample(source, exact, seed), [task])
    found["fair"] = linear_probe(few_labels(pool, 600, seed), [task])
    return {name: right(each, test, task).mean() for name, each in found.items()}


biased_scores = {task.name: over_seeds(against_bias, task) for task in (gender, race)}

# %% [markdown]
# ### Label shift: three targets
#
# A school, a place where nine in ten are women, East Asia. `by confusion` is the other well-known way (BBSE): it knows
# from held-out source rows how often each class gets each answer, and solves for the mixture.

# %%
TARGETS = {
    "a school": (age, {"3-9": 5.0, "10-19": 5.0, "*": 0.3}),
    "nine in ten women": (gender, {"Female": 9.0, "*": 1.0}),
    "East Asia": (race, {"East Asian": 6.0, "Southeast Asian": 2.0, "*": 0.2}),
}


def against_shift(task, wanted, seed):
    rows, target = few_labels(pool, 4500, seed), shifted(task, wanted, seed)
    train, held_out = rows.select(range(3000)), rows.select(range(3000, 4500))
    probe, before = linear_probe(train, [task]), shares(train, task)
    answers, truth = answers_of(probe, target, task), target.targets([task])[task.name].numpy()
    asked = answers_of(probe, held_out, task), held_out.targets([task])[task.name].numpy()
    known = {"by confusion": mixture_by_confusion(answers, *asked, before), "true mixture": shares(target, task)}
    mixtures = {"as it is": before, "EM": estimated_mixture(answers, before)} | known
    return {name: (reweighted(answers, before, each).argmax(1) == truth).mean() for name, each in mixtures.items()}


shift_scores = {name: over_seeds(against_shift, *each, seeds=range(3)) for name, each in TARGETS.items()}

# %% [markdown]
# ## Look at the result
#
# ### Weights: gender gains, race loses

# %%
plots.show(plots.bar_panels(biased_scores), "Accuracy for gender and race: equal, weighted, chosen and fair rows.")

# %% tolerance=0.02
pd.concat({name: with_spread(table) for name, table in biased_scores.items()}, axis=1)

# %% [markdown]
# For gender every kind of weight brings back about half of what the bias has cost. For race they do **harm**, the
# exact ones too, so a better estimate would not help. The likely reason: the line between women and men is another one
# for children than for adults, so it matters whom it serves. Races look less different with age; there the bias costs
# mostly because a crowd of children holds less to learn from, and weights take even more rows away.
#
# The same on real photos, recorded. `(back)` is the share of the loss between `equal` and `fair` that comes back.

# %%
record = recorded("selection_fairface")
table = record.rows.query("metric == 'accuracy'").pivot_table("value", ["draw", "task"], "method")
back = table[["ratio", "√ratio", "kernel means", "exact"]].sub(table["equal"], axis=0)
back = back.div(table["fair"] - table["equal"], axis=0).round(2)
print(record.caption())
table[["equal", "fair"]].round(3).join(back.add_suffix(" (back)"))

# %% [markdown]
# ### Label shift: EM gets nearly all of it

# %% tolerance=0.02
pd.DataFrame({name: table.mean() for name, table in shift_scores.items()}).round(3)

# %%
record = recorded("label_shift_fairface")
print(record.caption())
record.rows.query("metric == 'accuracy'").pivot_table("value", "method", "shift", sort=False).round(3)

# %% [markdown]
# EM is almost as good as knowing the mixture. This also mends the broken cell of [lesson 02](02_the_map.ipynb), where
# alignment met a target of women and went wrong: that was label shift, and moving features was the wrong cure.
#
# ### Which shift is it?
#
# Both cures on both shifts, gender, one seed each:


# %% tolerance=0.03
def both_cures(plain, target):
    probe, truth = linear_probe(plain, [gender]), target.targets([gender])["gender"].numpy()
    weighted = linear_probe(plain, [gender], weights=density_ratio(plain, target))
    answers, before = answers_of(probe, target, gender), shares(plain, gender)
    by_em = reweighted(answers, before, estimated_mixture(answers, before))
    said = {"nothing": answers, "weights": answers_of(weighted, target, gender), "EM": by_em}
    return {name: (each.argmax(1) == truth).mean() for name, each in said.items()}


cures = {"biased draw": both_cures(source, few_labels(test, 1000, 0)), "label shift": both_cures(fair, women)}
pd.DataFrame(cures).round(2)

# %% [markdown]
# Each shift has its own cure. Nothing in the inputs alone says which shift you have. Ask how the data came about: did
# the **inputs** decide who was collected, or the **classes**? And label fifty target faces to see.

# %% [markdown]
# ## What goes wrong
#
# ### Some of the source is wrongly labelled
#
# Half of the women in the source are called men. Rows can be chosen by how likely their label is: either to a model of
# these rows themselves, or to a small probe on 100 rows that you trust.


# %% tags=["broken-on-purpose"]
def wrong_labels(seed, keep=0.5):
    rows = few_labels(pool, 2100, seed)
    bad, trusted = rows.select(range(2000)), rows.select(range(2000, 2100))
    lied = (bad.labels["gender"] == "Female") & (np.random.default_rng(seed).random(2000) < 0.5)
    bad.labels.loc[lied, "gender"] = "Male"
    labels = range(2000), bad.targets([gender])["gender"].numpy()
    own, others = (answers_of(linear_probe(rows, [gender]), bad, gender)[labels] for rows in (bad, trusted))
    kept = {"all rows": own >= 0, "likely to itself": own > keep, "likely to the trusted": others > keep}
    found = {name: bad.select(rows) for name, rows in (kept | {"no wrong label": ~lied}).items()}
    found["trusted alone"] = trusted
    return {name: right(linear_probe(rows, [gender]), test).mean() for name, rows in found.items()}


chosen = over_seeds(wrong_labels, seeds=range(3))

# %% tolerance=0.03
with_spread(chosen)

# %% [markdown]
# A model that judges its own source repeats the source's mistake. A hundred trusted rows do better, as a judge of
# the others and nearly as well alone. **A little that you trust is worth more than much that judges itself.**
#
# ### A width that is too small
#
# In kernel mean matching everything hangs on the kernel's width. At a tenth of the usual one no face is like another.

# %% tags=["broken-on-purpose"] tolerance=0.05
for width in (1.0, 0.1):
    print(f"width {width}: children weigh {kernel_mean_matching(source, target, width)[child].mean():.2f} on average")

# %% [markdown]
# The weights are nearly equal again, whatever the bias. Width in papers is a length (σ); `gamma` in scikit-learn is
# 1 / (2 σ²). Taking one for the other gives this.
#
# ### What a fair sample costs
#
# Nothing above beats the fair draw. To choose 600 fair rows out of biased ones, a row is kept with a chance of
# weight / largest weight. The expected number of rows to collect first:

# %%
print(f"{600 * exact.max() / exact.mean():,.0f} biased rows for 600 fair ones")

# %% [markdown]
# ## Exercises
#
# ### 11.1 Which shift is it?
#
# - `winter`: a clinic's photos of skin from one summer, used in a winter with three times as many rashes
# - `app`: volunteers with new phones are mostly young; the app is for everybody
# - `exam`: at the entrance, every second person has a beard; at the exam hall, one in twenty; the task is beard or not
# - `newspaper`: portraits from a newspaper, mostly of politicians; gender is asked of a whole town

# %% tags=["solution"]
# TODO: "selection bias" or "label shift" for each
# <solution>
shifts = {
    "winter": "label shift",
    "app": "selection bias",
    "exam": "label shift",
    "newspaper": "selection bias",
}
# <todo>
# shifts = {"winter": ..., "app": ..., "exam": ..., "newspaper": ...}
# </solution>

# %%
exercise("11.1").check(shifts)
# exercise("11.1").hint()

# %% [markdown]
# ### 11.2 One answer, corrected
#
# A probe that learnt from half women, half men says "woman" with probability `p`. In the target the share of women is
# `s`. What is the corrected probability?


# %% tags=["solution"]
def corrected(p, s):
    # TODO: Bayes' rule: each class times new share / old share, then the sum back to 1
    # <solution>
    woman, man = p * s / 0.5, (1 - p) * (1 - s) / 0.5
    return woman / (woman + man)
    # </solution>


# %%
exercise("11.2").check(corrected)
# exercise("11.2").hint()

# %% [markdown]
# ### 11.3 Flattened weights
#
# Write weights to the power `a`, brought to mean 1: a = 0 gives equal weights, a = 1 the weights as they are.


# %% tags=["solution"]
def flattened(weights, a):
    # TODO: a power, and a division
    # <solution>
    powers = weights**a
    return powers / powers.mean()
    # </solution>


# %%
exercise("11.3").check(flattened)
# exercise("11.3").hint()

# %% [markdown]
# ### 11.4 How many rows must be collected?
#
# Weights of rows that could be collected are `weights`; `n` fair rows are wanted by rejection. How many must be
# collected, on average?


# %% tags=["solution"]
def to_collect(weights, n):
    # TODO: a row survives with a chance of weight / largest weight
    # <solution>
    return n * weights.max() / weights.mean()
    # </solution>


# %%
exercise("11.4").check(to_collect)
# exercise("11.4").hint()

# %% [markdown]
# ### 11.5 Your own experiment
#
# Choose a question about biased draws, and answer it with a table of `over_seeds`: at least three seeds, a column
# `equal` (the baseline) and a way of your own beside it. Ideas: a power of the weights other than ½; a draw biased by
# race; a smaller draw; EM and weights together.
#
# A good answer (the rubric): says before the run what you expect · changes one thing alone · gives the spread beside
# the mean · chooses nothing on the test faces · says what you saw even if it is nothing · names what you would try
# next.


# %% tags=["solution"]
# TODO: a table of over_seeds(...) with a column "equal"
# <solution>
# Expected: a quarter power corrects less than a half, and keeps more rows. Only the power changes.
def powers(seed):
    source, _ = draw(seed, 300)
    ratio = density_ratio(source, few_labels(pool, 3000, seed + 100))
    ways = {"equal": 0.0, "power ¼": 0.25, "power ½": 0.5, "ratio": 1.0}
    return {name: right(linear_probe(source, [gender], weights=ratio**a), test).mean() for name, a in ways.items()}


experiment = over_seeds(powers, seeds=range(3))
# <todo>
# experiment = ...
# </solution>

# %% tolerance=0.02
exercise("11.5").check(experiment)
# exercise("11.5").hint()

# %% [markdown] tags=["solution-only"]
# With 300 rows, half and whole power are close, as before; a quarter brings less back. No more than that: three seeds
# do not tell ½ from 1.

# %% [markdown]
# ## Quiz

# %%
quiz("11").show()

# %% [markdown]
# ## Recap
#
# - A biased draw costs those who are missing from it. Weights from the odds of a domain probe bring a part back, and
#   pay with effective rows.
# - Where the bias had cost little, weights do harm. Look at the effective sample size, and at a few target labels.
# - Label shift looks alike and has another cure: EM corrects the answers, with no label of the target. It needs
#   probabilities that are calibrated.
# - The assumption decides: for weights, p(class | x) is the same in both; for EM, p(x | class) is.
# - A fair sample beats everything; here it costs many times the rows.

# %% [markdown]
# ## References
#
# - Shimodaira: [Improving predictive inference under covariate shift by weighting the log-likelihood function](https://doi.org/10.1016/S0378-3758%2800%2900115-4), Journal of Statistical Planning and Inference 2000
# - Zadrozny: [Learning and Evaluating Classifiers under Sample Selection Bias](https://doi.org/10.1145/1015330.1015425), ICML 2004
# - Bickel, Brückner, Scheffer: [Discriminative Learning Under Covariate Shift](https://www.jmlr.org/papers/v10/bickel09a.html), JMLR 2009
# - Huang, Smola, Gretton, Borgwardt, Schölkopf: [Correcting Sample Selection Bias by Unlabeled Data](https://papers.nips.cc/paper/3075-correcting-sample-selection-bias-by-unlabeled-data), NIPS 2006
# - Saerens, Latinne, Decaestecker: [Adjusting the Outputs of a Classifier to New a Priori Probabilities](https://doi.org/10.1162/089976602753284446), Neural Computation 2002
# - Lipton, Wang, Smola: [Detecting and Correcting for Label Shift with Black Box Predictors](https://arxiv.org/abs/1802.03916), ICML 2018
