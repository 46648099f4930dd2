"""The latent code of an auto-encoder's example: Gaussian features, each switched on or off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, cast

import torch
from pyro.distributions import Bernoulli, Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from bayesdrop.distributions import (
    LogitBinaryConcrete,
    NestedNormal,
    OrderedMask,
    OrderedMaskStraightThrough,
)
from bayesdrop.distributions.nested_normal import open_features
from bayesdrop.errors import ConfigError, ShapeError, unknown_name
from bayesdrop.nn import BayesianDropout, BernoulliDropout, ConditionalOwner, OrderedUnits
from bayesdrop.typing import Latents

MaskPosterior: TypeAlias = Literal["structured", "mean-field"]
Sites: TypeAlias = dict[str, TorchDistribution]


class Encoding(NamedTuple):
    """What the encoder says of a batch, ``(B, K)`` each; no offset without a mask."""

    offset: Tensor | None
    mean: Tensor
    scale: Tensor


class LatentCode(nn.Module):
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

    zero: Tensor
    relaxed_site, exact_site = "mask.logits", "mask.z"

    def __init__(
        self,
        num_features: int,
        mask: BayesianDropout | None,
        *,
        prior_temperature: float | None = None,
        mask_posterior: MaskPosterior = "structured",
    ) -> None:
        super().__init__()
        if mask_posterior not in ("structured", "mean-field"):
            raise unknown_name("mask_posterior", mask_posterior, ("structured", "mean-field"))
        if prior_temperature is not None and not 0.0 < prior_temperature < math.inf:
            raise ConfigError(
                "LatentCode",
                expected="a finite prior_temperature > 0, or None",
                got=f"prior_temperature={prior_temperature}",
                hint="The paper's is 0.25, beside 0.3 for the posterior.",
            )
        self.num_features = num_features
        self.prior_temperature = prior_temperature
        self.mask_posterior = mask_posterior
        self.mask = None if mask is None else _checked(mask, num_features)
        self.register_buffer("zero", torch.zeros(num_features), persistent=False)

    def encoding(self, output: Tensor) -> Encoding:
        r"""Read an encoder's output: offsets :math:`d`, means, log-variances.

        Raises:
            ShapeError: If it does not have the size for ``num_features`` features.
        """
        return _read(output, 2 if self.mask is None else 3, self.num_features)

    def prior(self, rates: Latents) -> Sites:
        """Return the prior of an example's latents by site suffix.

        Args:
            rates: The global latents of ``mask``, ``(..., K)``; empty without a mask.
        """
        sites: Sites = {}
        if self.mask is not None:
            sites = self._mask_site(self._prior_logits(rates), self.prior_temperature)
        sites["h"] = Normal(self.zero, self.zero + 1, validate_args=False).to_event(1)
        return sites

    def posterior(self, encoding: Encoding, rates: Latents) -> Sites:
        """Return the posterior of the latents of each example by site suffix.

        Args:
            encoding: What ``encoding`` returned for a batch.
            rates: The global latents of ``mask``, ``(..., K)``; empty without a mask.
        """
        sites: Sites = {}
        if encoding.offset is not None:
            logits = encoding.offset
            if self.mask_posterior == "structured":
                logits = logits + self._prior_logits(rates)
            sites = self._mask_site(logits, None)
        sites["h"] = Normal(encoding.mean, encoding.scale, validate_args=False).to_event(1)
        return sites

    def mask_value(self, latents: Latents) -> Tensor:
        """Return the mask in [0, 1] of values of an example's latents."""
        if self.exact_site in latents:
            return latents[self.exact_site]
        logits = latents[self.relaxed_site]
        # A mask this close to 0 or 1 is one, and denormal numbers would slow the decoder.
        bound = -math.log(torch.finfo(logits.dtype).eps)
        z = torch.sigmoid(logits.clamp(-bound, bound))
        if self.mask is not None and self.mask.relaxation == "straight-through":
            z = z + (z.round() - z).detach()
        return z

    def forward(self, latents: Latents) -> Tensor:
        """Return the code of values of an example's latents, ``(..., K)``."""
        h = latents["h"]
        return h if self.mask is None else h * self.mask_value(latents)

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
            if name == self.exact_site:
                total = total + bernoulli_kl(q.base_dist.logits, p.base_dist.logits).sum()
            elif name == self.relaxed_site and self.prior_temperature is None:
                total = total + kl_divergence(q, p).sum()
            elif name == self.relaxed_site:
                total = total + (q.log_prob(latents[name]) - p.log_prob(latents[name])).sum()
        return total

    def keep_prob(self) -> Tensor:
        """Return the posterior mean of each feature's rate, ``(K,)``; ones without a mask."""
        return self.zero + 1 if self.mask is None else self.mask.keep_prob()

    def feature_probs(self, encoding: Encoding) -> Tensor:
        r"""Return :math:`q(z_{nk} = 1)` with the rates at their posterior means, ``(B, K)``."""
        if encoding.offset is None or self.mask is None:
            return torch.ones_like(encoding.mean)
        if self.mask_posterior == "mean-field":
            return torch.sigmoid(encoding.offset)
        rates = self.mask.keep_prob()
        info = torch.finfo(rates.dtype)
        return torch.sigmoid(torch.logit(rates.clamp(info.tiny, 1 - info.eps)) + encoding.offset)

    def _prior_logits(self, rates: Latents) -> Tensor:
        return cast(BernoulliDropout, self.mask).keep_logits(rates)

    def _mask_site(self, logits: Tensor, temperature: float | Tensor | None) -> Sites:
        if not self.training:
            return {self.exact_site: Bernoulli(logits=logits, validate_args=False).to_event(1)}
        if temperature is None:
            temperature = cast(BernoulliDropout, self.mask).temperature
        fn = LogitBinaryConcrete(temperature, logits, validate_args=False)
        return {self.relaxed_site: fn.to_event(1)}

    def extra_repr(self) -> str:
        """Show the size."""
        return f"{self.num_features}"


