# %% [markdown]
# # Write your own prior
#
# **Question.** My units are not exchangeable: neighbouring pixels should be kept or dropped
# together. How do I get from such a prior to a layer that trains, predicts, prunes and is tested?
#
# **Answer.** Write down the prior and the posterior of what is random, the mask given it, and two
# averages: five short methods. Register the class. Everything else is there already, and the
# contract tests of the package run on your class with two lines of test code.

# %%
import os

import pyro.distributions as dist
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop import recipes

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## From the formula to the layer
#
# The log-odds of keeping pixel $k$ are a smooth random field, a Gaussian process over the pixels'
# positions $s_k$ with length scale $r$ (in pixels):
#
# $$ \eta = m + a L w, \quad L L^\top = \exp(-\lVert s_k - s_j \rVert^2 / 2 r^2), \qquad
#    p(w_k) = N(0, 1), \quad q(w_k) = N(\mu_k, \sigma_k^2), \qquad
#    z_{nk} \sim \mathrm{Bernoulli}(\sigma(\eta_k)). $$
#
# The latent is the white noise $w$ behind the field, not the field: prior and posterior are then
# independent normals, whose KL divergence is registered already. A negative $m$ prefers closed
# units. With `side=None` units have no neighbours, and $L$ is the identity.
#
# Take distributions from `bd.distributions` where you can: the tests replace their noise.


# %%
class SmoothFieldDropout(bd.BayesianDropout):
    """Keep probabilities that vary smoothly over an image."""

    key = "smooth-field"
    reference = "Rasmussen, Williams (2006), chapter 2, for the Gaussian process"

    def __init__(
        self, num_units, *, side=None, length_scale=1.0, location=-4.0, amplitude=2.0, **options
    ):
        super().__init__(num_units, **options)
        factor = torch.eye(num_units)
        if side is not None:
            unit = torch.arange(num_units)
            position = torch.stack([unit // side, unit % side], 1).double()
            square = torch.cdist(position, position).square()
            covariance = torch.exp(-square / (2 * length_scale**2)) + 1e-6 * factor
            factor = torch.linalg.cholesky(covariance).to(factor)
        # Buffers move with the layer, and are saved. The layer starts open: log-odds of 2.
        self.register_buffer("factor", amplitude * factor)
        self.register_buffer("location", torch.full((num_units,), float(location)))
        white = torch.linalg.solve_triangular(
            self.factor, torch.full((num_units, 1), 2.0 - location), upper=False
        )
        self.loc = nn.Parameter(white[:, 0])
        self.log_scale = nn.Parameter(torch.full((num_units,), -2.0))

    def prior(self):
        one = torch.ones_like(self.loc)
        return {"w": bd.distributions.Normal(0 * one, one).to_event(1)}

    def posterior(self):
        return {"w": bd.distributions.Normal(self.loc, self.log_scale.exp()).to_event(1)}

    def mask_distribution(self, latents, x=None):
        logits = self.location + latents["w"] @ self.factor.T
        if self.training:  # relaxed, with gradients; exact in evaluation mode
            return bd.distributions.BinaryConcrete(0.1, logits=logits).to_event(1)
        return dist.Bernoulli(logits=logits).to_event(1)

    def keep_prob(self):
        # E[sigmoid(eta)] under the field's normal marginals, at 199 equally likely points.
        mean = self.location + self.factor @ self.loc
        scale = (self.factor.square() @ (2 * self.log_scale).exp()).sqrt()
        points = torch.special.ndtri(torch.arange(1, 200).to(mean) / 200)
        return torch.sigmoid(mean + scale * points[:, None]).mean(0)

    def mean_mask(self, x=None):
        keep = self.keep_prob()
        return torch.where(keep < self.threshold, 0.0, keep)


# %% [markdown]
# ## Register it
#
# Now `bd.convert` knows the name, and so does a recipe. With this cell and those above in a file
# `smooth_field.py`, the command line knows both:
#
#     bayesdrop --plugin smooth_field list dropouts
#     bayesdrop --plugin smooth_field train digits-smooth-field
#
# and the tests of the contract run for your class with two lines in a test file of yours:
#
#     class TestSmoothField(bayesdrop.testing.MaskContract):
#         key = "smooth-field"

# %%
bd.nn.register(SmoothFieldDropout)
recipes.register(
    recipes.Recipe(
        "digits-smooth-field",
        "digits, a smooth field of keep probabilities over the pixels",
        data="digits",
        network="lenet-500-300",
        stages=(
            recipes.Stage("plain", 50),
            recipes.Stage("smooth-field", 100, dropout=True, batch_size=50, kl_warm_up=0.5),
        ),
        dropout="smooth-field",
        dropout_options={"select": ["fc1"], "side": 8},
    )
)

# %% [markdown]
# ## Train it, and compare
#
# Pixels of 8 x 8 digits, a small network, and the same with independent beta-Bernoulli gates.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test


def train(dropout, **options):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    net = bd.convert(plain, dropout, select=["1"], **options)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(x))
    bd.fit(
        bnn,
        (x, y),
        epochs=20 if SMOKE else 150,
        batch_size=50,
        learning_rate=3e-3,
        variational_learning_rate=1e-1,
        kl_weight=bd.schedules.warm_up(0.5),
        seed=0,
        progress=False,
    )
    return bnn.eval()


smooth = train("smooth-field", side=8, threshold=0.5)
independent = train("beta-bernoulli", threshold=0.5)
models = {"smooth field": smooth, "beta-Bernoulli": independent}


def roughness(bnn):
    """Mean absolute step of the keep probability from a pixel to its neighbours."""
    keep = bnn.named_dropout_layers()[0][1].keep_prob().detach().reshape(8, 8)
    return float(torch.cat([keep.diff(dim=0).flatten(), keep.diff(dim=1).flatten()]).abs().mean())


errors = {name: bd.evaluate(bnn, (x_test, y_test)).error for name, bnn in models.items()}
found = {name: (bnn.units(), roughness(bnn), errors[name]) for name, bnn in models.items()}
found

# %% [markdown]
# ## Check it
#
# `check_elbo` compares the KL divergence with Monte Carlo, the loss over batch sizes in plain
# torch and in Pyro, and looks at the gradients: the laws that a wrong prior or mask breaks. The
# compact network follows from `mean_mask`.

# %%
check = bd.check_elbo(smooth, x[:64], y[:64], num_samples=500 if SMOKE else 2000)
small = bd.compact(smooth, x_test[:1])
difference = float((small(x_test) - smooth(x_test)).detach().abs().max())
check, small.get_submodule("1"), difference

# %% [markdown]
# ## The claim, checked
#
# The user's layer obeys the laws, prunes, compacts exactly and is about as accurate as the
# package's own; and its pixels have neighbours: the keep probabilities are smoother.

# %%
assert check.passed, check
assert small.get_submodule("1").in_features == smooth.units()[0] < 64, smooth.units()
assert difference < 1e-4, difference
assert roughness(smooth) < roughness(independent), (roughness(smooth), roughness(independent))
assert max(errors.values()) < 10 and errors["smooth field"] < errors["beta-Bernoulli"] + 4, found
