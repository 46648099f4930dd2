# %% [markdown]
# # How many units?
#
# **Question.** How wide should a layer be, and how many features should an auto-encoder's code
# have, if you do not want to search for it?
#
# **Answer.** Put an Indian buffet prior on the units, `IndianBuffetDropout`. It orders them, wants
# only the first few, and lets the data pay for more. You choose an upper limit, the truncation;
# what is learned hardly depends on it. The same sticks switch the features of a variational
# auto-encoder's code on and off, example by example.

# %%
import os

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## Sticks
#
# A stick $v_j \sim \mathrm{Beta}(\alpha, 1)$ is a number between 0 and 1. A unit is kept with the
# product of all sticks up to its own,
#
# $$ \pi_k = v_1 v_2 \cdots v_k, \qquad z_{nk} \sim \mathrm{Bernoulli}(\pi_k), $$
#
# so unit 7 can only be common if units 1 to 6 are. A priori an example uses $\alpha$ units on
# average, however many there are: $E[\pi_k] = (\alpha / (\alpha + 1))^k$ is a geometric series.

# %%
concentration = 5.0
prior_keep = (concentration / (concentration + 1)) ** torch.arange(1.0, 201.0)
prior_keep.sum()

# %% [markdown]
# ## The width of a hidden layer
#
# Two classifiers of digits that differ in one number: the hidden layer has at most 100 units, or
# at most 200. All units start open. The KL divergence is warmed up, so that the network first
# learns something and then says which units it can spare.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test


def classifier(width):
    torch.manual_seed(0)
    gates = bd.IndianBuffetDropout(width, concentration=concentration)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), gates, nn.Linear(width, 10))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(x))
    bd.fit(
        bnn,
        (x, y),
        epochs=40 if SMOKE else 150,
        batch_size=64,
        learning_rate=3e-3,
        variational_learning_rate=1e-1,
        kl_weight=bd.schedules.warm_up(0.5),
        seed=0,
        progress=False,
    )
    accuracy = (bnn(x_test).argmax(1) == y_test).double().mean().item()
    return bnn, bnn.units()[0], accuracy


widths = {width: classifier(width) for width in (100, 200)}
{width: (units, accuracy) for width, (_, units, accuracy) in widths.items()}

# %% [markdown]
# The keep probabilities fall from the first unit to the last. Where they fall below the layer's
# `threshold` units are pruned: a prefix remains, and `compact` cuts out the rest. Had the last
# stick still been open, `fit` would have warned that the layer is too narrow.

# %%
bnn = widths[200][0]
keep = bnn.network[3].keep_prob().detach()
small = bd.compact(bnn, x_test[:1])
keep[::20].round(decimals=2), [m for m in small.modules() if isinstance(m, nn.Linear)]

# %% [markdown]
# ## The code of an auto-encoder
#
# Now each image has a code of its own: Gaussian features $h_{nk}$, each switched on or off by a
# mask $z_{nk}$ whose rates are the sticks' products:
#
# $$ z_{nk} \sim \mathrm{Bernoulli}(\pi_k), \quad h_{nk} \sim N(0, 1), \quad
#    x_n \sim \mathrm{Bernoulli}(f(z_n \odot h_n)). $$
#
# The posterior is structured: it shares the sampled sticks, and the encoder only says by how much
# an image departs from them, $q(z_{nk} \mid v, x_n) = \mathrm{Bernoulli}(\sigma(\mathrm{logit}\,
# \pi_k + d_k(x_n)))$. Mask and code are real sites of model and guide, so stock `SVI` trains it;
# here `fit` does. The target is the image itself.

# %%
images, images_test = (x > 0.5).float(), (x_test > 0.5).float()


def autoencoder(latent_size):
    torch.manual_seed(0)
    vae = bd.networks.vae(
        len(images),
        input_shape=(1, 8, 8),
        latent_size=latent_size,
        hidden=(100,),
        latent_dropout="indian-buffet",
        latent_options={"concentration": 3.0, "threshold": 0.2},
    )
    bd.fit(
        vae,
        (images, images),
        epochs=18 if SMOKE else 150,
        batch_size=64,
        learning_rate=8e-3 if SMOKE else 3e-3,
        variational_learning_rate=1e-2,
        weight_decay=0.0,
        seed=0,
        progress=False,
    )
    return vae


codes = {size: autoencoder(size) for size in (20, 40)}

# %% [markdown]
# How many features does an image use? `feature_probs` is the posterior probability of each feature
# for each image; the sum of a row is the image's expected number. Different images use different
# ones, which is what the mask of a single layer cannot say.

# %%
used = {size: vae.feature_probs(images_test).sum(1).detach() for size, vae in codes.items()}
{size: (u.mean(), u.min(), u.max()) for size, u in used.items()}

# %% [markdown]
# How good is it? `log_likelihood_bound` gives a lower bound on $\log p(x)$ in nats for images that
# were not trained on, with exact masks. More importance samples make it tighter.

# %%
vae = codes[20]
loose, tight = (
    bd.diagnostics.log_likelihood_bound(vae, images_test, num_samples=count, seed=0).mean
    for count in (1, 50)
)
baseline = images.mean(0).clamp(0.01, 0.99)  # every pixel on its own
independent = torch.distributions.Bernoulli(baseline).log_prob(images_test).sum((1, 2, 3)).mean()
loose, tight, independent

# %% [markdown]
# ## The claim, checked
#
# Twice the truncation changes neither the width of the layer nor the number of features of an
# image by much, both stay far below it, and nothing is lost: the classifiers are good, and the
# auto-encoder is better than independent pixels by nats.

# %%
(_, narrow, accuracy), (_, wide, accuracy_wide) = widths.values()
assert min(accuracy, accuracy_wide) > 0.93, (accuracy, accuracy_wide)
assert narrow < 95 and wide < 120 and abs(wide - narrow) < 0.25 * narrow, (narrow, wide)
assert bool((keep.diff() < 0).all())
few, more = (float(u.mean()) for u in used.values())
assert few < 15 and more < 15 and abs(more - few) < 0.35 * few, (few, more)
assert loose < tight and independent + 2 < tight, (independent, loose, tight)
