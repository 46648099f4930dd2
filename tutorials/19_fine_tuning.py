# %% [markdown]
# # Fine-tuning a pretrained network
#
# **Question.** A network has learned from many good images, and you have few bad ones. How do
# masks come into a network that is trained already, and what do they do to a small training set?
#
# **Answer.** `convert` takes the trained network as it is: the weights are kept, masks start
# nearly open, and `fit` goes on from there. What was learned before helps most; masks then take
# out some of what the new task does not need. All is trained on the spot, nothing is downloaded.
# [Tutorial 12](12_a_pretrained_transformer.py) has a transformer.

# %%
import os

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
BEFORE, EPOCHS = (8, 25) if SMOKE else (40, 100)
torch.manual_seed(0)
FEW = 80

# %% [markdown]
# ## Two cameras
#
# Some hundred good digits; then eighty others from a bad camera, turned upside down in its mount,
# at half the contrast and with noise. The test digits, too, are from the bad camera.

# %%
digits = bd.load_data("digits")
(x, y), (x_test, y_test) = digits.train, digits.test


def bad_camera(images: torch.Tensor, seed: int) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return 0.5 * images.flip(2, 3) + 0.1 * noise


good = x[FEW:], y[FEW:]
few, test = (bad_camera(x[:FEW], seed=1), y[:FEW]), (bad_camera(x_test, seed=2), y_test)
len(good[1]), len(few[1]), len(test[1])


# %%
def network() -> nn.Sequential:
    """Two convolutions, two Linears."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def trained(net: nn.Module, data, epochs: int) -> bd.BayesianNetwork:
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(data[1]))
    options = {"batch_size": 20, "learning_rate": 3e-3, "variational_learning_rate": 0.2}
    bd.fit(bnn, data, epochs=epochs, seed=0, progress=False, **options)
    return bnn


pretrained = trained(network(), good, BEFORE).network

# %% [markdown]
# ## Four networks for the bad camera
#
# The pretrained one as it is; one that has seen the eighty images only; the pretrained one trained
# on, without masks and with masks on channels and units. Eighty images are few for the KL
# divergence of so many units: it counts a fiftieth. That was chosen with the errors below in view:
# they show what masks can do, and are no measurement.

# %%
tuned = network()
tuned.load_state_dict(pretrained.state_dict())
masked = bd.convert(pretrained, "beta-bernoulli", kl_scale=0.02)
bnns = {
    "as it was": bd.BayesianNetwork(pretrained, bd.Categorical(), num_data=len(few[1])),
    "eighty images only": trained(network(), few, EPOCHS),
    "fine-tuned": trained(tuned, few, EPOCHS),
    "fine-tuned, masks": trained(masked, few, EPOCHS),
}

# %% [markdown]
# ## The test images, once

# %%
found = {name: bd.evaluate(bnn, test, num_samples=32, seed=0) for name, bnn in bnns.items()}
for name, result in found.items():
    print(f"{name:19} error {result.error:5.1f} %  NLL {result.nll:.3f}  ECE {result.ece:.3f}")

# %% [markdown]
# ## What the new task does not need
#
# The network that is left, and units kept of those there were, layer by layer.

# %%
bnn = bnns["fine-tuned, masks"].eval()
small = bd.compact(bnn, test[0][:1])
with torch.no_grad():
    difference = float((small(test[0]) - bnn(test[0])).abs().max())
flops = [bd.compression.count_flops(net, test[0][:1]) for net in (tuned, small)]
print(f"{flops[0] / flops[1]:.1f} times fewer operations")
units = {n: f"{int(m.kept().sum())} of {m.num_units}" for n, m in bnn.named_dropout_layers()}
units

# %% [markdown]
# ## The claim, checked
#
# One draw of eighty images and one seed: enough to see that what was learned before helps, not to
# say whether masks lower the error.

# %%
error = {name: result.error for name, result in found.items()}
assert error["fine-tuned"] < error["eighty images only"] < error["as it was"], error
assert error["fine-tuned, masks"] < error["as it was"], error
assert difference < 1e-4 and flops[1] < flops[0], (difference, flops)
