# %% [markdown]
# # One network, many widths
#
# **Question.** A network must run on a phone, a laptop and a server, which can afford different
# amounts of computation. Must you train one for each?
#
# **Answer.** No. Put an order on the units, `NestedDropout` or `VariationalNestedDropout`, and
# train with masks that open a prefix of them. Any prefix is then a network of its own:
# `cut_to_width` cuts it out, `sweep_widths` says what each costs and how good it is, and
# `choose_width` picks one for a budget.

# %%
import os

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## A mask that opens a prefix
#
# Unit $k$ can only be open if all units before it are,
#
# $$ P(z_1 = 1) = \beta_1, \qquad P(z_k = 1 \mid z_{k-1} = 1) = \beta_k, \qquad
#    P(z_k = 1 \mid z_{k-1} = 0) = 0, $$
#
# so a mask is one number, how many units are open. `NestedDropout` fixes its law.
# `VariationalNestedDropout` gives it a prior and learns the posterior; its divergence is closed.

# %%
beta = torch.tensor([0.9, 0.8, 0.5])
order = bd.distributions.OrderedMask(beta)
order.enumerate_support(), order.tail_probs, order.mean

# %% [markdown]
# ## Training
#
# `convert` puts a nested layer before each hidden unit's next layer. Units come in up to 32
# groups, of which the first is always open. Each example draws a mask of its own, which is less
# noisy than one mask a step and has the same expected loss. With `share_widths=True` its masks are
# equally wide in all layers, as in the networks that will be cut out. `kl_scale=len(x)` lets every
# example pay for its mask: under the plain ELBO a few nats are nothing beside the data, and the
# posterior would use the full width only. The prior is the same chance for each number of groups.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test


def classifier(dropout, **options):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    net = plain
    if dropout is not None:
        net = bd.convert(plain, dropout, input_dropout=False, **options)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(x))
    bd.fit(
        bnn,
        (x, y),
        epochs=30 if SMOKE else 100,
        batch_size=64,
        learning_rate=3e-3,
        variational_learning_rate=1e-2,
        seed=0,
        progress=False,
    )
    return bnn


ordered = classifier(
    "variational-nested",
    share_widths=True,
    shared_by="example",
    kl_scale=float(len(x)),
    prior_continue_prob=None,
    init_continue_prob=None,
)

# %% [markdown]
# ## What each width costs, and how good it is
#
# The test set is not for choosing; here a part of it plays the validation set.

# %%
validation = (x_test[:150], y_test[:150])
sweep = bd.compression.sweep_widths(ordered, validation, repeats=5, seed=0)
sweep

# %% [markdown]
# ## A width for a budget
#
# The best network within a quarter of the FLOPs, or the smallest that has 85 % right.
# `cut_to_width` returns an ordinary module; a smaller one's weights are the first rows and columns
# of a larger one's, so one file serves all of them.

# %%
full = sweep.rows[-1]
within = bd.choose_width(sweep, max_flops=full.flops // 4)
enough = bd.choose_width(sweep, min_accuracy=85.0)
small, large = (bd.cut_to_width(ordered, width, x[:1]) for width in (within, 1.0))
within, enough, [tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Linear)]

# %% [markdown]
# ## Does it need the order?
#
# The same cut through a network that was trained without one: its first units know nothing of
# being first. `bd.compression.hold_width` masks are imposed on the plain weights.

# %%
unordered = classifier(None)
cut = bd.convert(unordered.network, "nested", trained=False, input_dropout=False)


def accuracy(network, width):
    with torch.no_grad():
        predicted = bd.cut_to_width(network, width, x[:1])(x_test).argmax(1)
    return float((predicted == y_test).double().mean())


by_width = {w: (accuracy(ordered, w), accuracy(cut, w)) for w in (0.125, 0.25, 0.5, 1.0)}
by_width

# %% [markdown]
# ## The claim, checked
#
# One training gave networks of all widths: narrow prefixes work, where those of an unordered
# network fail, and the full width gives up little. The chosen ones keep to their budgets, and a
# smaller network is a prefix of a larger.

# %%
assert by_width[0.25][0] > by_width[0.25][1] + 0.05, by_width
assert by_width[0.25][0] > 0.8 and by_width[1.0][0] > by_width[1.0][1] - 0.04, by_width
assert bd.compression.count_flops(small, x[:1]) <= full.flops // 4
narrow, wide = (dict(net.named_parameters())["3.weight"] for net in (small, large))
assert torch.equal(narrow, wide[: narrow.shape[0], : narrow.shape[1]])
