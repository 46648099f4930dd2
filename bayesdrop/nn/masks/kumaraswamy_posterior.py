"""Owners whose posterior is a Kumaraswamy, and the numbers that are learned for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.distributions import Kumaraswamy
from bayesdrop.distributions.kumaraswamy import kl_beyond_power
from bayesdrop.distributions.kumaraswamy_step import (
    LOG_A,
    LOG_B,
    Drawn,
    concentrations_of,
    draw_with_kl,
)
from bayesdrop.errors import ConfigError
from bayesdrop.nn.latents import LatentOwner, alike, extend_tensor, joined
from bayesdrop.ops import noise
from bayesdrop.ops.memo import Memo
from bayesdrop.ops.stable import clamp_inward, log1mexp, wide

Parametrization: TypeAlias = Literal["location", "softplus", "log"]

_NAMES: Mapping[str, tuple[str, str]] = {
    "location": ("location", "log_shape"),
    "softplus": ("raw_concentration1", "raw_concentration0"),
    "log": ("log_concentration1", "log_concentration0"),
}
"""Parametrization to the names of its two parameters."""

CARRIED = ("concentration1", "concentration0")
"""What ``bd.update_prior`` keeps of a posterior."""
UNIT_TENSORS = (
    *(name for pair in _NAMES.values() for name in pair),
    *(f"previous_{name}" for name in CARRIED),
)
"""The names of what has an entry a unit, in every parametrization."""

_MIN_RAW = -10.0
_MAX_CONCENTRATION0 = 50.0  # softplus(50) is 50
_LOG_2 = math.log(2.0)


class KumaraswamyPosterior(LatentOwner):
    r"""Abstract owner of Kumaraswamy posteriors, one for each unit (or stick).

    Two numbers are learned for :math:`q = \mathrm{Kumaraswamy}(a, b)`:

    - ``"location"``: a location :math:`\ell` and the logarithm of the shape :math:`a`. The median
      is :math:`m = \sigma(\ell\,(1 + 1/a))`, hence :math:`b = -\log 2 / \log(1 - m^a)`. A narrow
      posterior has :math:`b \approx m^{-a} \log 2`: after 200 observations of a fair coin it is
      :math:`e^9`, after 2,000 :math:`e^{30}`, too far for :math:`b` or its logarithm to be learned
      beside :math:`a`. Here place and width are learned one by one, within some hundred steps;
      and for :math:`a \ll 1`, where a sparse prior lies, :math:`m^a` stays where it is while
      :math:`a` falls.
    - ``"softplus"``: the inverse softplus of :math:`a` and of :math:`b \le 50`, as in the code of
      Lee et al. (2018). The bound allows no posterior narrower than that of some 30 observations.
    - ``"log"``: the logarithms of :math:`a` and :math:`b`.

    A ``state_dict`` of one parametrization loads into a layer of another, which converts it.
    """

    parametrization: Parametrization

    def _start_posterior(
        self, size: int, parametrization: Parametrization, *, a: float, b: float
    ) -> None:
        """Register the parameters of ``size`` posteriors that begin as Kumaraswamy(a, b)."""
        if parametrization not in get_args(Parametrization):
            raise ConfigError(
                type(self).__name__,
                expected="parametrization 'location', 'softplus' or 'log'",
                got=repr(parametrization),
                hint="'location' finds the posterior's width; 'softplus' is the papers' code.",
            )
        self.parametrization = parametrization
        self._start = a, b
        self._memo_of_mean = Memo()
        start = self._checked(*torch.tensor([a, b], dtype=torch.float64))
        for name, value in zip(_NAMES[parametrization], start, strict=True):
            self.register_parameter(name, nn.Parameter(torch.full((size,), float(value))))

    def _extend_posterior(self, size: int, *, c: Tensor | None, a: float, b: float) -> None:
        """Append posteriors that begin as Kumaraswamy(a, b), with Beta(c, 1) as their prior.

        None if the owner knows their prior by itself.
        """
        start = self._checked(*torch.tensor([a, b], dtype=torch.float64))
        for name, value in zip(_NAMES[self.parametrization], start, strict=True):
            extend_tensor(self, name, torch.full((size,), float(value)))
        if c is not None and self._previous() is not None:
            for name, of_prior in zip(CARRIED, (c, torch.ones_like(c)), strict=True):
                extend_tensor(self, f"previous_{name}", of_prior.expand(size))

    def _checked(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters of concentrations, after a check that they can hold them."""
        found = _encode(self.parametrization, a, b)
        for got, wanted in zip(_decode(self.parametrization, *found), (a, b), strict=True):
            if not torch.allclose(got, wanted, rtol=1e-3, atol=0.0):
                raise ConfigError(
                    self.name,
                    expected="positive concentrations that "
                    f"{self.parametrization!r} parameters hold, such as 1e-4 to 1e4",
                    got=f"concentration1 {_range(a)}, concentration0 {_range(b)}",
                    hint="A unit of concentrations 1e-4 and 1 is pruned, one of 1e4 and 1 kept.",
                )
        return found

    @torch.no_grad()
    def set_posterior(
        self, concentration1: Tensor | float, concentration0: Tensor | float = 1.0
    ) -> None:
        r"""Set the posteriors to Kumaraswamy(a, b), whatever is learned of them.

        Args:
            concentration1: :math:`a > 0`, one for all units or one for each. The smaller, the less
                is kept: for :math:`b = 1` the mean is :math:`a / (a + 1)`.
            concentration0: :math:`b > 0`, likewise.

        Raises:
            ConfigError: If one is not positive, or beyond what the parameters can hold.

        Example:
            >>> import bayesdrop as bd
            >>> layer = bd.BetaBernoulliDropout(3)
            >>> layer.set_posterior(torch.tensor([1e-4, 20.0, 20.0]))
            >>> layer.kept()
            tensor([False,  True,  True])
        """
        pair = [torch.as_tensor(value).double() for value in (concentration1, concentration0)]
        values = self._checked(*torch.broadcast_tensors(*pair))
        for parameter, value in zip(self.posterior_parameters(), values, strict=True):
            parameter.copy_(value)

    def posterior_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the two parameters of the Kumaraswamy posteriors."""
        for name in _NAMES[self.parametrization]:
            yield getattr(self, name)  # no nn.Parameter where torch.func gives the values

    @override
    def carried(self) -> dict[str, Tensor]:
        return dict(zip(CARRIED, self._concentrations(), strict=True))

    def _previous(self) -> Kumaraswamy | None:
        """Return the posterior that ``bd.update_prior`` has made the prior, if it has."""
        a, b = map(self.previous, CARRIED)
        return None if a is None or b is None else Kumaraswamy(a, b, validate_args=False)

    @staticmethod
    def draw_together(
        holders: Sequence[KumaraswamyPosterior],
        prior_concentration1: Sequence[Tensor] | None,
        kl_scales: Sequence[float],
    ) -> Drawn | None:
        """Draw a value of each holder's posteriors, with their divergence from Beta(c, 1).

        After ``bd.update_prior`` the divergence is that from the earlier posterior.

        Args:
            holders: Those of one parametrization, dtype and device can be joined.
            prior_concentration1: :math:`c` of each; None leaves the divergence out.
            kl_scales: A factor on the divergences of each.

        Returns:
            None if they differ.
        """
        first, second = zip(*(holder.posterior_parameters() for holder in holders), strict=True)
        parametrization = holders[0].parametrization
        if not alike(first) or len({holder.parametrization for holder in holders}) > 1:
            return None
        sizes = [len(x) for x in first]
        located = parametrization == "location"
        if not located:
            a, b = _decode(parametrization, torch.cat(first), torch.cat(second))
            first, second = a.split(sizes), b.split(sizes)
        c, previous = None, [holder._previous() for holder in holders]
        if prior_concentration1 is not None:
            earlier = [p for p in previous if p is not None]
            if 0 < len(earlier) < len(holders):
                return None
            c = (
                torch.cat([p.concentration1 for p in earlier])
                if earlier
                else joined(prior_concentration1, sizes)
            )
        weight = None
        if any(scale != 1.0 for scale in kl_scales):
            weight = joined([first[0].new_full((), scale) for scale in kl_scales], sizes)
        draw = draw_with_kl(
            first,
            second,
            located=located,
            c=c,
            uniform=noise.uniforms([x.shape for x in first], first[0]),
            weight=weight,
        )
        if c is None or not earlier:
            return draw
        d = torch.cat([p.concentration0 for p in earlier])
        rest = kl_beyond_power(draw.concentration1, draw.concentration0, c, d)
        return draw._replace(kl=draw.kl + (rest if weight is None else rest * weight).sum())

    def _concentrations(self) -> tuple[Tensor, Tensor]:
        return _decode(self.parametrization, *self.posterior_parameters())

    def _kumaraswamy(self) -> Kumaraswamy:
        # fit reports a NaN with its site, so checking arguments at every step is not worth it.
        return Kumaraswamy(*self._concentrations(), validate_args=False)

    def _posterior_mean(self) -> Tensor:
        return self._memo_of_mean(lambda: self._kumaraswamy().mean, *self.posterior_parameters())

    @override
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = _NAMES[self.parametrization]
        for other, names in _NAMES.items():
            first, second = (prefix + name for name in names)
            if other != self.parametrization and first in state_dict and second in state_dict:
                pair = _decode(other, wide(state_dict.pop(first)), wide(state_dict.pop(second)))
                for name, value in zip(own, _encode(self.parametrization, *pair), strict=True):
                    state_dict[prefix + name] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _decode(parametrization: str, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the concentrations a and b of two parameters."""
    if parametrization == "softplus":
        return (
            softplus(clamp_inward(first, _MIN_RAW, math.inf)),
            softplus(clamp_inward(second, _MIN_RAW, _MAX_CONCENTRATION0)),
        )
    if parametrization == "log":
        return clamp_inward(first, *LOG_A).exp(), clamp_inward(second, *LOG_B).exp()
    return concentrations_of(first, second)


def _encode(parametrization: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two parameters of concentrations a and b."""
    if parametrization == "softplus":
        return a + (-torch.expm1(-a)).log(), b + (-torch.expm1(-b)).log()
    if parametrization == "log":
        return a.log(), b.log()
    log_median = log1mexp(-_LOG_2 / b) / a
    return (log_median - log1mexp(log_median)) / (1 + 1 / a), a.log()


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"from {low:g} to {high:g}"
