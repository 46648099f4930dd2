"""A code of Gaussian features, each switched on or off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

import torch
from pyro.distributions import Bernoulli, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence
from typing_extensions import override

from bayesdrop.distributions import LogitBinaryConcrete, Normal
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn import BayesianDropout, BernoulliDropout, named_owners
from bayesdrop.ops.stable import bernoulli_kl
from bayesdrop.program.code import Code, Encoding, Sites
from bayesdrop.typing import Latents

MaskPosterior: TypeAlias = Literal["structured", "mean-field"]

_RELAXED, _EXACT = "mask.logits", "mask.z"


class LatentCode(Code):
    r"""Prior and posterior of the code :math:`z \odot h` of an example, given the mask's rates.

    .. math::
        p(z_k \mid v) = \mathrm{Bernoulli}(\pi_k(v)), \quad p(h_k) = N(0, 1) \qquad
        q(z_k \mid v, x) = \mathrm{Bernoulli}(\sigma(\mathrm{logit}\,\pi_k(v) + d_k(x))), \quad
        q(h_k \mid x) = N(\mu_k(x), \sigma_k^2(x))

    In training mode both Bernoullis are relaxed: binary concretes, whose latent is the log-odds.

    Args:
        num_features: Number of features :math:`K`.
        mask: The layer that owns the rates ``v``; None for a code without a mask.
        prior_temperature: Temperature of the relaxed prior, > 0; None is the posterior's.
        mask_posterior: ``"structured"``, or ``"mean-field"``: log-odds :math:`d_k(x)` alone.

    Sites:  ``mask.logits`` in training mode, ``mask.z`` in evaluation mode, ``h``; event ``(K,)``.

    Raises:
        ConfigError: If an argument makes no sense.

    Example:
        >>> import bayesdrop as bd
        >>> code = LatentCode(2, bd.IndianBuffetDropout(2))
        >>> sorted(code.prior(code.mask.draw_latents()))
        ['h', 'mask.logits']
    """

    is_ordered = False
    mask: BernoulliDropout | None

    def __init__(
        self,
        num_features: int,
        mask: BayesianDropout | None,
        *,
        prior_temperature: float | None = None,
        mask_posterior: MaskPosterior = "structured",
    ) -> None:
        super().__init__(num_features)
        if mask_posterior not in ("structured", "mean-field"):
            raise unknown_name("mask_posterior", mask_posterior, ("structured", "mean-field"))
        if prior_temperature is not None and not 0.0 < prior_temperature < math.inf:
            raise ConfigError(
                "LatentCode",
                expected="a finite prior_temperature > 0, or None",
                got=f"prior_temperature={prior_temperature}",
                hint="The paper's is 0.25, beside 0.3 for the posterior.",
            )
        self.prior_temperature = prior_temperature
        self.mask_posterior = mask_posterior
        self.mask = None if mask is None else _checked(mask, num_features)

    @property
    @override
    def parts(self) -> int:
        return 2 if self.mask is None else 3

    @override
    def prior(self, rates: Latents) -> Sites:
        sites: Sites = {}
        if self.mask is not None:
            sites = self._mask_site(self._prior_logits(rates), self.prior_temperature)
        sites["h"] = Normal(self.zero, self.zero + 1, validate_args=False).to_event(1)
        return sites

    @override
    def posterior(self, encoding: Encoding, rates: Latents) -> Sites:
        sites: Sites = {}
        if encoding.offset is not None:
            logits = encoding.offset
            if self.mask_posterior == "structured":
                logits = logits + self._prior_logits(rates)
            sites = self._mask_site(logits, None)
        sites["h"] = Normal(encoding.mean, encoding.scale, validate_args=False).to_event(1)
        return sites

    @override
    def mask_value(self, latents: Latents) -> Tensor:
        if self.mask is None:
            return torch.ones_like(latents["h"])
        if _EXACT in latents:
            return latents[_EXACT]
        logits = latents[_RELAXED]
        # A mask this close to 0 or 1 is one, and denormal numbers would slow the decoder.
        bound = -math.log(torch.finfo(logits.dtype).eps)
        z = torch.sigmoid(logits.clamp(-bound, bound))
        if self.mask.relaxation != "concrete":
            z = z + (z.round() - z).detach()
        return z

    @override
    def deterministic(self, latents: Latents) -> Latents:
        return {_EXACT: self.mask_value(latents)} if _RELAXED in latents else {}

    @override
    def forward(self, latents: Latents) -> Tensor:
        h = latents["h"]
        return h if self.mask is None else h * self.mask_value(latents)

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution],
        prior: Mapping[str, TorchDistribution],
        latents: Latents,
    ) -> Tensor:
        """Return KL(posterior || prior) summed over a batch, in nats.

        Closed for ``h``, for exact masks, and for relaxed ones of equal temperatures; else it is
        the difference of log densities at ``latents``.
        """
        total = kl_divergence(posterior["h"], prior["h"]).sum()
        for name, q in posterior.items():
            p = prior[name]
            if name == _EXACT:
                total = total + bernoulli_kl(q.base_dist.logits, p.base_dist.logits).sum()
            elif name == _RELAXED and self.prior_temperature is None:
                total = total + kl_divergence(q, p).sum()
            elif name == _RELAXED:
                total = total + (q.log_prob(latents[name]) - p.log_prob(latents[name])).sum()
        return total

    @override
    def mean_latents(self, encoding: Encoding) -> Latents:
        return {"h": encoding.mean, _EXACT: self.feature_probs(encoding)}

    @override
    def prefix(self, encoding: Encoding | None, rows: int, num_features: int) -> Latents:
        raise ConfigError(
            "VariationalAutoencoder",
            expected="an ordered code for num_features",
            got=f"LatentCode and num_features={num_features}",
            hint="Pass latent_dropout=bd.VariationalNestedDropout(...).",
        )

    @override
    def keep_prob(self) -> Tensor:
        """Return the posterior mean of each feature's rate, ``(K,)``; ones without a mask."""
        return self.zero + 1 if self.mask is None else self.mask.keep_prob()

    @override
    def feature_probs(self, encoding: Encoding) -> Tensor:
        if encoding.offset is None or self.mask is None:
            return torch.ones_like(encoding.mean)
        if self.mask_posterior == "mean-field":
            return torch.sigmoid(encoding.offset)
        rates = self.mask.keep_prob()
        info = torch.finfo(rates.dtype)
        return torch.sigmoid(torch.logit(rates.clamp(info.tiny, 1 - info.eps)) + encoding.offset)

    def _prior_logits(self, rates: Latents) -> Tensor:
        return cast(BernoulliDropout, self.mask).keep_logits(rates)

    def _mask_site(self, logits: Tensor, temperature: float | None) -> Sites:
        if not self.training:
            return {_EXACT: Bernoulli(logits=logits, validate_args=False).to_event(1)}
        if temperature is None:
            temperature = cast(BernoulliDropout, self.mask).temperature  # type: ignore[assignment]
        fn = LogitBinaryConcrete(cast(float, temperature), logits, validate_args=False)
        return {_RELAXED: fn.to_event(1)}


def _checked(mask: BayesianDropout, num_features: int) -> BernoulliDropout:
    if mask.num_units != num_features:
        raise ConfigError(
            "LatentCode",
            expected=f"a mask of {num_features} units, one for each feature",
            got=repr(mask),
            hint="latent_size may be left out: it is the mask's.",
        )
    alone = [owner for _, owner in named_owners(mask)] == [mask]
    if not isinstance(mask, BernoulliDropout) or mask.input_dependent or not alone:
        raise ConfigError(
            "LatentCode",
            expected="a mask of its own, with units that are Bernoulli given its latents",
            got=repr(mask),
            hint="Use IndianBuffetDropout or BetaBernoulliDropout.",
        )
    return mask
