"""The structured IBP auto-encoder with the objective of its authors' code, which is no bound.

The released code of Singh, Ling, Doshi-Velez (2017) samples a feature as

    h = mu + exp(l) * noise,

so that exp(l) is its standard deviation s, and charges 0.5 * (mu^2 + exp(l) - 1 - l) for it, the
divergence from N(0, 1) of a normal whose *variance* is s. The true one is
0.5 * (mu^2 + s^2 - 1 - 2 log s): per feature (-log s + s^2 - s) / 2 nats more.

``AuthorsCode`` is the package's code with that one fault: a model is trained with what the authors
charge, while its densities, and so ``log_likelihood_bound``, are those of the posterior that is
sampled. ``own_figure`` is what the authors' evaluation reports: masks relaxed, the charged
divergence, and the mean over samples of the probability of the *whole* test set, of which the
logarithm is then taken. One run has both figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

import bayesdrop as bd
from bayesdrop.program.code import Encoding, draw
from bayesdrop.program.latent_code import LatentCode
from bayesdrop.typing import Latents


class AuthorsCode(LatentCode):
    """A code whose features have the standard deviation exp(l), charged as variance exp(l)."""

    @override
    def encoding(self, output: Tensor) -> Encoding:
        encoding = super().encoding(output)
        return encoding._replace(scale=encoding.scale.square())

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution],
        prior: Mapping[str, TorchDistribution],
        latents: Latents,
    ) -> Tensor:
        true = super().kl_divergence(posterior, prior, latents)
        return true - undercharged(posterior["h"].base_dist.scale).sum()


def undercharged(scale: Tensor) -> Tensor:
    """Return by how many nats a feature of standard deviation ``scale`` is charged too little."""
    return 0.5 * (scale.square() - scale - scale.log())


def with_authors_objective(vae: bd.VariationalAutoencoder) -> bd.VariationalAutoencoder:
    """Give an auto-encoder the authors' code and their initial weights; return it."""
    code = vae.network.code
    vae.network.code = AuthorsCode(
        code.num_features,
        code.mask,
        prior_temperature=code.prior_temperature,
        mask_posterior=code.mask_posterior,
    )
    for module in vae.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 1e-3)
            nn.init.zeros_(module.bias)
    return vae


@torch.no_grad()
def own_figure(vae: bd.VariationalAutoencoder, x: Tensor, num_samples: int) -> dict[str, float]:
    """Return what the authors' evaluation reports, in nats an image, and its parts.

    ``undercharged`` is by how much the divergence of the features is below the true one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae.train()  # relaxed masks; nothing else here depends on it
        totals = torch.zeros(num_samples, dtype=torch.float64)
        missing = 0.0
        for sample in range(num_samples):
            rates = vae.draw_rates()
            for batch in x.split(1000):
                encoding = vae.network.encode(batch)
                posterior = vae.code.posterior(encoding, rates)
                latents = draw(posterior)
                nll = vae.likelihood.nll(vae.network.decode(latents), batch)
                kl = vae.code.kl_divergence(posterior, vae.code.prior(rates), latents)
                totals[sample] += float(nll + kl)
                if sample == 0:
                    missing += float(undercharged(encoding.scale).sum())
        global_kl = float(vae.code.mask.kl_divergence())
        vae.eval()
    figure = -(float((-totals).logsumexp(0)) - math.log(num_samples)) + global_kl
    return {"figure": figure / len(x), "undercharged": missing / len(x)}
