# %% [markdown]
# # 99 · The mean
#
# Say what one number can tell about many, and what it hides.

# %% [markdown]
# ## What you will be able to do
#
# - compute a mean by hand and see what an outlier does to it

# %% [markdown]
# ## What you need
#
# Nothing but [a little Python](https://docs.python.org/3/tutorial/).

# %% [markdown]
# ## The idea
#
# ![A line with three points; a bar marks their mean, which lies nearer to the two points on the left](figure.svg)

# %% [markdown]
# ## Build it
#
# The mean by hand, and the same from NumPy.

# %%
import numpy as np

from facekit.course import exercise, lesson, quiz, start
from facekit.show import plots
from facekit.show.widgets import explore

course, figures = start("99"), lesson("99").figures
numbers = [1, 2, 6]
by_hand = sum(numbers) / len(numbers)
print("the same:", by_hand == np.mean(numbers))

# %% [markdown]
# ## Run it

# %%
print("mean:", by_hand)

# %%
# A duration differs in every run; the comparison leaves it out.
import time

print(f"took {time.perf_counter():.3f} s")

# %% [markdown]
# ## Look at the result

# %%
plots.show(figures.bars(numbers), alt="Bars of height 1, 2 and 6 and a line at their mean, 3.")

# %%
explore(
    lambda last: figures.bars([1, 2, last]),
    last=[6, 12, 30],
    alt=lambda last: f"Bars of height 1, 2 and {last} and a line at their mean, {(3 + last) / 3:.1f}.",
    settings=[{}, {"last": 30}],
)

# %% [markdown]
# ## What goes wrong

# %% tags=["raises-exception"]
sum([]) / len([])

# %% tags=["nbval-ignore-output"] reason="a random number, to show that it is one"
import random

random.random()

# %% [markdown]
# ## Exercises
#
# ### 99.1 The mean of three numbers

# %% tags=["solution"]
# TODO: the mean of 1, 2 and 6
# <solution>
mean = (1 + 2 + 6) / 3
# <todo>
# mean = ...
# </solution>

# %%
exercise("99.1").check(mean)
# exercise("99.1").hint()

# %% [markdown] tags=["solution-only"]
# The sum is 9 and there are 3 numbers.

# %% [markdown]
# ### 99.2 A function for the mean


# %% tags=["solution"]
def mean_of(values):
    """The mean of a list of numbers."""
    # TODO: one line with `sum` and `len`
    # <solution>
    return sum(values) / len(values)
    # </solution>


# %%
exercise("99.2").check(mean_of)
# exercise("99.2").hint()

# %% [markdown]
# ## Quiz

# %%
quiz("99").show()

# %% [markdown]
# ## Recap
#
# The mean is the sum by the count.

# %% [markdown]
# ## References
#
# - [Mean, in the English Wikipedia](https://en.wikipedia.org/wiki/Mean)
