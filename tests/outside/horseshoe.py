"""A horseshoe prior over units: half-Cauchy scales, as the root of a gamma and its inverse."""

import pyro.distributions as dist
import torch
from torch import nn

import bayesdrop as bd


@bd.nn.register
class HorseshoeDropout(bd.BayesianDropout):
    """z = sqrt(a b), a ~ Gamma(1/2, 1 / t^2), b ~ InverseGamma(1/2, 1), so z ~ HalfCauchy(t)."""

    key = "horseshoe"
    reference = "Louizos, Ullrich, Welling (2017), https://arxiv.org/abs/1705.08665"
    mask_kind = "noise"

    def __init__(self, num_units, *, global_scale=1e-2, init_scale=0.1, threshold=0.5, **options):
        super().__init__(num_units, threshold=threshold, **options)
        self.loc_a = nn.Parameter(torch.full((num_units,), 0.1))
        self.loc_b = nn.Parameter(torch.full((num_units,), -0.1))
        start = torch.tensor(float(init_scale)).log()
        self.log_scale_a = nn.Parameter(start.repeat(num_units))
        self.log_scale_b = nn.Parameter(start.repeat(num_units))
        self.register_buffer("shape", torch.full((num_units,), 0.5))
        self.register_buffer("rate_a", torch.full((num_units,), float(global_scale) ** -2))
        self.register_buffer("rate_b", torch.ones(num_units))

    def prior(self):
        return {
            "a": dist.Gamma(self.shape, self.rate_a).to_event(1),
            "b": dist.InverseGamma(self.shape, self.rate_b).to_event(1),
        }

    def posterior(self):
        a = bd.distributions.LogNormal(self.loc_a, self.log_scale_a.exp())
        b = bd.distributions.LogNormal(self.loc_b, self.log_scale_b.exp())
        return {"a": a.to_event(1), "b": b.to_event(1)}

    def mask_distribution(self, latents, x=None):
        z = (latents["a"] * latents["b"]).sqrt()
        return dist.Delta(z, event_dim=1)

    def _log_variance(self):
        return ((2 * self.log_scale_a).exp() + (2 * self.log_scale_b).exp()) / 4

    def keep_prob(self):
        # E[z]^2 / E[z^2] of a log-normal: noise that drowns its unit has none of it.
        return (-self._log_variance()).exp()

    def mean_mask(self, x=None):
        mean = ((self.loc_a + self.loc_b) / 2 + self._log_variance() / 2).exp()
        return torch.where(self.keep_prob() < self.threshold, 0.0, mean)
