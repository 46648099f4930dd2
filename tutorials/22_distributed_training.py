# %% [markdown]
# # Training in several processes
#
# **Question.** A data set is too large for one process. What changes for masks and their KL
# divergence when two or more share the work?
#
# **Answer.** `distributed=True`, and that the script is started several times. Each process takes
# its share of every batch and draws masks of its own, gradients are averaged, and the KL counts
# once. In expectation a step is that of one process. Here two processes on one computer, by gloo;
# on GPUs it is NCCL, with no other change.

# %%
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import torch
from torch import nn

import bayesdrop as bd

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
EPOCHS, PROCESSES = 10 if SMOKE else 60, 2
torch.set_num_threads(1)
digits = bd.load_data("digits")

# %% [markdown]
# ## What each process does
#
# All hold the same data and call `fit` with the same arguments; `batch_size` counts the examples
# of a step in all of them together, and `num_data` is the whole set's. Process 0's weights are
# everybody's at the start.


# %%
def network() -> bd.BayesianNetwork:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)]
    net = bd.convert(nn.Sequential(*layers), "beta-bernoulli")
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=len(digits.train[1]))


def train(distributed: bool) -> bd.BayesianNetwork:
    bnn = network()
    options = {"batch_size": 50, "learning_rate": 5e-3, "variational_learning_rate": 0.1}
    options |= {"epochs": EPOCHS, "seed": 0, "progress": False}
    bd.fit(bnn, digits.train, distributed=distributed, **options)
    return bnn


# %% [markdown]
# ## Starting them
#
# A script is started by `torchrun --nproc-per-node 2 train.py`, which sets the five variables
# below. In a notebook there is no script, so that this cell forks: each child sets its own.


# %%
def run(rank: int, port: int, folder: Path) -> None:
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES)}
    os.environ.update(here, RANK=str(rank), LOCAL_RANK=str(rank))
    bnn = train(distributed=True)
    torch.save(bnn.state_dict(), folder / f"{rank}.pt")


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
folder = Path(tempfile.mkdtemp())
fork = multiprocessing.get_context("fork")
children = [fork.Process(target=run, args=(rank, port, folder)) for rank in range(PROCESSES)]
for child in children:
    child.start()
for child in children:
    child.join()
[child.exitcode for child in children]

# %% [markdown]
# ## The same network everywhere
#
# Every process ends with the same weights and the same posterior, to the bit.

# %%
first, second = (torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES))
same = all(torch.equal(first[name], second[name]) for name in first)
same

# %% [markdown]
# ## Beside one process
#
# The same epochs in this process alone. Masks differ, so the two networks are not the same: they
# are two draws of one experiment.

# %%
together, alone = network(), train(distributed=False)
together.load_state_dict(first)
found = {}
for name, bnn in {"two processes": together, "one process": alone}.items():
    found[name] = bd.evaluate(bnn, digits.test, num_samples=32, seed=0)
    print(f"{name:14} error {found[name].error:.1f} %  NLL {found[name].nll:.3f}  "
          f"units {bnn.units()}")  # fmt: skip

# %% [markdown]
# ## The claim, checked
#
# On digits two processes save no time: the sum over processes costs more than a step of so small a
# network. What is checked is that the result is one, and a good one.

# %%
assert same and [child.exitcode for child in children] == [0, 0]
errors = [result.error for result in found.values()]
assert max(errors) < 12.0 and abs(errors[0] - errors[1]) < 5.0, errors
assert sum(together.units()) < sum(together.units_total())
