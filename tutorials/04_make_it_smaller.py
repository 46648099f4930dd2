# %% [markdown]
# # Make it smaller
#
# **Question.** How much of a trained network is needed, can the rest be taken out without changing
# what it says, and does that make it faster?
#
# **Answer.** Masks with a posterior say which units are needed. `compact` cuts the others out:
# the same outputs to rounding, from a plain network of a quarter of the FLOPs or less. Time is
# another matter: it falls with the FLOPs where arithmetic takes the time, and hardly where the
# calls do. So measure it, at the batch size you will run.

# %%
import importlib.util
import os
import tempfile

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests

# %% [markdown]
# ## A network that is larger than it need be
#
# It is trained as usual, and then again with beta-Bernoulli masks on the inputs of its Linear
# layers. `convert` sees that its weights are trained and starts with masks that are nearly open.
# The first layer's mask is on the pixels.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test
x_validation, y_validation = x_test[:200], y_test[:200]
x_test, y_test = x_test[200:], y_test[200:]


def train(network, epochs, **options):
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(x))
    bd.fit(bnn, (x, y), epochs=epochs, batch_size=50, seed=0, progress=False, **options)
    return bnn


torch.manual_seed(0)
layers = [nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 200), nn.ReLU()]
plain = train(nn.Sequential(*layers, nn.Linear(200, 10)), 5 if SMOKE else 15)
masked = bd.convert(plain.network, "beta-bernoulli")
epochs, rate = (20, 0.4) if SMOKE else (150, 0.1)
bnn = train(masked, epochs, variational_learning_rate=rate)
bnn.units_total(), bnn.units()

# %% [markdown]
# ## Cut out what is pruned
#
# A unit is pruned where its keep probability is below the layer's `threshold`: in evaluation mode
# its mask is zero. `compact` follows these zeros through the network and cuts rows and columns of
# the weights on both sides; it compares the outputs on the example, and raises if they differ.

# %%
small = bd.compact(bnn, x_test[:1])
with torch.no_grad():
    difference = (small(x_test) - bnn(x_test)).abs().max()
[m for m in small.modules() if isinstance(m, nn.Linear)], difference

# %% [markdown]
# Nothing of bayesdrop is in it. Random pruning of as many units is the check that the posterior
# knows something: the same counts, other units, from the network before.

# %%
generator = torch.Generator().manual_seed(0)
masks = {}
for name, layer in bnn.named_dropout_layers():
    order = torch.randperm(layer.num_units, generator=generator)
    masks[name] = torch.zeros(layer.num_units).index_fill(0, order[: int(layer.kept().sum())], 1.0)


def accuracy(network):
    with torch.no_grad():
        return float((network(x_test).argmax(1) == y_test).double().mean())


with bd.impose_masks(bnn.network, masks):
    at_random = accuracy(bnn.network)
{"plain": accuracy(plain), "compact": accuracy(small), "as many at random": at_random}

# %% [markdown]
# ## How small? FLOPs against error
#
# The threshold is a choice after training. `sweep_thresholds` says what each costs, on data that
# are neither for training nor for the final figure, and `choose_threshold` takes the smallest
# network within a limit, here half a percentage point.

# %%
frontier = bd.compression.sweep_thresholds(bnn, (x_validation, y_validation))
threshold = bd.compression.choose_threshold(frontier, max_error_increase=0.5)
frontier, threshold

# %% [markdown]
# The size is a posterior quantity, too: some units are in doubt, and with them the cost.

# %%
bd.compression.measure_size(bnn, num_samples=50, seed=0)

# %% [markdown]
# ## FLOPs against measured latency
#
# `measure_compression` counts both and measures both, the networks in turns, so that a change of
# load meets both. One image takes microseconds of arithmetic and more of calling: the small
# network gains less than its FLOPs say. With a batch of 1,000 the arithmetic decides.

# %%
table = bd.compression.measure_compression(
    bnn, small, x_test[:1], batch_sizes=(1, 1000), repeats=3 if SMOKE else 100
)
table

# %% [markdown]
# ## Take it elsewhere
#
# `save_plain` writes architecture and weights in one file, as ONNX (an extra,
# `pip install 'bayesdrop[onnx]'`) or by `torch.export`, for any batch size. It runs where
# bayesdrop is not installed; `load_plain` reads both without running code from the file.

# %%
format = "onnx" if not SMOKE and importlib.util.find_spec("onnxscript") else "export"
with tempfile.TemporaryDirectory() as folder:
    bd.save_plain(small, f"{folder}/small", x_test[:2], format=format)
    size = os.path.getsize(f"{folder}/small")
    again = bd.load_plain(f"{folder}/small")
    loaded = again(x_test)
format, size

# %% [markdown]
# ## The claim, checked
#
# A quarter of the FLOPs or less, the same outputs, as good as the plain network within two
# percentage points, and far better than as many units at random. The file says the same.

# %%
assert difference < 1e-4, difference
assert table.flops_speedup > 4, table
assert accuracy(small) > accuracy(plain) - 0.02, (accuracy(small), accuracy(plain))
assert accuracy(small) > at_random + 0.1, at_random
assert torch.allclose(loaded, small(x_test), atol=1e-4)