class NestedCode(nn.Module):
    r"""Prior and posterior of a code whose features are ordered: an example uses a prefix.

    .. math::
        p(z) = \mathrm{OrderedMask}(\pi), \quad p(h_k) = N(0, 1) \qquad
        q(z \mid x) = \mathrm{OrderedMask}(\sigma(\mathrm{clamp}(r + d(x), -5, 5))), \quad
        q(h_k \mid x) = N(\mu_k(x), \sigma_k^2(x))

    The code :math:`z \odot h` is one latent (``NestedNormal``), with the closed divergence
    :math:`\mathrm{KL}(z) + \sum_k P_q(z_k = 1 \mid x)\,\mathrm{KL}(h_k)`.

    Args:
        order: The layer whose prior, initial logits :math:`r`, always-open units and temperature
            are taken; one unit a group, ordered by index. With ``NestedDropout`` the law is fixed,
            and the encoder says nothing of the mask.

    Sites:  ``h``, event ``(K,)``: the code itself.

    Raises:
        ConfigError: If the layer has groups of several units.

    References:
        Cui et al. (2023), "Variational Nested Dropout", https://arxiv.org/abs/2101.11353; fixed
        law: Rippel, Gelbart, Adams (2014), https://arxiv.org/abs/1402.0915.

    Example:
        >>> import bayesdrop as bd
        >>> code = NestedCode(bd.VariationalNestedDropout(4))
        >>> code.prior({})["h"].rsample((2,)).shape
        torch.Size([2, 4])
    """

    zero: Tensor
    order_logits: Tensor
    prior_logits: Tensor
    relaxed_site, exact_site = "mask.logits", "mask"
    mask = None  # nothing about it is global

    def __init__(self, order: OrderedUnits) -> None:
        super().__init__()
        if order.num_groups != order.num_units:
            raise ConfigError(
                "NestedCode",
                expected=f"num_groups={order.num_units}, a group for each feature",
                got=repr(order),
                hint="Pass num_groups=num_units to the layer.",
            )
        self.num_features, self.always_kept = order.num_units, order.always_kept
        self.learned, self.temperature = order.is_inferred, order.order_temperature()
        self.register_buffer("zero", torch.zeros(self.num_features), persistent=False)
        self.register_buffer("prior_logits", order.order_prior().logits.detach().clone())
        self.register_buffer("order_logits", order.order_posterior().logits.detach().clone())

    @property
    def parts(self) -> int:
        """Number of values that the encoder gives for each feature."""
        return 3 if self.learned else 2

    def encoding(self, output: Tensor) -> Encoding:
        r"""Read an encoder's output: offsets :math:`d` (if learned), means, log-variances.

        Raises:
            ShapeError: If it does not have the size for ``num_features`` features.
        """
        return _read(output, self.parts, self.num_features)

    def prior(self, rates: Latents) -> Sites:
        """Return the prior of an example's code by site suffix; ``rates`` are empty."""
        order = OrderedMask(logits=self.prior_logits, validate_args=False)
        return {"h": NestedNormal(self.zero, self.zero + 1, order, validate_args=False)}

    def posterior(self, encoding: Encoding, rates: Latents) -> Sites:
        """Return the posterior of the code of each example by site suffix."""
        order = self._order(encoding)
        return {"h": NestedNormal(encoding.mean, encoding.scale, order, validate_args=False)}

    def prefix(self, latents: Latents, num_features: int) -> dict[str, Tensor]:
        """Return latents whose first ``num_features`` features are used, and no other."""
        mask = (torch.arange(self.num_features, device=self.zero.device) < num_features).to(
            self.zero
        )
        return {"h": latents["h"], self.exact_site: mask}

    def slabs(self, encoding: Encoding | None) -> TorchDistribution:
        """Return the law of all features, open or not: the posterior's, or the prior's."""
        loc, scale = (self.zero, self.zero + 1) if encoding is None else encoding[1:]
        return Normal(loc, scale, validate_args=False).to_event(1)

    def forward(self, latents: Latents) -> Tensor:
        """Return the code of values of an example's latents, ``(..., K)``."""
        mask = latents.get(self.exact_site)
        return latents["h"] if mask is None else latents["h"] * mask

    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution],
        prior: Mapping[str, TorchDistribution],
        latents: Latents,
    ) -> Tensor:
        """Return KL(posterior || prior) summed over a batch, in nats; it is closed."""
        return kl_divergence(posterior["h"], prior["h"]).sum()

    def keep_prob(self) -> Tensor:
        """Return the prior probability that an example uses each feature, ``(K,)``."""
        return cast(NestedNormal, self.prior({})["h"]).open_prob()

    def feature_probs(self, encoding: Encoding) -> Tensor:
        r"""Return :math:`q(z_{nk} = 1)`, ``(B, K)``."""
        return cast(NestedNormal, self.posterior(encoding, {})["h"]).open_prob()

    def mask_value(self, latents: Latents) -> Tensor:
        """Return the mask of values of an example's latents, ``(..., K)``."""
        return open_features(latents["h"])

    def _order(self, encoding: Encoding) -> OrderedMask:
        if encoding.offset is None:
            return OrderedMask(logits=self.prior_logits, validate_args=False)
        logits = self.order_logits + encoding.offset[..., self.always_kept :]
        return OrderedMaskStraightThrough(
            self.temperature, logits=logits.clamp(-5.0, 5.0), validate_args=False
        )

    def extra_repr(self) -> str:
        """Show the size."""
        return f"{self.num_features}"


