"""Owners whose posterior is a Kumaraswamy, and the numbers that are learned for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus
from typing_extensions import override

from bayesdrop.distributions import Kumaraswamy
from bayesdrop.errors import ConfigError
from bayesdrop.nn.latents import LatentOwner, alike
from bayesdrop.ops.memo import Memo
from bayesdrop.ops.stable import clamp_inward, log1mexp, wide
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations

Parametrization: TypeAlias = Literal["location", "softplus", "log"]

_NAMES: Mapping[str, tuple[str, str]] = {
    "location": ("location", "log_shape"),
    "softplus": ("raw_concentration1", "raw_concentration0"),
    "log": ("log_concentration1", "log_concentration0"),
}
PARAMETER_NAMES = tuple(name for pair in _NAMES.values() for name in pair)
"""Of every parametrization."""
"""Parametrization to the names of its two parameters."""

_MIN_RAW = -10.0
_MAX_CONCENTRATION0 = 50.0  # softplus(50) is 50
_LOG_2 = math.log(2.0)
# What float32 can hold: a from 2e-9 to 7e10, b up to 1e26 and, as log-odds, any median.
_MAX_MEDIAN_LOGIT = 60.0
_LOG_A = (-20.0, 25.0)
_LOG_B = (-20.0, 60.0)


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
        self._memo_of_mean = Memo()
        start = self._checked(*torch.tensor([a, b], dtype=torch.float64))
        for name, value in zip(_NAMES[parametrization], start, strict=True):
            self.register_parameter(name, nn.Parameter(torch.full((size,), float(value))))

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

    @classmethod
    def joint_concentrations(
        cls, owners: Sequence[KumaraswamyPosterior]
    ) -> tuple[Tensor, Tensor] | None:
        """Return the concentrations of all owners, one behind the other; None if they differ.

        Args:
            owners: Those of one parametrization, dtype and device can be joined.
        """
        first, second = zip(*(owner.posterior_parameters() for owner in owners), strict=True)
        if not alike(first) or len({owner.parametrization for owner in owners}) > 1:
            return None
        return _decode(owners[0].parametrization, torch.cat(first), torch.cat(second))

    def _kumaraswamy(self) -> Kumaraswamy:
        # fit reports a NaN with its site, so checking arguments at every step is not worth it.
        a, b = _decode(self.parametrization, *self.posterior_parameters())
        return Kumaraswamy(a, b, validate_args=False)

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
        return clamp_inward(first, *_LOG_A).exp(), clamp_inward(second, *_LOG_B).exp()
    form = _plain_of_location if takes_plain_operations() else _OfLocation.apply
    return form(first, second)


def _plain_of_location(location: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor]:
    a = clamp_inward(log_shape, *_LOG_A).exp()
    logit = location * (1 + 1 / a)
    log_median = logsigmoid(clamp_inward(logit, -math.inf, _MAX_MEDIAN_LOGIT))
    # log(m^a), below which b would be infinite. Not a quotient, whose derivative would overflow.
    power = clamp_inward(a * log_median, -_LOG_B[1], math.inf)
    return a, (math.log(_LOG_2) - (-log1mexp(power)).log()).exp()


class _OfLocation(torch.autograd.Function):
    # Written out, beside the form in plain operations, as in bayesdrop.ops.stable.
    @staticmethod
    def forward(ctx: Any, location: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor]:
        a = log_shape.clamp(*_LOG_A).exp_()
        stretch = a.reciprocal().add_(1)
        logit = location * stretch
        log_median = logsigmoid(logit.clamp(max=_MAX_MEDIAN_LOGIT))
        power = a * log_median
        odds = torch.expm1(power.clamp(min=-_LOG_B[1]).neg_())  # m^-a - 1
        log_rest = torch.log1p(odds.reciprocal())  # -log(1 - m^a)
        b = _LOG_2 / log_rest
        ctx.save_for_backward(
            location, log_shape, a, b, stretch, logit, log_median, power, odds, log_rest
        )
        return a, b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        location, log_shape, a, b, stretch, logit, log_median, power, odds, log_rest = (
            ctx.saved_tensors
        )
        if torch.is_grad_enabled():

            def total(location: Tensor, log_shape: Tensor) -> Tensor:
                values = _plain_of_location(location, log_shape)
                return sum(
                    ((v * g).sum() for v, g in zip(values, grads, strict=True)), a.sum() * 0
                )

            return plain_gradients(total, (location, log_shape), a.new_ones(()))
        of_a, of_b = grads
        # Each bound cuts the gradient as clamp_inward does: where a descent step leads outward.
        slope = (of_b * b).div_(log_rest * odds).neg_()  # together: each may overflow
        slope.masked_fill_((power <= -_LOG_B[1]) & (slope > 0), 0.0)
        of_logit = (slope * a).mul_(torch.sigmoid(-logit.clamp(max=_MAX_MEDIAN_LOGIT)))
        of_logit.masked_fill_((logit >= _MAX_MEDIAN_LOGIT) & (of_logit < 0), 0.0)
        pull = (of_logit * location).div_(a)  # (1 + 1/a) falls with a
        of_log = torch.addcmul(of_a, slope, log_median).mul_(a).sub_(pull)
        low, high = _LOG_A
        outward = ((log_shape <= low) & (of_log > 0)) | ((log_shape >= high) & (of_log < 0))
        return of_logit.mul_(stretch), of_log.masked_fill_(outward, 0.0)


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
