# %% [markdown]
# # Comparing priors with ArviZ
#
# **Question.** Two dropout priors give two posteriors. Which one predicts better, can that be seen
# without held-out data, and how far is each variational posterior to be trusted?
#
# **Answer.** `bd.to_inference_data` turns a trained network into what ArviZ reads: forest plots of
# the keep probabilities, leave-one-out cross-validation (`az.loo`) and `az.compare` work on it.
# `loo` agrees with held-out data where an example informed nothing but what has a posterior, and
# is too optimistic on the examples that the weights, which are point estimates, were fitted to.
# `bd.guide_diagnostic` says with one number, Pareto k, whether the guide can stand for the exact
# posterior.

# %%
import os
import warnings

import torch
from torch import nn

import bayesdrop as bd

# ArviZ 0.23 announces version 1 once a day, and sorts in place, which pandas 3.1 deprecates.
warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
warnings.filterwarnings("ignore", "The inplace keyword in DataFrame", DeprecationWarning)

import arviz as az
import matplotlib

matplotlib.use("Agg")
torch.manual_seed(0)
SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## Two halves of the digits
#
# Leave-one-out treats an example as new by undoing what it taught the *latents*. The weights of
# this network are point estimates, so they must come from other examples: half of the training set
# trains a plain network, the other half teaches the keep probabilities of the frozen network.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test
half = len(x) // 2
ours, theirs = (x[half:], y[half:]), (x[:half], y[:half])

plain = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
)
pretrained = bd.BayesianNetwork(plain, bd.Categorical(), num_data=half)
bd.fit(pretrained, theirs, epochs=15 if SMOKE else 60, learning_rate=3e-3, progress=False, seed=0)

# %% [markdown]
# ## Two priors
#
# $\mathrm{Beta}(10^{-4}, 1)$ wants every unit gone unless the data pay for it; $\mathrm{Beta}(1,
# 1)$ has no opinion. `convert` copies the network and puts the same layers into both.

# %%
PRIORS = {"sparse": 1e-4, "flat": 1.0}
networks = {}
for name, concentration in PRIORS.items():
    network = bd.convert(plain, "beta-bernoulli", prior_concentration1=concentration)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.requires_grad_(False)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(ours[0]))
    epochs = 15 if SMOKE else 100
    bd.fit(bnn, ours, epochs=epochs, variational_learning_rate=5e-2, progress=False, seed=0)
    networks[name] = bnn
{name: bnn.units() for name, bnn in networks.items()}

# %% [markdown]
# ## To ArviZ
#
# The pointwise likelihood of `loo` should have the mask integrated out, $p(y_n \mid x_n, \pi)$:
# several masks are averaged for each posterior draw.

# %%
settings = {"num_samples": 60 if SMOKE else 200, "num_masks": 2 if SMOKE else 64, "seed": 0}
posteriors = {name: bd.to_inference_data(bnn, *ours, **settings) for name, bnn in networks.items()}
posteriors["sparse"]

# %%
layer = networks["flat"].named_dropout_layers()[-1][0]
last = [f"{layer}.keep_prob"]
az.plot_forest(
    list(posteriors.values()), model_names=list(posteriors), var_names=last, combined=True
)
az.summary(posteriors["flat"], var_names=last, kind="stats").head()

# %%
az.plot_ppc(posteriors["flat"], num_pp_samples=50)

# %% [markdown]
# ## Leave one out
#
# A Pareto k above the threshold marks an example whose removal would change the posterior so much
# that `loo` cannot say what it would be. ArviZ warns of them; here they are counted.

# %%
warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
loo = {name: az.loo(idata, pointwise=True) for name, idata in posteriors.items()}
large = {name: int((result.pareto_k > result.good_k).sum()) for name, result in loo.items()}
print("examples with a large Pareto k, of", len(ours[0]), large)
table = az.compare(posteriors)
table[["rank", "elpd_loo", "p_loo", "elpd_diff", "dse"]]


# %% [markdown]
# ## Against held-out data
#
# Per example: what `loo` says, and what the test set says. Then the trap: the same `loo` on the
# half that the weights were fitted to.


# %%
def log_predictive_density(bnn, x, y):
    samples = bd.predict(
        bnn, x, num_samples=40 if SMOKE else 400, shared_by="example", seed=1
    ).samples
    return samples.mean(0)[torch.arange(len(y)), y].double().log()


held_out = {name: log_predictive_density(bnn, x_test, y_test) for name, bnn in networks.items()}
seen = {
    name: az.loo(bd.to_inference_data(bnn, *theirs, **settings)) for name, bnn in networks.items()
}
for name in PRIORS:
    print(
        f"{name:7} loo {loo[name].elpd_loo / len(ours[0]):.3f}"
        f"  test set {held_out[name].mean():.3f}"
        f"  loo where the weights were fitted {seen[name].elpd_loo / half:.3f}"
    )

# %% [markdown]
# ## Is the guide the posterior?
#
# With more than a hundred latents k is usually large: do not read $q(\pi)$ as the exact posterior.
# One layer given the others is an easier question.

# %%
draws = {"num_samples": 100 if SMOKE else 1000, "num_masks": 2 if SMOKE else 32, "seed": 0}
guides = {name: bd.guide_diagnostic(bnn, ours, **draws) for name, bnn in networks.items()}
single = bd.guide_diagnostic(networks["flat"], ours, layer=layer, **draws)
for name, guide in {**guides, f"flat, {layer} alone": single}.items():
    print(f"{name}: {guide.verdict}")

# %% [markdown]
# `az.loo` takes the guide for the posterior; `bd.loo(bnn, ours)` weights its draws, and warns
# where k says that they are too far, as with so many latents they are. It is for few of them.

# %% [markdown]
# ## The claim, checked
#
# `compare` and the test set prefer the same prior and agree by how much; `loo` is within the noise
# of the test set's log density (the weights saw neither), and is higher on the half that the
# weights were fitted to.


# %%
def agree(ours, held_out):
    noise = (ours.var() / len(ours) + held_out.var() / len(held_out)).sqrt()
    return abs(ours.mean() - held_out.mean()) < 3 * noise


pointwise = {name: torch.tensor(result.loo_i.values) for name, result in loo.items()}
for name in PRIORS:
    assert agree(pointwise[name], held_out[name]), name
    assert seen[name].elpd_loo / half > loo[name].elpd_loo / len(ours[0])
best = max(held_out, key=lambda name: held_out[name].mean())
assert table.index[0] == best, (table.index[0], best)
assert agree(pointwise["flat"] - pointwise["sparse"], held_out["flat"] - held_out["sparse"])
assert single.pareto_k < guides["flat"].pareto_k
