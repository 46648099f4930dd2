# %% [markdown]
# # Sparse weights
#
# **Question.** How many weights does a network need, and what happens if there is nothing to
# learn?
#
# **Answer.** Give every weight a posterior of its own and a prior that prefers noise. Most weights
# of a classifier of digits then turn out to be noise and are pruned, for about one percentage
# point of test error. With labels drawn at random hardly a weight is worth its price: less than
# one in a hundred is left, and every input gets the same prediction, where the ordinary network
# learns by heart.

# %%
import os
import tempfile

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## What a weight costs
#
# The posterior of a weight is $\mathcal N(\theta, \sigma^2)$ and its prior is uniform in
# $\log |w|$. The KL divergence depends on the noise-to-signal ratio
# $\alpha = \sigma^2 / \theta^2$ alone: a weight known to a tenth of its size
# ($\log \alpha = -4.6$) costs almost three nats, pure noise costs nothing.

# %%
layer = bd.nn.SparseVariational(nn.Linear(1, 4), init_log_variance=0.0)
with torch.no_grad():
    layer.weight[:, 0] = torch.tensor([10.0, 3.0, 1.0, 0.1])
layer.log_alpha().flatten(), layer.kl_by_unit()

# %% [markdown]
# ## Train
#
# `bd.convert` replaces Linear and convolution layers. The KL weight rises slowly: from the start,
# the price of all weights would empty the network before it has learned anything. In training
# mode the layers draw each example's pre-activations instead of the weights, which has less
# variance; in a Pyro program the weights themselves are a sample site, `fc1.weight`.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test
EPOCHS, RATE = (30, 0.1) if SMOKE else (200, 0.05)


def train(labels, dropout=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    if dropout is not None:
        net = bd.convert(net, dropout)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(x))
    bd.fit(
        bnn,
        (x, labels),
        epochs=EPOCHS,
        batch_size=64,
        learning_rate=5e-3,
        variational_learning_rate=RATE,
        weight_decay=0.0,
        schedule=(0.85, 0.95),
        kl_weight=bd.schedules.warm_up(0.6),
        seed=0,
        progress=False,
    )
    return bnn


def error(bnn, inputs, labels):
    return bd.evaluate(bnn, (inputs, labels), sample=False).error


plain = train(y)
sparse = train(y, "sparse-variational")
[error(bnn, x_test, y_test) for bnn in (plain, sparse)], sparse.kept(), sparse.total()

# %% [markdown]
# ## What is left, on disk
#
# `bd.compact` builds an ordinary network without the units and pixels that no weight uses, and
# zeros elsewhere. `bd.save_plain` with `format="sparse"` writes the weights that are not zero and
# where they are; `measure_sparsity` says what that saves.

# %%
small = bd.compact(sparse, x_test[:1])
with tempfile.TemporaryDirectory() as folder:
    bd.save_plain(sparse, f"{folder}/digits.pt", format="sparse")
table = bd.compression.measure_sparsity(sparse)
small, table

# %% [markdown]
# ## Nothing to learn
#
# The same with labels drawn at random. The plain network has enough weights to learn many of them
# by heart. Under the ELBO it does not pay: what a weight says about the training labels must be
# worth more than its KL divergence, and a memorised label earns at most $\log 10 = 2.3$ nats.
# What remains are the biases, and a few weights so close to zero that their ratio $\alpha$ means
# little: the network is not literally empty (a few dozen of 7,400 weights), but its logits
# differ between inputs by a few hundredths.

# %%
random = torch.randint(10, y.shape, generator=torch.Generator().manual_seed(1))
by_heart = train(random)
empty = train(random, "sparse-variational")
[error(bnn, x, random) for bnn in (by_heart, empty)], empty.kept()

# %% [markdown]
# ## The claim

# %%
kept = sum(sparse.kept()["weights"]) / sum(sparse.total()["weights"])
print(f"digits: {kept:.1%} of the weights, random labels: {sum(empty.kept()['weights'])} weights")
assert kept < 0.25
assert error(sparse, x_test, y_test) < error(plain, x_test, y_test) + 3.0
assert table.file_bytes < table.file_bytes_dense / 2
assert error(by_heart, x, random) < (75.0 if SMOKE else 60.0)
assert sum(empty.kept()["weights"]) < 0.01 * sum(empty.total()["weights"])
with torch.no_grad():
    spread = empty.network.eval()(x).std(0).max()
assert float(spread) < 0.1, "all inputs get the same prediction"
