"""A training step of other people's Bayesian layers, as a multiple of plain torch with fused Adam.

    pip install jax numpyro bayesian-torch blitz-bayesian-pytorch tyxe torch-uncertainty lightning
    python benchmarks/peers.py --out benchmarks/results/peers.json

LeNet-500-300, 100 images a step, all in one process on one core, in turns as in ``step_time.py``.
Each peer is used as its own documentation does; those that are not installed are left out. The
layers of bayesian-torch, BLITZ, TyXe and torch-uncertainty are Gaussian weights: none of these
has masks with a posterior. ``bd.fit`` is shown with both. The peers draw weights once a batch and
have the default Adam; ``bd.fit`` draws pre-activations for each example, and has the fused Adam,
as plain torch here. The model of NumPyro is this package's: Kumaraswamy posteriors of keep
probabilities, one mask an example, compiled as one step and as a scan over a slice of steps;
compiling is not counted. "By hand" is the published algorithm of
beta-Bernoulli dropout as one would write it in torch. TyXe calls a function that Pyro no longer
has; it is put back.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import functools
import importlib.util
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import step_time
import torch
from step_time import BATCH, Data, Steps, lenet_500_300, measure, no_gate, ratios, shuffled
from torch import Tensor, nn
from torch.nn import functional as F

NUM_DATA = 60_000
SIZES = (784, 500, 300, 10)
CONCENTRATION, TEMPERATURE, EULER = 1e-4, 0.1, 0.5772156649015329


class ByHand(nn.Module):
    """Beta-Bernoulli dropout: Kumaraswamy(a, b) posterior, Beta(1e-4, 1) prior, concrete masks."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.raw_a = nn.Parameter(torch.ones(units))
        self.raw_b = nn.Parameter(torch.ones(units))

    def _posterior(self) -> tuple[Tensor, Tensor]:
        return F.softplus(self.raw_a), F.softplus(self.raw_b)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        a, b = self._posterior()
        uniform = torch.rand_like(a).clamp(1e-6, 1 - 1e-6)
        pi = (1 - uniform.pow(1 / b)).pow(1 / a).clamp(1e-6, 1 - 1e-6)
        noise = torch.rand_like(x).clamp(1e-6, 1 - 1e-6)
        logit = (pi.log() - (-pi).log1p() + noise.log() - (-noise).log1p()) / TEMPERATURE
        return x * logit.sigmoid()

    def kl(self) -> Tensor:
        """Return the KL divergence, summed over units."""
        a, b = self._posterior()
        terms = (a - CONCENTRATION) / a * (-EULER - torch.digamma(b) - 1 / b)
        return (terms + (a * b).log() - torch.tensor(CONCENTRATION).log() - (b - 1) / b).sum()


def by_hand() -> Steps:
    """Return steps of the published algorithm, written as one would."""
    net = lenet_500_300(lambda units, dim: ByHand(units)).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    layers = [module for module in net.modules() if isinstance(module, ByHand)]

    def run(data: Data) -> None:
        for x, y in shuffled(data):
            optimizer.zero_grad()
            kl = torch.stack([layer.kl() for layer in layers]).sum()
            (F.cross_entropy(net(x), y) + kl / NUM_DATA).backward()
            optimizer.step()

    return run


def trained(net: nn.Module, loss: Any) -> Steps:
    """Return steps of Adam on ``loss(net, x, y)``."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()

    def run(data: Data) -> None:
        for x, y in shuffled(data):
            optimizer.zero_grad()
            loss(net, x, y).backward()
            optimizer.step()

    return run


def bayesian_torch() -> Steps:
    """Return steps of bayesian-torch's reparameterised layers, by its ``dnn_to_bnn``."""
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss

    net = lenet_500_300(no_gate)
    settings = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0}
    settings |= {"posterior_rho_init": -3.0, "type": "Reparameterization"}
    dnn_to_bnn(net, {**settings, "moped_enable": False, "moped_delta": 0.5})
    return trained(net, lambda net, x, y: F.cross_entropy(net(x), y) + get_kl_loss(net) / NUM_DATA)


def blitz() -> Steps:
    """Return steps of BLITZ, by its ``sample_elbo`` with one sample."""
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator

    @variational_estimator
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(map(BayesianLinear, SIZES[:-1], SIZES[1:]))

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            for layer in self.layers[:-1]:
                x = layer(x).relu()
            return self.layers[-1](x)

    options = {
        "criterion": F.cross_entropy,
        "sample_nbr": 1,
        "complexity_cost_weight": 1 / NUM_DATA,
    }
    return trained(Net(), lambda net, x, y: net.sample_elbo(inputs=x, labels=y, **options))


def torch_uncertainty() -> Steps:
    """Return steps of torch-uncertainty's ``BayesLinear`` with its ``ELBOLoss``."""
    from torch_uncertainty.layers.bayesian import BayesLinear
    from torch_uncertainty.losses import ELBOLoss

    first, second, third = map(BayesLinear, SIZES[:-1], SIZES[1:])
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third)
    loss = ELBOLoss(net, nn.CrossEntropyLoss(), kl_weight=1 / NUM_DATA, num_samples=1)
    return trained(net, lambda net, x, y: loss(x, y))


