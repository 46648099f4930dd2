"""A code whose features are ordered: an example uses a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence
from typing_extensions import override

from bayesdrop.distributions import (
    NestedNormal,
    OrderedMask,
    OrderedMaskInterpolated,
    OrderedMaskStraightThrough,
)
from bayesdrop.distributions.nested_normal import open_features
from bayesdrop.errors import ConfigError
from bayesdrop.nn import BayesianDropout
from bayesdrop.ops.stable import clamp_inward
from bayesdrop.program.code import Code, Encoding, Sites
from bayesdrop.typing import Latents

_MASK = "mask"  # no site, but a mask that was given for the code's own


class NestedCode(Code):
    r"""Prior and posterior of a code whose features are ordered: an example uses a prefix.

    .. math::
        p(z) = \mathrm{OrderedMask}(\pi), \quad p(h_k) = N(0, 1) \qquad
        q(z \mid x) = \mathrm{OrderedMask}(\sigma(\mathrm{clamp}(r + d(x), -5, 5))), \quad
        q(h_k \mid x) = N(\mu_k(x), \sigma_k^2(x))

    The code :math:`z \odot h` is one latent (``NestedNormal``), with the closed divergence
    :math:`\mathrm{KL}(z) + \sum_k P_q(z_k = 1 \mid x)\,\mathrm{KL}(h_k)`. The layer's
    ``kl_scale`` :math:`c` is the factor on :math:`\mathrm{KL}(z)`, by a penalty beside the ELBO:
    the best law of an example is then

    .. math:: q(t \mid x) \propto p(t) \exp(L_t(x) / c)

    with :math:`L_t` its bound at :math:`t` features. At :math:`c = 1` it gives short prefixes
    hardly any mass where more features gain several nats, and they are not trained; a large
    :math:`c` is the fixed law.

    Args:
        order: The layer whose prior, initial logits :math:`r`, always kept units, gradient and
            ``kl_scale`` are taken (``ordered_law``); one unit a group, ordered by index. Where its
            law is fixed (``NestedDropout``), the encoder says nothing of the mask.

    Sites:  ``h``, event ``(K,)``: the code itself.

    Raises:
        ConfigError: If the layer has no order, or groups of several units.

    References:
        Cui et al. (2023), "Variational Nested Dropout", https://arxiv.org/abs/2101.11353; fixed
        law: Rippel, Gelbart, Adams (2014), https://arxiv.org/abs/1402.0915.

    Example:
        >>> import bayesdrop as bd
        >>> code = NestedCode(bd.VariationalNestedDropout(4))
        >>> code.prior({})["h"].rsample((2,)).shape
        torch.Size([2, 4])
    """

    is_ordered = True
    order_logits: Tensor
    prior_logits: Tensor

    def __init__(self, order: BayesianDropout) -> None:
        super().__init__(order.num_units)
        law = order.ordered_law()
        if law is None or law.always_kept + len(law.prior_logits) != order.num_units:
            raise ConfigError(
                "NestedCode",
                expected=f"num_groups={order.num_units}, a group for each feature",
                got=repr(order),
                hint="Pass num_groups=num_units to a layer of nested dropout.",
            )
        self.mask = None
        self.always_kept, self.temperature = law.always_kept, law.temperature
        self.interpolated, self.stratified = law.interpolated, law.stratified
        self.kl_scale = order.kl_scale
        self.register_buffer("prior_logits", law.prior_logits.detach().clone())
        self.register_buffer("order_logits", law.init_logits.detach().clone())

    @property
    @override
    def parts(self) -> int:
        return 2 if self.temperature is None else 3

    @override
    def prior(self, rates: Latents) -> Sites:
        order = OrderedMask(logits=self.prior_logits, validate_args=False)
        return {"h": NestedNormal(self.zero, self.zero + 1, order, validate_args=False)}

    @override
    def posterior(self, encoding: Encoding, rates: Latents) -> Sites:
        order = self._order(encoding)
        return {"h": NestedNormal(encoding.mean, encoding.scale, order, validate_args=False)}

    @override
    def prefix(self, encoding: Encoding | None, rows: int, num_features: int) -> Latents:
        if not 0 <= num_features <= self.num_features:
            raise ConfigError(
                "VariationalAutoencoder",
                expected=f"0 <= num_features <= {self.num_features}",
                got=f"num_features={num_features}",
                hint="None uses as many as each example draws.",
            )
        loc, scale = (self.zero, self.zero + 1) if encoding is None else encoding[1:]
        slabs = Normal(loc, scale, validate_args=False).to_event(1)
        used = torch.arange(self.num_features, device=self.zero.device) < num_features
        return {"h": slabs.expand(torch.Size((rows,))).sample(), _MASK: used.to(self.zero)}

    @override
    def mean_latents(self, encoding: Encoding) -> Latents:
        return {"h": encoding.mean, _MASK: self.feature_probs(encoding)}

    @override
    def forward(self, latents: Latents) -> Tensor:
        mask = latents.get(_MASK)
        return latents["h"] if mask is None else latents["h"] * mask

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution],
        prior: Mapping[str, TorchDistribution],
        latents: Latents,
    ) -> Tensor:
        return kl_divergence(posterior["h"], prior["h"]).sum()

    @override
    def keep_prob(self) -> Tensor:
        """Return the prior probability that an example uses each feature, ``(K,)``."""
        return cast(NestedNormal, self.prior({})["h"]).open_prob()

    @override
    def feature_probs(self, encoding: Encoding) -> Tensor:
        return cast(NestedNormal, self.posterior(encoding, {})["h"]).open_prob()

    @override
    def mask_value(self, latents: Latents) -> Tensor:
        return open_features(latents["h"])

    @override
    def penalty(self, posterior: Mapping[str, TorchDistribution]) -> Tensor | None:
        if self.temperature is None or self.kl_scale == 1.0:
            return None
        order = cast(NestedNormal, posterior["h"]).order
        prior = OrderedMask(logits=self.prior_logits, validate_args=False)
        return (self.kl_scale - 1.0) * kl_divergence(order, prior.expand(order.batch_shape))

    def _order(self, encoding: Encoding) -> OrderedMask:
        stratified = self.stratified and self.training
        if encoding.offset is None or self.temperature is None:
            return OrderedMask(
                logits=self.prior_logits, validate_args=False, stratified=stratified
            )
        logits = self.order_logits + encoding.offset[..., self.always_kept :]
        logits = clamp_inward(logits, -5.0, 5.0)
        if not self.interpolated:
            return OrderedMaskStraightThrough(self.temperature, logits=logits, validate_args=False)
        law = OrderedMaskInterpolated if self.training else OrderedMask
        return law(logits=logits, validate_args=False, stratified=stratified)
