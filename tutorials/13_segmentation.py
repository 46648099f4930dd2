# %% [markdown]
# # A class for every pixel
#
# **Question.** A network labels each pixel of an image. Where is it unsure, which images has it
# never seen the like of, and can it be made smaller all the same?
#
# **Answer.** `bd.Categorical` takes logits `(N, C, H, W)` as torch's cross-entropy does, and
# leaves unlabelled pixels out everywhere. Metrics count pixels, detection of other data counts
# images, the ELBO counts images too. `bd.compact` cuts channels through pooling, upsampling and
# the concatenation of the decoder.

# %%
import os

import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
EPOCHS, IMAGES = (12, 200) if SMOKE else (60, 400)
torch.manual_seed(0)
SIZE, UNLABELLED = 16, 255


# %% [markdown]
# ## Discs and crosses
#
# Each image has one disc or one cross in noise: class 1 or 2, and 0 for what is behind. Nobody
# can say to whom the pixels along an outline belong, so they have no label.


# %%
def draw(count: int, shape: int | None = None, noise: float = 0.25):
    """Return images and labels; shape 1 is a disc, 2 a cross, 3 a ring, None a disc or cross."""
    kind = torch.randint(1, 3, (count,)) if shape is None else torch.full((count,), shape)
    centre, radius = 5 + 6 * torch.rand(count, 2, 1, 1), 3 + 2 * torch.rand(count, 1, 1)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    away = torch.stack([rows - centre[:, 0], columns - centre[:, 1]])
    arms = torch.maximum(away.abs().amax(0), radius - 1.5 + away.abs().amin(0))
    depth = radius - torch.where((kind == 2)[:, None, None], arms, away.norm(dim=0))
    inside = (depth > 0) & ((kind != 3)[:, None, None] | (depth < 1.5))
    y = torch.where(inside, kind[:, None, None], 0)
    y[depth.abs() < 0.4] = UNLABELLED
    return inside[:, None].float() + noise * torch.randn(count, 1, SIZE, SIZE), y


train, test = draw(IMAGES), draw(100)
rings, stripes = draw(100, shape=3)[0], torch.arange(SIZE).remainder(4).lt(2).float()
other = {"rings": rings, "stripes": stripes + 0.25 * torch.randn(100, 1, SIZE, SIZE)}
train[0].shape, train[1].shape, (train[1] == UNLABELLED).double().mean()


# %% [markdown]
# ## An encoder, a decoder, a shortcut
#
# A small U-Net: what was seen at full resolution is concatenated to what was seen at half of it.
# `bd.convert` puts a mask on the channels of every convolution but the last, whose channels are
# the classes.


# %%
class UNet(nn.Module):
    """Two resolutions, three classes."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(1, 16, 3, padding=1)
        self.coarse = nn.Conv2d(16, 32, 3, padding=1)
        self.wide = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.up = nn.Upsample(scale_factor=2)
        self.both = nn.Conv2d(48, 16, 3, padding=1)
        self.classes = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        fine = F.relu(self.fine(x))
        coarse = F.relu(self.wide(F.relu(self.coarse(F.max_pool2d(fine, 2)))))
        return self.classes(F.relu(self.both(torch.cat([fine, self.up(coarse)], 1))))


likelihood = bd.Categorical(ignore_index=UNLABELLED)
network = bd.convert(UNet(), "beta-bernoulli", init_concentration1=2.0, input_dropout=False)
bnn = bd.BayesianNetwork(network, likelihood, num_data=IMAGES)

# %% [markdown]
# `num_data` is the number of images. The log-likelihood of an image is the sum over its labelled
# pixels, about 240 here, and so weighs more against the KL divergence than one label would: the
# model takes pixels for independent given the image.

# %%
fitted = bd.fit(
    bnn,
    train,
    epochs=EPOCHS,
    batch_size=20,
    learning_rate=5e-3,
    variational_learning_rate=0.1,
    schedule=bd.schedules.cosine(),
    seed=0,
    progress=False,
)
bnn.units(), bnn.units_total()

# %% [markdown]
# ## What is counted
#
# Error, ECE and risk against coverage are over labelled pixels; NLL and Brier score are summed
# over an image. A score of unfamiliarity is an image's average over all its pixels. Stripes are
# told from discs and crosses by any score. Rings are made of pixels that look familiar one by
# one: here the energy of the logits tells them better than the entropy does.

# %%
result = bd.evaluate(bnn, test, ood=other, num_samples=16, seed=0)
print(f"error {result.error:.2f} % of pixels, ECE {result.ece:.4f}, NLL {result.nll:.1f} an image")
for name, scores in result.ood.items():
    print(name, {score: f"{values['auroc']:.2f}" for score, values in scores.items()})

# %% [markdown]
# ## Where it is unsure
#
# `predictive_entropy` is a picture, `(N, H, W)`, also of the pixels that nobody labelled. With
# matplotlib, `plt.imshow(prediction.predictive_entropy[0])` shows a ring along the outline.

# %%
prediction, y = result.prediction, test[1]
entropy = prediction.predictive_entropy
on_outlines, elsewhere = entropy[y == UNLABELLED].mean(), entropy[y != UNLABELLED].mean()
entropy.shape, float(on_outlines), float(elsewhere)

# %% [markdown]
# ## Sets of classes
#
# Functions over labels take them flat, without the missing ones. Half of the images choose how
# probable a class must be to belong to a set; on the others the sets hold the true class of about
# as many pixels as asked. Pixels of one image are alike, so that this is an average over images.

# %%
half = len(y) // 2
chosen_on = likelihood.flatten_labels(prediction.mean[:half], y[:half])
p_new, y_new = likelihood.flatten_labels(prediction.mean[half:], y[half:])
sets = bd.metrics.conformal_sets(*chosen_on, miscoverage=0.02).predict(p_new)
held = sets.gather(1, y_new[:, None]).double().mean()
float(held), float(sets.sum(1).double().mean())

# %% [markdown]
# ## Smaller
#
# Channels that no image needs are cut out of every convolution that writes or reads them, on both
# sides of the concatenation. The outputs stay those of the mean mask.

# %%
bnn.eval()
small = bd.compact(bnn, test[0][:2])
with torch.no_grad():
    difference = (small(test[0]) - bnn(test[0])).abs().max()
flops = [bd.compression.count_flops(net, test[0][:1]) for net in (bnn, small)]
print(f"{flops[0] / flops[1]:.1f} times fewer operations, outputs within {float(difference):.1e}")

# %% [markdown]
# ## The claim, checked
#
# One seed of one synthetic set: enough to see that each part does its work, not to rank methods.

# %%
assert result.error < 8.0, result.error
assert entropy.shape == y.shape and on_outlines > 3 * elsewhere
assert result.ood["stripes"]["entropy"]["auroc"] > 0.95, result.ood["stripes"]
assert result.ood["rings"]["energy"]["auroc"] > 0.7, result.ood["rings"]
assert abs(float(held) - 0.98) < 0.02, held
assert float(difference) < 1e-4 and flops[1] < flops[0], (difference, flops)
