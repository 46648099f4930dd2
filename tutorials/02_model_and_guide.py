# %% [markdown]
# # Model and guide
#
# **Question.** What is a dropout layer as a probabilistic program, and which of Pyro's tools work
# on it?
#
# **Answer.** A global latent $\pi$ (the keep probabilities) outside the data plate, and a mask
# $z_n$ inside it whose posterior is its own prior conditional, $q(z \mid \pi) = p(z \mid \pi)$, so
# that it adds nothing to the ELBO. Stock `SVI`, `poutine` and `Predictive` work unchanged, and
# `NUTS` where masks are summed out.

# %%
import os

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
pyro.set_rng_seed(0)

# %% [markdown]
# ## A problem small enough to see through
#
# Four inputs, of which the second half has no influence on $y$. The prior $\mathrm{Beta}(1, 1)$
# has no opinion about a unit, so what the posterior says comes from the data.

# %%
num_data = 200
x = torch.randn(num_data, 4)
y = (x[:, 0] - x[:, 1] + 0.3 * torch.randn(num_data)).unsqueeze(-1)

gate = bd.BetaBernoulliDropout(4, prior_concentration1=1.0, init_concentration1=1.0)
net = nn.Sequential(gate, nn.Linear(4, 1))
bnn = bd.BayesianNetwork(net, bd.Gaussian(0.5), num_data=num_data)

# %% [markdown]
# ## The sites
#
# `0.pi` is named after the layer's place in the network. It stands outside the plate and its scale
# is one. In a batch of 50 the observation is scaled by $N / B = 4$. The mask `0.z` is in the trace
# as an observed, masked site: you can look at it and condition on it, and it does not enter the
# ELBO.

# %%
trace = poutine.trace(bnn.model).get_trace(x[:50], y[:50])
for name in ("0.pi", "0.z", "obs"):
    site = trace.nodes[name]
    (name, tuple(site["value"].shape), site["scale"], site["is_observed"])

# %% [markdown]
# ## SVI
#
# The KL of `0.pi` is closed (Kumaraswamy against Beta), and registered, so `TraceMeanField_ELBO`
# does not sample it.

# %%
svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 5e-2}), TraceMeanField_ELBO())
losses = [svi.step(x, y) for _ in range(200 if SMOKE else 2000)]
keep = gate.keep_prob().detach()
keep

# %% [markdown]
# ## Conditioning on a mask
#
# What would the network say without its first input? Impose the mask; the rest of the program is
# untouched. `bd.impose_masks` does the same for a network outside of Pyro.

# %%
mask = torch.tensor([0.0, 1.0, 1.0, 1.0])
without = poutine.condition(bnn.model, data={"0.z": mask})(x)
with torch.no_grad(), bd.impose_masks(net, {"0": mask}):
    same = net(x)

# %% [markdown]
# ## Predictive
#
# In evaluation mode masks are exact zeros and ones. `return_sites` matters: by default
# `Predictive` also returns a mask for every sample and example. `bd.predict` draws from the same
# program, keeps one mask for each posterior sample, and is about as fast as plain forward passes.

# %%
bnn.eval()
samples = Predictive(
    bnn.model, guide=bnn.guide, num_samples=200, return_sites=("obs", "_RETURN"), parallel=True
)(x)
stock_mean = samples["_RETURN"].mean(0)
ours = bd.predict(bnn, x, num_samples=200, seed=0)

# %% [markdown]
# ## NUTS beside the guide
#
# Freeze the weights and ask a sampler about $\pi$ alone. With one mask an example the density
# is random, and its best guide is no posterior; with four units all 16 masks can be summed over,
# in the guide's objective as in what NUTS samples ([is it a
# posterior?](../docs/posterior.md)).

# %%
bnn.train()
net[1].requires_grad_(False)
svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 5e-2}), TraceMeanField_ELBO())
for _ in range(100 if SMOKE else 600):
    svi.step(x, y, num_masks="exact")

kernel = NUTS(lambda x, y: bnn.model(x, y, num_masks="exact"), max_tree_depth=4)
mcmc = MCMC(
    kernel,
    num_samples=40 if SMOKE else 300,
    warmup_steps=30 if SMOKE else 150,
    disable_progbar=True,
)
mcmc.run(x, y)
nuts_keep = mcmc.get_samples()["0.pi"].mean(0)
nuts_keep, gate.keep_prob().detach()

# %% [markdown]
# ## The claim, checked
#
# Relevant inputs are kept, conditioning on a mask is the same in and outside of Pyro, stock
# `Predictive` and `bd.predict` agree, and so do NUTS and the guide.

# %%
assert sum(losses[-50:]) < sum(losses[:50])
assert keep[:2].min() > 0.9 and keep[2:].max() < keep[:2].min(), keep
assert torch.allclose(without.detach(), same, atol=1e-6)
spread = samples["_RETURN"].std(0) + 0.05  # where few samples have seen a rare mask
difference = ((stock_mean - ours.mean) / spread).abs().max()
assert difference < 1.0, difference  # 10 standard errors of a mean
assert (nuts_keep - gate.keep_prob().detach()).abs().max() < 0.15, nuts_keep
