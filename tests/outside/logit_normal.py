"""A logit-normal prior over masks: the log-odds of keeping a unit are normal."""

import pyro.distributions as dist
import torch
from torch import nn

import bayesdrop as bd


@bd.nn.register
class LogitNormalDropout(bd.BayesianDropout):
    """p(eta) = N(m, s^2), q(eta) = N(mu, sigma^2), z ~ Bernoulli(sigmoid(eta))."""

    key = "logit-normal"
    reference = "Aitchison, Shen (1980), for the distribution"
    schedulable = ("temperature",)

    def __init__(self, num_units, *, prior_loc=-6.0, prior_scale=3.0, init_loc=2.0, **options):
        super().__init__(num_units, **options)
        self.loc = nn.Parameter(torch.full((num_units,), float(init_loc)))
        self.log_scale = nn.Parameter(torch.full((num_units,), -1.0))
        self.register_buffer("prior_loc", torch.full((num_units,), float(prior_loc)))
        self.register_buffer("prior_scale", torch.full((num_units,), float(prior_scale)))
        self.register_buffer("temperature", torch.tensor(0.1))

    def prior(self):
        return {"eta": bd.distributions.Normal(self.prior_loc, self.prior_scale).to_event(1)}

    def posterior(self):
        return {"eta": bd.distributions.Normal(self.loc, self.log_scale.exp()).to_event(1)}

    def mask_distribution(self, latents, x=None):
        logits = latents["eta"]
        if self.training:
            return bd.distributions.BinaryConcrete(self.temperature, logits=logits).to_event(1)
        return dist.Bernoulli(logits=logits).to_event(1)

    def keep_prob(self):
        # E[sigmoid(eta)] at 199 equally likely points of the normal.
        points = torch.special.ndtri(torch.arange(1, 200).to(self.loc) / 200)
        return torch.sigmoid(self.loc + self.log_scale.exp() * points[:, None]).mean(0)

    def mean_mask(self, x=None):
        keep = self.keep_prob()
        return torch.where(keep < self.threshold, 0.0, keep)
