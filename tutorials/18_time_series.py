# %% [markdown]
# # A time series and its next days
#
# **Question.** A GRU forecasts the next day of a series from the last two weeks. How wide should
# its interval be, and is it still right in the months after training?
#
# **Answer.** `bd.Gaussian("heteroscedastic")` learns how noisy each day is, masks on the GRU's
# inputs and states add the network's own doubt, and the months between training and test tell
# whether the intervals hold. They are never shuffled: the future must not teach the past.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
EPOCHS, DAYS = (25, 700) if SMOKE else (60, 1400)
torch.manual_seed(0)
SEEN = 14

# %% [markdown]
# ## The series
#
# Something that is sold every day: a week's pattern, a slow wave, and days that hang together.
# The noise at weekends is three times that of other days.

# %%
day = torch.arange(DAYS)
weekend = (day % 7 >= 5).float()
noise = (0.1 + 0.2 * weekend) * torch.randn(DAYS)
wave = 0.5 * torch.sin(day * 2 * math.pi / 180)
series = wave + 0.6 * torch.sin(day * 2 * math.pi / 7) + noise
for t in range(1, DAYS):
    series[t] += 0.3 * (series[t - 1] - wave[t - 1])

# %% [markdown]
# Windows of two weeks and the day after: the first 60 % train, the next 20 % are the validation
# months, the last 20 % the test months.

# %%
windows = series.unfold(0, SEEN + 1, 1)
x, y = windows[:, :SEEN, None], windows[:, SEEN:]
first, second = int(0.6 * len(x)), int(0.8 * len(x))
parts = {"train": slice(0, first), "validation": slice(first, second), "test": slice(second, None)}
pairs = {name: (x[part], y[part]) for name, part in parts.items()}
{name: tuple(pair[0].shape) for name, pair in pairs.items()}

# %% [markdown]
# ## A GRU with masks
#
# `convert` makes a `bd.nn.DropoutGRU` of the GRU: one mask a window, the same at all its steps.


# %%
class Forecaster(nn.Module):
    """Mean of the next day, and what a softplus makes its standard deviation of."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


network = bd.convert(Forecaster(), "beta-bernoulli", init_concentration1=20.0, kl_scale=0.1)
bnn = bd.BayesianNetwork(network, bd.Gaussian("heteroscedastic"), num_data=first)
fitted = bd.fit(
    bnn,
    pairs["train"],
    validation=pairs["validation"],
    epochs=EPOCHS,
    batch_size=25,
    learning_rate=2e-2,
    schedule=bd.schedules.cosine(),
    seed=0,
    progress=False,
)
fitted

# %% [markdown]
# ## The months after
#
# Beside it stands what costs nothing: the same day of last week, with the spread of its errors in
# the training months as the width of its interval.

# %%
result = bd.evaluate(bnn, pairs["test"], num_samples=32, keep_samples=True, seed=0)
past, target = pairs["test"][0][:, -7, 0], pairs["test"][1][:, 0]
errors = pairs["train"][1][:, 0] - pairs["train"][0][:, -7, 0]
half_width = errors.abs().quantile(0.9)
naive_rmse = float((past - target).square().mean().sqrt())
naive_held = float(((past - target).abs() <= half_width).double().mean())
print(f"last week  RMSE {naive_rmse:.3f}  90 % intervals hold {naive_held:.0%}, "
      f"width {2 * half_width:.2f}")  # fmt: skip
print(f"GRU        RMSE {result.rmse:.3f}  90 % intervals hold {result.coverage[0.9]:.0%}, "
      f"width {result.width[0.9]:.2f}")  # fmt: skip

# %% [markdown]
# ## Does it know its weekends?
#
# Nobody told the network what a weekend is.

# %%
prediction = result.prediction
deviation = prediction.aleatoric_variance.sqrt()[:, 0]
is_weekend = weekend[SEEN:][second:].bool()
noises = float(deviation[is_weekend].mean()), float(deviation[~is_weekend].mean())
print(f"noise at weekends {noises[0]:.2f} (0.30 in truth), on other days {noises[1]:.2f} (0.10)")

# %% [markdown]
# ## Corrected on the validation months
#
# `conformal_intervals` makes intervals as wide as the validation months say that they must be, in
# units of the predicted standard deviation.

# %%
before = bd.predict(bnn, pairs["validation"][0], num_samples=32, seed=0)
conformal = bd.metrics.conformal_intervals(
    before.mean[:, 0],
    pairs["validation"][1][:, 0],
    miscoverage=0.1,
    scale=before.variance[:, 0].sqrt(),
)
lower, upper = conformal.predict(prediction.mean[:, 0], scale=prediction.variance[:, 0].sqrt())
held = float(((target >= lower) & (target <= upper)).double().mean())
print(f"corrected intervals hold {held:.0%}, width {(upper - lower).mean():.2f}")

# %% [markdown]
# The first eight test weeks, with the corrected intervals:

# %%
figure, axis = plt.subplots(figsize=(8, 2.5))
shown = range(56)
axis.fill_between(shown, lower[:56], upper[:56], alpha=0.3, label="90 % interval")
axis.plot(shown, target[:56], ".", color="black", label="what came")
axis.plot(shown, prediction.mean[:56, 0], linewidth=1, label="forecast")
axis.set_xlabel("day after the validation months")
legend = axis.legend(loc="upper right", fontsize=7)

# %% [markdown]
# ## The claim, checked
#
# One series, made up, and one seed. Neighbouring days have much in common, so that a coverage over
# them is less sure than over as many rows of a table.

# %%
assert result.rmse < naive_rmse, (result.rmse, naive_rmse)
assert noises[0] > 1.5 * noises[1], noises
assert abs(held - 0.9) < 0.1, held
assert float((upper - lower).mean()) < 2 * float(half_width)
