# %% [markdown]
# # A regression and its intervals
#
# **Question.** A network predicts a number. How far off may it be, and is that statement true?
#
# **Answer.** With `bd.Gaussian("heteroscedastic")` the network says the noise of each example, and
# masks say how much the network itself is in doubt. The predictive distribution is the mixture of
# both. `bd.evaluate` checks it on held-out data: does a 90 % interval hold nine targets of ten?
# Without masks, it here holds hardly more than half of them.

# %%
import os

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import bayesdrop as bd
from bayesdrop.metrics import RegressionFigures, predictive_interval, regression_calibration

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
torch.manual_seed(0)
EPOCHS, MEMBERS, RATE = (50, 2, 2e-3) if SMOKE else (200, 5, 1e-3)

# %% [markdown]
# ## Few data, many weights
#
# 442 patients, ten measurements, and how far their diabetes has come a year later. 300 of them
# train 3,202 weights, so a network can learn more than there is to know. Targets are standardised:
# all figures below are in standard deviations of the target.

# %%
x, y = (torch.from_numpy(values).float() for values in load_diabetes(return_X_y=True))
y = y.unsqueeze(1)
order = torch.randperm(len(x))
train, test = order[:300], order[300:]
x, y = ((v - v[train].mean(0)) / v[train].std(0) for v in (x, y))
training_data, test_data = (x[train], y[train]), (x[test], y[test])


def network(*masks: nn.Module) -> nn.Module:
    """Two outputs: the mean, and what a softplus makes the noise's standard deviation of."""
    first, second = masks or (nn.Identity(), nn.Identity())
    hidden = [nn.Linear(10, 50), nn.ReLU(), first, nn.Linear(50, 50), nn.ReLU(), second]
    return nn.Sequential(*hidden, nn.Linear(50, 2))


def trained(net: nn.Module, seed: int) -> bd.BayesianNetwork:
    """Learning rates fall along half a cosine, which ends a short run well."""
    bnn = bd.BayesianNetwork(net, bd.Gaussian("heteroscedastic"), num_data=len(train))
    schedule = bd.schedules.cosine()
    bd.fit(
        bnn,
        training_data,
        epochs=EPOCHS,
        batch_size=50,
        learning_rate=RATE,
        schedule=schedule,
        seed=seed,
        progress=False,
    )
    return bnn


plain = trained(network(), seed=0)
masked = trained(network(bd.BetaBernoulliDropout(50), bd.BetaBernoulliDropout(50)), seed=0)

# %% [markdown]
# ## One prediction, taken apart
#
# The variance of a prediction is that of the noise (`aleatoric_variance`: more data of the same
# kind would not help) plus that of the network's own mean under different masks
# (`epistemic_variance`: more data would).

# %%
prediction = bd.predict(masked, x[test], num_samples=64, seed=0)
share_of_doubt = (prediction.epistemic_variance / prediction.variance).mean()
float(share_of_doubt)

# %% [markdown]
# ## Intervals
#
# The predictive distribution is a mixture of 64 normal ones, so its quantiles are found, not read
# off a formula. The first patients' targets beside their 90 % intervals:

# %%
lower, upper = predictive_interval(prediction.samples, 0.9, prediction.sample_variances)
torch.cat([lower, y[test], upper], 1)[:5]

# %% [markdown]
# ## The report
#
# `keep_samples=True` keeps what the last two figures need: the CRPS compares all pairs of samples,
# and widths are widths of the intervals above. `coverage` needs no samples; it comes from the
# likelihood's own distribution function.

# %%
results = {
    name: bd.evaluate(bnn, test_data, num_samples=64, keep_samples=True, seed=0)
    for name, bnn in {"without masks": plain, "with masks": masked}.items()
}
for name, result in results.items():
    print(f"{name:15} RMSE {result.rmse:.3f}  NLL {result.nll:.3f}  CRPS {result.crps:.3f}")
    for level, share in result.coverage.items():
        print(f"  {level:4.0%} intervals hold {share:4.0%}, width {result.width[level]:.2f}")

# %% [markdown]
# ## All levels at once
#
# `figures.calibration` has the coverage at eleven levels and the histogram of PIT values, the
# predictive distribution function at the targets. Calibrated, it is flat; over-confident, it is
# high at both ends. With matplotlib installed,
# `bayesdrop.reporting.plots.coverage.plot_coverage` draws both.

# %%
errors = {name: result.figures.calibration.calibration_error for name, result in results.items()}
pit_counts = {name: result.figures.calibration.pit_count for name, result in results.items()}
pit_counts

# %% [markdown]
# ## Anybody's samples
#
# The same figures from arrays: here of a deep ensemble, networks without masks from other seeds.
# Its members are the posterior samples. `regression_calibration` gives levels of your choice.

# %%
members = [plain, *(trained(network(), seed=seed) for seed in range(1, MEMBERS))]
alone = [bd.predict(member, x[test], sample=False) for member in members]
means = torch.stack([member.mean for member in alone])
noise = torch.stack([member.variance for member in alone])
ensemble = RegressionFigures.from_samples(means, y[test], noise)
quartiles = regression_calibration(means, y[test], noise, levels=(0.25, 0.5, 0.75))
print(f"ensemble: RMSE {ensemble.rmse:.3f}  NLL {ensemble.nll:.3f}  CRPS {ensemble.crps:.3f}")
print({f"{level:.0%}": f"{share:.0%}" for level, share in ensemble.coverage.items()})
print("average widths of 25, 50 and 75 % intervals:", quartiles.width)

# %% [markdown]
# ## The claim, checked
#
# Intervals without masks are too narrow, and those with masks hold about what they promise, at
# lower CRPS. On one split of 142 patients a share of 90 % has a standard error of 2.5 points.

# %%
without, with_masks = results["without masks"], results["with masks"]
assert 0.0 < share_of_doubt < 1.0 and bool((lower < upper).all())
assert without.coverage[0.9] < 0.75, without.coverage
assert abs(with_masks.coverage[0.9] - 0.9) < 0.1, with_masks.coverage
assert errors["with masks"] < 0.5 * errors["without masks"], errors
assert with_masks.crps < without.crps and with_masks.nll < without.nll
assert without.coverage[0.9] < ensemble.coverage[0.9]