def _read(output: Tensor, parts: int, num_features: int) -> Encoding:
    if output.ndim != 2 or output.shape[1] != parts * num_features:
        raise ShapeError(
            "VariationalAutoencoder",
            expected=f"encoder output of shape (N, {parts} * {num_features}), for "
            f"{'' if parts == 2 else 'offsets, '}means and log-variances",
            got=str(tuple(output.shape)),
            hint="Change the size of the encoder's last layer.",
        )
    *offset, mean, log_variance = output.chunk(parts, dim=-1)
    return Encoding(offset[0] if offset else None, mean, (0.5 * log_variance).exp())


def bernoulli_kl(q_logits: Tensor, p_logits: Tensor) -> Tensor:
    """Return KL(Bernoulli || Bernoulli) from log-odds, finite where a probability rounds to 0."""
    q = torch.sigmoid(q_logits)
    on = softplus(-p_logits) - softplus(-q_logits)
    off = softplus(p_logits) - softplus(q_logits)
    return q * on + (1 - q) * off


def draw(sites: Mapping[str, TorchDistribution]) -> dict[str, Tensor]:
    """Draw each site, with pathwise gradients where it has them."""
    return {name: fn.rsample() if fn.has_rsample else fn.sample() for name, fn in sites.items()}


def _checked(mask: BayesianDropout, num_features: int) -> BernoulliDropout:
    if mask.num_units != num_features:
        raise ConfigError(
            "LatentCode",
            expected=f"a mask of {num_features} units, one for each feature",
            got=repr(mask),
            hint="latent_size may be left out: it is the mask's.",
        )
    if (
        mask.input_dependent
        or isinstance(mask, ConditionalOwner)
        or not isinstance(mask, BernoulliDropout)
    ):
        raise ConfigError(
            "LatentCode",
            expected="a mask of its own, with units independent given its latents",
            got=repr(mask),
            hint="Use IndianBuffetDropout or BetaBernoulliDropout.",
        )
    return mask
