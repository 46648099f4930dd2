# %% [markdown]
# # Masks that look at the input
#
# **Question.** A unit that is needed for sevens is computed for every digit. Can a layer switch
# it off for the others?
#
# **Answer.** Yes: give the mask of each unit a gate that reads the unit's own activation. It can
# only close units that ordinary beta-Bernoulli dropout left open, so the network is never denser.
# Masks near the output differ more between classes than those of the pixels do.

# %%
import os

import torch
from torch import nn

import bayesdrop as bd

torch.manual_seed(0)
SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test
x.shape, x_test.shape

# %% [markdown]
# ## First stage: one keep probability for every unit
#
# Tutorial 01 in the package's own loop. About 900 images cannot pay for the KL divergence of 256
# units, so it counts a hundredth here.

# %%
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
                    nn.Linear(64, 10))  # fmt: skip
masked = bd.convert(net, "beta-bernoulli", init_concentration1=2.0, kl_scale=0.01)
fixed = bd.BayesianNetwork(masked, bd.Categorical(), num_data=len(x))
epochs = 12 if SMOKE else 100
options = {"batch_size": 50, "learning_rate": 3e-3, "progress": False}
bd.fit(
    fixed,
    (x, y),
    epochs=epochs,
    variational_learning_rate=0.1,
    kl_weight=bd.schedules.warm_up(0.5),
    seed=0,
    **options,
)
fixed.units()

# %% [markdown]
# ## Second stage: look at the input
#
# `to_dependent` copies the network and gives every mask a gate,
#
# $$ z_{nk} \sim \mathrm{Bernoulli}\bigl(\pi_k\, \varphi_k(x_{nk})\bigr), \qquad
# \varphi_k(x) = \mathrm{clamp}\Bigl(\gamma_k \frac{x - \mu_k}{\sigma_k} + \beta_k, \epsilon, 1
# \Bigr), $$
#
# with $\mu_k, \sigma_k$ the activation's running statistics. The posterior of $\pi_k$ is frozen;
# the gates and the weights are trained on. The prior $\beta_k \sim \mathcal N(0, 5)$ closes gates
# that the data do not hold open. A unit counts as closed for an input where its mask's mean over
# $\pi_k$ and $\beta_k$ is below the threshold, so the gates start sure of their shift: with a
# scale of 1, as published, there is hardly an input for which no sample opens the unit.

# %%
bnn = bd.to_dependent(fixed, init_shift_scale=0.1)
bd.fit(bnn, (x, y), epochs=epochs, variational_learning_rate=1e-2, seed=1, **options)


# %%
def accuracy(bayesian):
    prediction = bd.predict(bayesian, x_test, sample=False)
    return (prediction.mean.argmax(1) == y_test).double().mean().item()


accuracy(fixed), accuracy(bnn)

# %% [markdown]
# ## What it saves
#
# The number of active units is now an average over inputs. `flops` counts, for each example, only
# its own active units on both sides of a layer, as the literature does. That is more than a
# computer can save: whether a unit is closed is known only once it has been computed, so
# `flops_needed` has all outputs. `compact(..., per_input=True)` really computes with that many.

# %%
before, after = (
    bd.compression.measure_per_input(fixed, x_test),
    bd.compression.measure_per_input(bnn, x_test),
)
for name, units in after.units.items():
    (name, after.units_total[name], before.units[name], units)
before.speedup, after.speedup, after.speedup_needed

# %% [markdown]
# ## What is switched off for which class
#
# The average mask of each class: `(10, K)` for every layer. The input layer's are pictures. With
# matplotlib installed, these are the figures:
#
#     from bayesdrop.reporting import plots
#     plots.plot_class_masks(masks[first], (1, 8, 8))
#     plots.plot_class_correlations(masks)

# %%
masks = bd.diagnostics.class_averaged_masks(bnn, (x_test, y_test))
first, *_, last = masks
for digit in (0, 1):
    masks[first][digit].reshape(8, 8).round(decimals=1)


# %% [markdown]
# How similar are the masks of two classes? The correlation over the units of a layer, averaged
# over all pairs of classes:


# %%
def similarity(values):
    open_units = values[:, (values > 0).any(0)]
    correlation = torch.corrcoef(open_units.double())
    return correlation[~torch.eye(len(values), dtype=torch.bool)].mean().item()


{name: similarity(values) for name, values in masks.items()}

# %% [markdown]
# ## A plain network for one input at a time
#
# The compact network computes the gates in plain torch operations. With `per_input` it also
# gathers the open units and their weights before each matrix product.

# %%
small = bd.compact(bnn, x_test[:2], per_input=True)
flops = [bd.compression.count_flops(small, row) for row in x_test[:20].split(1)]
min(flops), max(flops), bd.compression.count_flops(bd.compact(fixed, x_test[:2]), x_test[:1])

# %% [markdown]
# ## The claim, checked
#
# As accurate as before, on no input a unit that was pruned before, fewer units on average, masks
# that differ more by class near the output, and a compact network with the same outputs.

# %%
always = [mask.mean_mask() > 0 for _, mask in fixed.named_dropout_layers()]
for values, open_before in zip(masks.values(), always, strict=True):
    assert not (values[:, ~open_before] > 0).any()
assert accuracy(bnn) > accuracy(fixed) - 0.03 > 0.85, (accuracy(bnn), accuracy(fixed))
assert after.flops < 0.9 * before.flops and after.flops <= after.flops_needed, (before, after)
assert similarity(masks[last]) < similarity(masks[first]), "masks near the output differ more"
with torch.no_grad():
    expected = bnn.eval()(x_test)
    for row in range(20):
        assert (small(x_test[row : row + 1]) - expected[row]).abs().max() < 1e-4
