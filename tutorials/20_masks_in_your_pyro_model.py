# %% [markdown]
# # Masks in a Pyro model of your own
#
# **Question.** You have a Pyro model with latent variables of its own, and one part of it is a
# network. How do masks get into that part without `BayesianNetwork`?
#
# **Answer.** A dropout layer draws its mask wherever it is called. One `pyro.factor` outside of
# the data plate counts its divergence; the guide of the other latent variables is any autoguide.
# Here: shops that differ, customers whom a network judges, and masks that say which of ten
# measurements of a customer matter.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
STEPS, ROWS = (400, 1000) if SMOKE else (3000, 1000)
torch.manual_seed(0)
SHOPS, MEASUREMENTS = 12, 10

# %% [markdown]
# ## What happened in truth
#
# How often somebody buys depends on three of ten measurements, not linearly, and on the shop.

# %%
x = torch.randn(ROWS, MEASUREMENTS)
shop = torch.randint(SHOPS, (ROWS,))
true_effects = 0.5 * torch.randn(SHOPS)
log_rate = torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1].abs() - 0.5 * x[:, 2]
y = torch.poisson((log_rate + true_effects[shop]).exp())
y[:10], y.mean()

# %% [markdown]
# ## The model
#
# Effects of shops share a scale that is learned; the network gives the rest of the logarithm of
# the rate. The mask on its inputs has one unit for each measurement.

# %%
network = nn.Sequential(
    bd.BetaBernoulliDropout(MEASUREMENTS, init_concentration1=2.0),
    *(nn.Linear(MEASUREMENTS, 32), nn.ReLU(), nn.Linear(32, 1)),
)


def model(x, shop, y=None):
    pyro.module("network", network)
    pyro.factor("kl", -bd.kl_divergence(network))  # the masks' part of the ELBO
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("shops", SHOPS):
        effect = pyro.sample("effect", dist.Normal(0.0, scale))
    with pyro.plate("customers", len(x)):
        rate = (network(x).squeeze(-1) + effect[shop]).exp()
        pyro.sample("bought", dist.Poisson(rate), obs=y)


# %% [markdown]
# ## The guide
#
# `AutoNormal` stands for scale and effects. The factor is no latent variable, and the masks' own
# posterior lives in the layer: nobody has to write a guide for them.

# %%
pyro.clear_param_store()
network.train()  # masks are drawn
guide = AutoNormal(model, init_scale=0.1)


def rates(parameter: str) -> dict[str, float]:
    """Masks, whose layer is the network's first, learn faster than weights."""
    return {"lr": 0.3 if "$$$0." in parameter else 2e-2, "lrd": 0.1 ** (1 / STEPS)}


optimizer = pyro.optim.ClippedAdam(rates)
svi = SVI(model, guide, optimizer, Trace_ELBO())
losses = [svi.step(x, shop, y) / ROWS for _ in range(STEPS)]
print(f"loss, nats a customer: {losses[0]:.2f} at first, {sum(losses[-50:]) / 50:.2f} at the end")

# %% [markdown]
# ## Which measurements matter
#
# Keep probabilities of the ten; in truth the first three matter. The others' fall slowly: what a
# mask costs is a few nats, little beside the likelihood of all customers.

# %%
keep = network[0].keep_prob().detach()
keep.round(decimals=2)

# %% [markdown]
# ## Which shops sell
#
# Posterior means of the effects beside the truth, each less its average: a constant in all of them
# could as well be the network's.

# %%
network.eval()
effects = guide.median(x, shop)["effect"].detach()
effects, truth = effects - effects.mean(), true_effects - true_effects.mean()
correlation = float(torch.corrcoef(torch.stack([effects, truth]))[0, 1])
print(f"correlation with the truth {correlation:.2f}")
torch.stack([effects, truth], 1)[:5]

# %% [markdown]
# ## The claim, checked
#
# One made-up set, so that there is a truth to compare with. Its size and the rates above were set
# with these figures in view: they show the steps, and are no measurement.

# %%
assert sum(losses[-50:]) / 50 < sum(losses[:50]) / 50
assert keep[:3].min() > keep[3:].max(), keep
assert correlation > 0.8, correlation
