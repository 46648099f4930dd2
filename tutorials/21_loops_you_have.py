# %% [markdown]
# # Loops you have
#
# **Question.** You train with Accelerate, Lightning or skorch and mean to stay there. What does a
# Bayesian layer need of such a loop?
#
# **Answer.** One term of the loss, and an optimiser that leaves the posterior without weight
# decay: `bd.integrations.KLTerm` and `bd.inference.optimizers.parameter_groups`. In a loop that
# you see, Accelerate's or your own, the term is four lines; for Lightning there is a callback;
# skorch takes three short methods. `bd.fit` is the same objective without any of them.
#
# It needs `pip install 'bayesdrop[accelerate,lightning]' skorch`; what is missing is left out.

# %%
import importlib.util
import logging
import os
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
EPOCHS = 6 if SMOKE else 60
HERE = {name for name in ("accelerate", "lightning", "skorch") if importlib.util.find_spec(name)}
digits = bd.load_data("digits")
(x, y), test = digits.train, digits.test
steps = EPOCHS * -(-len(y) // 50)


# %% [markdown]
# ## The same network for all


# %%
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)]
    return bd.convert(nn.Sequential(*layers), "beta-bernoulli")


def groups(net: nn.Module):
    rates = {"learning_rate": 5e-3, "variational_learning_rate": 0.1}
    return bd.inference.optimizers.parameter_groups(net, **rates)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)


warm_up = bd.schedules.warm_up(0.5)  # the KL's weight over the first half of the steps
trained = {}

# %% [markdown]
# ## A loop that you see
#
# Four lines are new: the term, `attach`, `at`, and `with term:` around the pass. The sum is minus
# the ELBO of an example, in nats. Under Accelerate it stands at the same place; `prepare` wraps
# network, optimiser and data, and `backward` is the accelerator's.


# %%
def loop(net, optimizer, data, term, backward=torch.Tensor.backward):
    term.attach(optimizer)
    step = 0
    for _ in range(EPOCHS):
        for images, labels in data:
            term.at(step, steps)
            with term:
                nll = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            backward(nll + term())
            optimizer.step()
            step += 1


net = trained["your own"] = network()
term = bd.integrations.KLTerm(net, num_data=len(y), kl_weight=warm_up)
loop(net, torch.optim.Adam(groups(net)), loader(), term)
term.figures()  # what is worth logging

# %%
if "accelerate" in HERE:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = trained["Accelerate"] = network()
    term = bd.integrations.KLTerm(net, num_data=len(y), kl_weight=warm_up)
    prepared = accelerator.prepare(net, torch.optim.Adam(groups(net)), loader())
    loop(*prepared, term, backward=accelerator.backward)

# %% [markdown]
# ## Lightning
#
# The module is one without Bayesian layers; the callback adds the term and logs it.

# %%
if "lightning" in HERE:
    import lightning

    from bayesdrop.integrations.lightning import BayesianCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, batch_idx):
            images, labels = batch
            return F.cross_entropy(self.net(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(groups(self.net))

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            enable_model_summary=False,
            callbacks=[BayesianCallback(kl_weight=warm_up)],
            **quiet,
        )
        trainer.fit(module, loader())
    trained["Lightning"] = module.net

# %% [markdown]
# ## skorch
#
# `infer` runs the network and `get_loss` makes the loss of what it returns: the term goes around
# the one and into the other. For tables `bayesdrop.estimators` needs no skorch
# ([tutorial 16](16_tables.py)).

# %%
if "skorch" in HERE:
    import skorch

    class BayesianClassifier(skorch.NeuralNetClassifier):
        def initialize_optimizer(self, *args, **kwargs):
            self.optimizer_ = torch.optim.Adam(groups(self.module_))
            self.term_ = bd.integrations.KLTerm(self.module_, num_data=len(y), kl_weight=warm_up)
            self.term_.attach(self.optimizer_)
            self.step_ = 0
            return self

        def infer(self, x, **parameters):
            with self.term_:
                return super().infer(x, **parameters)

        def get_loss(self, y_pred, y_true, *args, training=False, **kwargs):
            nll = super().get_loss(y_pred, y_true, *args, training=training, **kwargs)
            if not training:
                return nll
            self.term_.at(self.step_, steps)
            self.step_ += 1
            return nll + self.term_()

    settings = {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
    classifier = BayesianClassifier(network, max_epochs=EPOCHS, batch_size=50, **settings)
    classifier.set_params(iterator_train__shuffle=True)
    trained["skorch"] = classifier.fit(x, y).module_

# %% [markdown]
# ## Side by side
#
# `network()` sets the seed, and from there on all loops draw the same batches and the same masks:
# the same network comes out of each.

# %%
found, units = {}, {}
for name, net in trained.items():
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(y)).eval()
    found[name], units[name] = bd.evaluate(bnn, test, num_samples=32, seed=0), bnn.units()
    print(f"{name:11} error {found[name].error:.1f} %  NLL {found[name].nll:.3f}  {units[name]}")

# %% [markdown]
# ## The claim, checked
#
# All loops minimise the same loss, and the KL divergence closes units.

# %%
assert found["your own"].error < 12.0 and sum(units["your own"]) < 64 + 100, units
for name, result in found.items():
    assert abs(result.nll - found["your own"].nll) < 1e-3, (name, result.nll)
    assert units[name] == units["your own"], (name, units)
