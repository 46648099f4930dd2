# %% [markdown]
# # Text: which words does it need?
#
# **Question.** A classifier of texts has one input for each of hundreds of words. Which of them
# does it need, and does it notice a text of a kind that it has never seen?
#
# **Answer.** A mask on each word's input keeps the words that the labels pay for and closes the
# others; the list of what remains can be read. Texts from elsewhere get a higher entropy on
# average, if not each of them.

# %%
import inspect
import os
import re
import statistics
from collections import Counter

import numpy as np
import torch
from scipy import stats
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
torch.manual_seed(0)
EPOCHS, WORDS = (20, 300) if SMOKE else (60, 600)

# %% [markdown]
# ## Texts that are there already
#
# The documentation of functions in three libraries that are installed here. Which library is it
# from? So that it is not too easy, the libraries' names are left out, and only the first forty
# words of each text are read. What this finds depends a little on their versions.

# %%
LIBRARIES = {"numpy": np, "torch": torch, "scipy.stats": stats}
NAMES = {"numpy", "np", "torch", "pytorch", "scipy", "tensor"}


def texts_of(library) -> list[list[str]]:
    """Return the first forty words of each text once, in the order of their names."""
    documented = (getattr(library, name) for name in sorted(library.__all__))
    texts = dict.fromkeys(inspect.getdoc(item) or "" for item in documented if callable(item))
    words = ([w for w in re.findall("[a-z]{2,}", t.lower()) if w not in NAMES] for t in texts)
    return [found[:40] for found in words if len(found) >= 10]


texts, labels = [], []
for label, library in enumerate(LIBRARIES.values()):
    texts += texts_of(library)
    labels += [label] * (len(texts) - len(labels))
y = torch.tensor(labels)
dict(zip(LIBRARIES, torch.bincount(y).tolist(), strict=True))

# %% [markdown]
# ## A bag of words
#
# Each text becomes a vector of zeros and ones, one for each of the most frequent words of the
# *training* texts.

# %%
order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).tolist()
test, train = order[: len(y) // 4], order[len(y) // 4 :]
counts = Counter(word for i in train for word in dict.fromkeys(texts[i]))  # in order
vocabulary = [word for word, _ in counts.most_common(WORDS)]


def vectors(chosen: list[list[str]]) -> torch.Tensor:
    """Return which words of the vocabulary each text has."""
    return torch.tensor([[float(w in words) for w in vocabulary] for words in map(set, chosen)])


x_train, x_test = vectors([texts[i] for i in train]), vectors([texts[i] for i in test])
x_train.shape, x_test.shape

# %% [markdown]
# ## Masks on words
#
# `convert` puts a mask before each Linear, and so on the words. Beside it the same network without
# masks.

# %%
plain = nn.Sequential(nn.Linear(WORDS, 32), nn.ReLU(), nn.Linear(32, len(LIBRARIES)))
masked = bd.convert(plain, "beta-bernoulli", kl_scale=0.2)
results = {}
for name, network in {"plain": plain, "masked": masked}.items():
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(train))
    bd.fit(
        bnn,
        (x_train, y[train]),
        epochs=EPOCHS,
        batch_size=50,
        learning_rate=5e-3,
        variational_learning_rate=0.1,
        seed=0,
        progress=False,
    )
    found = results[name] = bd.evaluate(bnn, (x_test, y[test]), num_samples=32, seed=0)
    print(f"{name:7} error {found.error:.1f} %  NLL {found.nll:.3f}  ECE {found.ece:.3f}")

# %% [markdown]
# ## The words that are left
#
# Sorted by the length of the weights that read them, times the mask.

# %%
bnn.eval()
gate, linear = (bnn.network.get_submodule(name) for name in ("0_dropout", "0"))
kept = gate.kept()
strength = (linear.weight.norm(dim=0) * gate.mean_mask()).detach()
words = [vocabulary[i] for i in strength.argsort(descending=True).tolist() if kept[i]]
print(f"{len(words)} of {WORDS} words:", ", ".join(words[:30]))

# %% [markdown]
# ## Texts from elsewhere
#
# The documentation of Python's own modules is in none of the three libraries.

# %%
elsewhere = vectors([t for m in (statistics, inspect, re, os) for t in texts_of(m)])
inside = results["masked"].prediction
outside = bd.predict(bnn, elsewhere, num_samples=32, seed=0)
auroc = bd.metrics.ood_metrics(inside.predictive_entropy, outside.predictive_entropy)["auroc"]
entropies = [float(p.predictive_entropy.mean()) for p in (inside, outside)]
print(f"entropy {entropies[0]:.2f} nats here, {entropies[1]:.2f} elsewhere, AUROC {auroc:.2f}")

# %% [markdown]
# ## Smaller
#
# `compact` makes a network of the words that are left, which it picks from the whole vector.

# %%
small = bd.compact(bnn, x_test[:1])
with torch.no_grad():
    difference = float((small(x_test) - bnn(x_test)).abs().max())
sizes = [sum(p.numel() for p in network.parameters()) for network in (plain, small)]
print(f"{sizes[0]} weights, then {sizes[1]}; logits within {difference:.1e}")

# %% [markdown]
# ## The claim, checked
#
# One split and one seed. Masks cost this network little in error, and most words go.

# %%
assert results["masked"].error < results["plain"].error + 4.0, results
assert results["masked"].error < 25.0 and len(words) < 0.7 * WORDS, len(words)
assert auroc > 0.6 and entropies[1] > entropies[0], (auroc, entropies)
assert difference < 1e-4 and sizes[1] < 0.7 * sizes[0], (difference, sizes)
