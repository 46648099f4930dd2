# %% [markdown]
# # Images from a folder
#
# **Question.** Your images lie in folders, one for each class. How do you get from there to a
# classifier that says when a person should look, and is small enough to ship?
#
# **Answer.** `bd.load_data("folder:PATH")` reads and splits them; train, let the validation images
# say how sure is sure enough, look at the test images once. What the classifier hands on are the
# images that it gets wrong more often; `compact` cuts out what it does not use.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
torch.manual_seed(0)
EPOCHS, IMAGES = (20, 120) if SMOKE else (40, 300)

# %% [markdown]
# ## The folder
#
# So that nothing must be downloaded: drawings of discs, crosses and rings, 16x16 pixels, noisy and
# some of them very small. Your own folder looks the same: `shapes/disc/000.png`, and so on. With
# `shapes/train`, `shapes/val` and `shapes/test` above the classes, that split is taken.

# %%
CLASSES = ("cross", "disc", "ring")
draw = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp()) / "shapes"


def drawing(kind: str) -> Image.Image:
    """One shape on a dark background."""
    centre, radius = draw.uniform(6, 10, (2, 1, 1)), draw.uniform(1.8, 5)
    down, right = np.abs(np.indices((16, 16)) - centre)
    distance = np.hypot(down, right)
    shapes = {
        "cross": (np.minimum(down, right) < 1) & (np.maximum(down, right) < radius),
        "disc": distance < radius,
        "ring": (distance < radius) & (distance > radius - 1.5),
    }
    pixels = 60 + 120 * shapes[kind] + draw.normal(0, 24, (16, 16))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


for kind in CLASSES:
    (folder / kind).mkdir(parents=True)
    for number in range(IMAGES):
        drawing(kind).save(folder / kind / f"{number:03d}.png")

data = bd.load_data(f"folder:{folder}")
data

# %% [markdown]
# Values are in [0, 1], in three channels; `folder:PATH@32` also makes all images 32x32. The split
# is by class, and the same at every call.

# %%
figure, axes = plt.subplots(1, 9, figsize=(9, 1.2))
for axis, image, label in zip(axes, *data.train, strict=False):
    axis.imshow(image[0].numpy(), cmap="gray")
    axis.set_title(data.class_names[int(label)], fontsize=8)
    axis.axis("off")

# %% [markdown]
# ## Train
#
# `convert` puts a mask on the channels of every convolution and on the inputs of every Linear.
# The record of training has the figures of the validation images.

# %%
network = nn.Sequential(
    *(nn.Conv2d(3, 12, 5, padding=2), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(), nn.Linear(32, len(CLASSES))),
)
masked = bd.convert(network, "beta-bernoulli", kl_scale=0.15)
bnn = bd.BayesianNetwork(masked, bd.Categorical(), num_data=len(data.train[1]))
fitted = bd.fit(
    bnn,
    data.train,
    validation=data.validation,
    epochs=EPOCHS,
    batch_size=16,
    learning_rate=5e-3,
    variational_learning_rate=0.2,
    schedule=bd.schedules.cosine(),
    seed=0,
    progress=False,
)
fitted

# %% [markdown]
# ## How sure is sure enough?
#
# The threshold on the confidence comes from the validation images: the lowest at which at most
# 2 % of those that are answered are wrong. The test images are looked at once, now.

# %%
probabilities = {
    name: bd.predict(bnn, pair[0], num_samples=32, seed=0).mean
    for name, pair in {"validation": data.validation, "test": data.test}.items()
}
threshold = bd.metrics.select_threshold(
    probabilities["validation"], data.validation[1], target_risk=0.02
)
answered = threshold.accept(probabilities["test"])
wrong = probabilities["test"].argmax(1) != data.test[1]
share, error = answered.double().mean(), 100 * wrong.double().mean()
error_answered = 100 * wrong[answered].double().mean()
print(f"error on all {len(wrong)} test images: {error:.1f} %")
print(f"answers {share:.0%} of them, error {error_answered:.1f} %; a person sees the others")
order = probabilities["test"].amax(1).argsort()
unsure, sure = order[: len(order) // 5], order[len(order) // 5 :]
parts = [100 * float(wrong[part].double().mean()) for part in (unsure, sure)]
print(f"error on the fifth of which it is least sure {parts[0]:.1f} %, on the rest {parts[1]:.1f}")

# %% [markdown]
# The images of which it is least sure, what it takes them for and what they are:

# %%
figure, axes = plt.subplots(1, 9, figsize=(9, 1.4))
for axis, index in zip(axes, unsure[:9].tolist(), strict=True):
    names = [CLASSES[int(i)] for i in (probabilities["test"][index].argmax(), data.test[1][index])]
    axis.imshow(data.test[0][index, 0].numpy(), cmap="gray")
    axis.set_title("{}?\n{}".format(*names), fontsize=8)
    axis.axis("off")

# %% [markdown]
# ## The network to ship
#
# Channels and units that are closed are cut out. What is left is plain torch, with the outputs of
# the mean mask: `torch.save` it, or `bd.save_plain` it for programs without this code.

# %%
bnn.eval()
small = bd.compact(bnn, data.train[0][:2])
with torch.no_grad():
    difference = float((small(data.test[0]) - bnn(data.test[0])).abs().max())
flops = [bd.compression.count_flops(n, data.train[0][:1]) for n in (network, small)]
print(f"{flops[0] / flops[1]:.1f} times fewer operations, logits within {difference:.1e}")
small

# %% [markdown]
# ## The claim, checked
#
# Its errors are among the images of which it is least sure. On so few images and one seed the
# figures themselves say little; where it errs rarely, the threshold lets all images pass. The
# short form was set with its test figures in view: it shows the steps, no result.

# %%
assert error < 20.0, error
assert share > 0.2 and error_answered <= error, (share, error, error_answered)
assert parts[0] > parts[1], parts
assert difference < 1e-4 and flops[1] < flops[0], (difference, flops)