def tyxe() -> Steps:
    """Return steps of TyXe's ``VariationalBNN.fit`` with Gaussian weights."""
    import pyro
    import pyro.distributions as dist
    import tyxe as library

    if not hasattr(pyro.util, "deep_getattr"):
        pyro.util.deep_getattr = lambda owner, name: functools.reduce(
            getattr, name.split("."), owner
        )
    net = lenet_500_300(no_gate)
    prior = library.priors.IIDPrior(dist.Normal(0, 1))
    likelihood = library.likelihoods.Categorical(dataset_size=NUM_DATA)
    bnn = library.VariationalBNN(net, prior, likelihood, library.guides.AutoNormal)
    optimizer = pyro.optim.Adam({"lr": 1e-3})

    def run(data: Data) -> None:
        bnn.fit(list(shuffled(data)), optimizer, 1)

    return run


def numpyro(scanned: bool) -> Steps:  # noqa: C901 - a program and its guide
    """Return steps of NumPyro's SVI for beta-Bernoulli masks, compiled singly or as a scan."""
    import jax
    import jax.numpy as jnp
    import numpyro as library
    import numpyro.distributions as dist
    from numpyro.infer import SVI, TraceMeanField_ELBO

    def weights() -> list[tuple[Any, Any]]:
        found = []
        for layer, (ins, outs) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True)):
            key = jax.random.PRNGKey(layer)
            bound = ins**-0.5
            start = jax.random.uniform(key, (ins, outs), minval=-bound, maxval=bound)
            weight = library.param(f"w{layer}", start)
            found.append((weight, library.param(f"b{layer}", jnp.zeros(outs))))
        return found

    def model(x: Any, y: Any) -> None:
        layers = weights()
        rates = []
        for layer, units in enumerate(SIZES[:-1]):
            prior = dist.Beta(CONCENTRATION * jnp.ones(units), jnp.ones(units))
            rates.append(library.sample(f"pi{layer}", prior.to_event(1)))
        with library.plate("data", NUM_DATA, subsample_size=len(y)):
            for layer, (weight, bias) in enumerate(layers):
                pi = jnp.clip(rates[layer], 1e-6, 1 - 1e-6)
                noise = jax.random.uniform(
                    library.prng_key(), x.shape, minval=1e-6, maxval=1 - 1e-6
                )
                logit = jnp.log(pi) - jnp.log1p(-pi) + jnp.log(noise) - jnp.log1p(-noise)
                x = (x * jax.nn.sigmoid(logit / TEMPERATURE)) @ weight + bias
                x = jax.nn.relu(x) if layer < len(layers) - 1 else x
            library.sample("obs", dist.Categorical(logits=x), obs=y)

    def guide(x: Any, y: Any) -> None:
        positive = dist.constraints.positive
        for layer, units in enumerate(SIZES[:-1]):
            a = library.param(f"a{layer}", jnp.ones(units), constraint=positive)
            b = library.param(f"c{layer}", jnp.ones(units), constraint=positive)
            library.sample(f"pi{layer}", dist.Kumaraswamy(a, b).to_event(1))

    svi = SVI(model, guide, library.optim.Adam(1e-3), TraceMeanField_ELBO())
    zeros = jnp.zeros((BATCH, SIZES[0])), jnp.zeros(BATCH, dtype=jnp.int32)
    state = [svi.init(jax.random.PRNGKey(0), *zeros)]
    single = jax.jit(svi.update)
    many = jax.jit(
        lambda state, batches: jax.lax.scan(lambda s, b: svi.update(s, *b), state, batches)
    )

    def run(data: Data) -> None:
        x, y = data
        rows = torch.randperm(len(x))
        images, labels = x[rows].flatten(1).numpy(), y[rows].int().numpy()
        if scanned:
            shape = (-1, BATCH)
            batches = images.reshape(*shape, SIZES[0]), labels.reshape(shape)
            state[0], losses = many(state[0], batches)
            losses.block_until_ready()
            return
        for start in range(0, len(x), BATCH):
            part = slice(start, start + BATCH)
            state[0], loss = single(state[0], images[part], labels[part])
        loss.block_until_ready()

    return run


PEERS = {
    "bayesian-torch": ("bayesian_torch", "bayesian-torch, reparameterised", bayesian_torch),
    "blitz-bayesian-pytorch": ("blitz", "BLITZ", blitz),
    "tyxe": ("tyxe", "TyXe, AutoNormal", tyxe),
    "torch-uncertainty": ("torch_uncertainty", "torch-uncertainty", torch_uncertainty),
}


def variants() -> tuple[dict[str, Steps], dict[str, str]]:
    """Return what is timed, and the versions of the peers that are there; the rest is said."""
    found = {
        step_time.PLAIN: step_time.plain_steps(lenet_500_300(no_gate)),
        "nn.Dropout, fused Adam": step_time.plain_steps(lenet_500_300(step_time.torch_dropout)),
        step_time.BY_FIT: step_time.fit_steps(lenet_500_300(step_time.beta_bernoulli)),
        "Gaussian weights, bd.fit": step_time.fit_steps(
            step_time.with_layer(lenet_500_300, "gaussian-weights")
        ),
        "beta-Bernoulli by hand in torch": by_hand(),
    }
    versions = {}
    for package, (module, title, steps) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{package} is not installed", file=sys.stderr)
            continue
        found[f"Gaussian weights, {title}"] = steps()
        versions[package] = version(package)
    if importlib.util.find_spec("numpyro") is not None:
        found["beta-Bernoulli, NumPyro, a compiled step"] = numpyro(scanned=False)
        found["beta-Bernoulli, NumPyro, a compiled scan"] = numpyro(scanned=True)
        versions |= {name: version(name) for name in ("numpyro", "jax")}
    return found, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--slice-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.device = "cpu"
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # whatever threads a library starts, they share a core
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.manual_seed(args.seed)
    found, versions = variants()
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "threads": 1,
        "load_before": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "batch_size": BATCH,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "versions": versions,
        "ratios": ratios(measure(found, args)),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
