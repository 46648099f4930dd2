# %% [markdown]
# # From dropout to masks
#
# **Question.** What changes when the drop rate is learned, one for every unit, in a training loop
# you already have?
#
# **Answer.** You put `BetaBernoulliDropout` where `nn.Dropout` stood and add one term to the loss.
# The layer then finds out which units the data pays for. In evaluation mode it multiplies by the
# mean mask, in which useless units are zero, so they can be cut out of the network exactly.
#
# No Pyro in this tutorial: outside a Pyro program the layers are plain torch.

# %%
import os

import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd

torch.manual_seed(0)
SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# Scikit-learn's digits: 8x8 images, ten classes, no download.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test
num_data = len(x)
x.shape, num_data

# %% [markdown]
# ## Where `nn.Dropout` would stand
#
# A mask sits on the *inputs* of a linear layer, also on the pixels. Each layer knows how many
# units it masks, because each unit has its own keep probability $\pi_k$:
#
# $$ \pi_k \sim \mathrm{Beta}(c, 1), \qquad z_{nk} \sim \mathrm{Bernoulli}(\pi_k). $$

# %%
net = nn.Sequential(
    nn.Flatten(),
    bd.BetaBernoulliDropout(64),
    nn.Linear(64, 128),
    nn.ReLU(),
    bd.BetaBernoulliDropout(128),
    nn.Linear(128, 64),
    nn.ReLU(),
    bd.BetaBernoulliDropout(64),
    nn.Linear(64, 10),
)

# %% [markdown]
# ## The loop
#
# The loss is minus the evidence lower bound, divided by the number of training examples: the
# cross-entropy you know, plus `kl_divergence`. Three things are easy to get wrong and worth a
# look: the KL is divided by the size of the *data set*, not of the batch; weight decay belongs to
# the weights, not to the keep probabilities; and the KL is warmed up, so that the network learns
# something before it must pay for its units.

# %%
gates = [m for m in net.modules() if isinstance(m, bd.BayesianDropout)]
gate_parameters = [p for gate in gates for p in gate.parameters()]
weights = [m for m in net.modules() if isinstance(m, nn.Linear)]
weight_parameters = [p for linear in weights for p in linear.parameters()]
optimizer = torch.optim.Adam(
    [
        {"params": weight_parameters, "lr": 3e-3, "weight_decay": 1e-4},
        {"params": gate_parameters, "lr": 1e-1},
    ]
)
epochs = 15 if SMOKE else 80
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 2 // 3, epochs * 9 // 10])

for epoch in range(epochs):
    net.train()  # masks are drawn, relaxed so that gradients flow
    warm_up = min(1.0, 2 * (epoch + 1) / epochs)
    for rows in torch.randperm(num_data).split(64):
        optimizer.zero_grad()
        kl = warm_up * bd.kl_divergence(net)
        loss = F.cross_entropy(net(x[rows]), y[rows]) + kl / num_data
        loss.backward()
        optimizer.step()
    schedule.step()


# %% [markdown]
# ## What was learned
#
# `keep_prob()` is the posterior mean of $\pi_k$. Pixels in the corners of the image are never
# inked; their masks close. `kept()` says which units remain.


# %%
def accuracy(network):
    network.eval()  # the mean mask: no noise
    with torch.no_grad():
        return (network(x_test).argmax(1) == y_test).double().mean().item()


[int(gate.kept().sum()) for gate in gates], accuracy(net)

# %%
gates[0].keep_prob().detach().reshape(8, 8).round(decimals=2)

# %% [markdown]
# ## A smaller network
#
# `compact` cuts out the units whose mask is zero and folds the others' into the weights. What
# comes back is plain torch: it can be saved, exported, and run where bayesdrop is not installed.

# %%
small = bd.compact(net, x_test[:1])


def parameters(network):
    return sum(p.numel() for p in network.parameters())


parameters(net), parameters(small)

# %% [markdown]
# ## The claim, checked
#
# A good classifier, fewer units in every layer, and the small network is the masked one.

# %%
kept = [gate.kept().double().mean().item() for gate in gates]
with torch.no_grad():
    difference = (small(x_test) - net.eval()(x_test)).abs().max().item()
assert accuracy(net) > 0.9, accuracy(net)
assert max(kept) < 1.0 and parameters(small) < 0.75 * parameters(net), kept
assert difference < 1e-4, difference
