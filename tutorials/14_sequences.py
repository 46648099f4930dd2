# %% [markdown]
# # Tags of a sequence, and a forecast of counts
#
# **Question.** A network tags every step of a sequence, another forecasts how many of something
# come next week. What do their likelihoods look like, and which of two laws of counts is right?
#
# **Answer.** Networks on sequences return `(N, T, C)`: `bd.Categorical(class_dim=-1)` takes it,
# and padding has a label that counts nowhere. For counts there are `Poisson` and
# `NegativeBinomial` in `bd.likelihoods`; held-out likelihood and the coverage of intervals say
# which one fits.

# %%
import math
import os

import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
torch.manual_seed(0)
EPOCHS, SEQUENCES = (15, 200) if SMOKE else (60, 400)

# %% [markdown]
# ## Tags
#
# Of twenty words two are brackets. A step is inside (tag 1) from an opening bracket to the next
# closing one, at most four steps later, and outside (0) elsewhere; a bracket is tag 2. Sequences
# have different lengths: behind their end stands word 0, without a tag.

# %%
WORDS, LENGTH, PADDING, OPEN, CLOSE = 20, 16, -100, 1, 2


def sentences(count: int):
    """Return words and tags, ``(count, LENGTH)`` each."""
    x = torch.randint(3, WORDS, (count, LENGTH))
    rows, start = torch.arange(count), torch.randint(0, 8, (count,))
    end = start + torch.randint(2, 5, (count,))
    x[rows, start], x[rows, end] = OPEN, CLOSE
    steps, length = torch.arange(LENGTH), torch.randint(12, LENGTH + 1, (count, 1))
    y = ((steps > start[:, None]) & (steps < end[:, None])).long()
    y[(x == OPEN) | (x == CLOSE)] = 2
    x[steps >= length], y[steps >= length] = 0, PADDING
    return x, y


class Tagger(nn.Module):
    """Words, two convolutions over time, and a Linear layer at every step."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.first = nn.Conv1d(16, 32, 5, padding=2)
        self.second = nn.Conv1d(32, 32, 5, padding=2)
        self.tags = nn.Linear(32, 3)

    def forward(self, x):
        h = F.relu(self.first(self.words(x).mT))
        return self.tags(F.relu(self.second(h)).mT)


def trained(net: nn.Module, likelihood: bd.Likelihood, data, epochs: int):
    """Return the network after training, with learning rates that fall along half a cosine."""
    bnn = bd.BayesianNetwork(net, likelihood, num_data=len(data[0]))
    options = {
        "batch_size": 50,
        "learning_rate": 1e-2,
        "variational_learning_rate": 0.05,
        "progress": False,
    }
    bd.fit(bnn, data, epochs=epochs, schedule=bd.schedules.cosine(), seed=0, **options)
    return bnn


train, test = sentences(SEQUENCES), sentences(200)
tagger = bd.convert(Tagger(), "beta-bernoulli", init_concentration1=2.0, exclude=["words"])
tags = trained(tagger, bd.Categorical(class_dim=-1), train, EPOCHS)
found = bd.evaluate(tags, test, num_samples=16, seed=0)
print(f"error {found.error:.2f} % of words, ECE {found.ece:.4f}, NLL {found.nll:.3f} a sentence")

# %% [markdown]
# Predictions have the classes in dimension 1 whatever the network's order is, and a number for
# each step. The words behind the end have predictions too, and count in no figure.

# %%
prediction = found.prediction
prediction.mean.shape, prediction.predictive_entropy.shape, (test[1] == PADDING).sum()

# %% [markdown]
# ## Counts
#
# Some five years of daily counts of something: a week's pattern, a slow wave, and days that are
# busier or quieter than both say. The network sees three weeks, and gives the logarithm of each
# of the next seven days' means at once: `(N, 7)`. Forecasts are scored on the years after
# training.

# %%
DAYS, SEEN, AHEAD, BUSY = 1800, 21, 7, 0.15

day = torch.arange(DAYS)
log_mean = 2.5 + 0.4 * torch.sin(day * 2 * math.pi / 7) + 0.5 * torch.sin(day * 2 * math.pi / 365)
counts = bd.likelihoods.NegativeBinomial(BUSY).distribution(log_mean[:, None]).sample()[:, 0]
windows = counts.unfold(0, SEEN + AHEAD, 1)
x, y = torch.log1p(windows[:, :SEEN]) - 2.5, windows[:, SEEN:]
past, future = (x[:1200], y[:1200]), (x[1200 + SEEN + AHEAD :], y[1200 + SEEN + AHEAD :])


def forecaster() -> nn.Module:
    """Two hidden layers with masks on their units."""
    torch.manual_seed(0)
    first, second = (bd.BetaBernoulliDropout(32, init_concentration1=20.0) for _ in range(2))
    hidden = [nn.Linear(SEEN, 32), nn.ReLU(), first, nn.Linear(32, 32), nn.ReLU(), second]
    return nn.Sequential(*hidden, nn.Linear(32, AHEAD))


laws = {
    "Poisson": bd.likelihoods.Poisson(),
    "negative binomial": bd.likelihoods.NegativeBinomial(init_dispersion=0.3),
}
results = {}
for name, likelihood in laws.items():
    bnn = trained(forecaster(), likelihood, past, EPOCHS)
    result = results[name] = bd.evaluate(bnn, future, num_samples=32, seed=0)
    shares = {level: f"{share:.0%}" for level, share in result.coverage.items()}
    print(f"{name:18} RMSE {result.rmse:.2f}  NLL {result.nll:.2f} a week  coverage {shares}")

# %% [markdown]
# The two are about as far off on average. The Poisson law has no room for busy and quiet days:
# its intervals are too narrow. The negative binomial one learns how much days vary from what is
# left in training, where the noise of the masks is in it too: a short run, in which masks are
# still open, finds a dispersion that is too large and intervals that are wide. Where noise
# depends on the input, `NegativeBinomial("heteroscedastic")` takes `(N, 14)`: seven logarithms of
# means, then seven raw dispersions.

# %%
dispersion = float(F.softplus(laws["negative binomial"].raw_dispersion.detach()))
print(f"dispersion {dispersion:.3f}, {BUSY} in truth")

# %% [markdown]
# ## Intervals of one day ahead
#
# Conformal intervals need no law of counts: widths come from validation days, in units of the
# predicted standard deviation, and hold as often as asked if days are exchangeable. A season
# makes that an approximation.

# %%
prediction = results["negative binomial"].prediction
mean, deviation = prediction.mean[:, 0], prediction.variance[:, 0].sqrt()
halves = torch.arange(len(mean)) % 2 == 0
fitted = bd.metrics.conformal_intervals(
    mean[halves], future[1][halves, 0], miscoverage=0.1, scale=deviation[halves]
)
lower, upper = fitted.predict(mean[~halves], scale=deviation[~halves])
truth = future[1][~halves, 0]
held = ((truth >= lower) & (truth <= upper)).double().mean()
print(f"90 % intervals for tomorrow hold {held:.0%}")

# %% [markdown]
# ## The claim, checked
#
# One series and one seed: the order of the two laws follows from how the series was made.

# %%
poisson, overdispersed = results["Poisson"], results["negative binomial"]
assert found.error < 3.0, found.error
assert found.prediction.mean.shape == (200, 3, LENGTH)
assert overdispersed.nll < poisson.nll and poisson.coverage[0.9] < 0.8, poisson.coverage
assert 0.87 < overdispersed.coverage[0.9] < 0.99, overdispersed.coverage
assert abs(float(held) - 0.9) < 0.07, held
