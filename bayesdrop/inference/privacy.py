"""What private training promises, and how it is counted."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from bayesdrop.errors import ConfigError
from bayesdrop.metrics.options import require_count, require_fraction
from bayesdrop.nn.arguments import is_real
from bayesdrop.record import Record

Steps: TypeAlias = tuple[float, float, int]
"""Noise multiplier, sampling rate, and the number of steps made with them."""

MOST_EPSILON = 50.0
"""A larger epsilon is neither asked for nor counted closely."""

_EPSILON_ERROR = 0.01
# RDP needs large orders where epsilon is small; those between integers take long.
_ORDERS = [1.1, 1.2, 1.35, 1.5, 1.75, 2.5, *range(2, 64), *range(64, 512, 16), 1024]


@dataclasses.dataclass(frozen=True)
class Privacy(Record, also=("promise",)):
    r"""What a private run promises of every single training example.

    For all sets :math:`A` of trained parameters, and data sets :math:`D, D'` that differ by one
    example's presence, :math:`P(A \mid D) \le e^\varepsilon P(A \mid D') + \delta`. It holds for
    the parameters after every step, and for all that is computed from them alone.

    Args:
        epsilon: :math:`\varepsilon`, the smaller of the two bounds below.
        delta: :math:`\delta`.
        epsilon_prv: Bound by composing privacy loss random variables.
        epsilon_rdp: Bound by Renyi differential privacy: another computation of the same.
        clip_norm: Largest norm of an example's gradient.
        noise_multiplier: Standard deviation of the noise over ``clip_norm``.
        sampling_rate: Probability with which an example is in a step's batch.
        steps: Number of steps.
        secret_seed: Whether the noise's seed came from the operating system.
    """

    epsilon: float
    delta: float
    epsilon_prv: float
    epsilon_rdp: float
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    secret_seed: bool

    @property
    def promise(self) -> str:
        """The promise in one sentence, with what it hangs on."""
        if not math.isfinite(self.epsilon):
            return "no differential privacy: there was no noise"
        text = (
            f"({self.epsilon:.2f}, {self.delta:g})-differential privacy of each training example"
        )
        return text if self.secret_seed else f"{text}, if the noise's seed is secret"

    def __str__(self) -> str:
        return self.promise

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Privacy:
        """Return the promise of ``to_dict``, in which infinity is None."""
        known: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            value = values[item.name]
            known[item.name] = math.inf if value is None else value
            if not isinstance(known[item.name], int | float):
                raise TypeError(f"{item.name} is a {type(value).__name__}")
        return cls(**known)


def spent(history: Sequence[Steps], delta: float) -> tuple[float, float]:
    r"""Return two bounds of :math:`\varepsilon` for all steps together: by PRV and by RDP.

    Where the latter is above 50 the former is infinite: its grid would fill the memory, and a
    promise of :math:`e^{50}` is none.

    Args:
        history: Steps on the same data, of one run or of several.
        delta: :math:`\delta` of the whole.

    Raises:
        ConfigError: If ``delta`` is not inside (0, 1).
        ImportError: If Opacus is not installed.

    References:
        Gopi, Lee, Wutschitz (2021), https://arxiv.org/abs/2106.02848; Mironov, Talwar, Zhang
        (2019), https://arxiv.org/abs/1908.10530; both as Opacus computes them.

    Example:
        >>> prv, rdp = spent([(1.0, 0.01, 1000)], delta=1e-5)
        >>> 0 < prv < rdp
        True
    """
    require_fraction("spent", "delta", delta)
    accountants = load_accountants()
    steps = [(float(noise), float(rate), int(n)) for noise, rate, n in history if n and rate > 0]
    if not steps:
        return 0.0, 0.0
    if any(noise == 0 for noise, _, _ in steps):
        return math.inf, math.inf
    prv, rdp = accountants.PRVAccountant(), accountants.RDPAccountant()
    prv.history, rdp.history = list(steps), list(steps)
    with _quiet():
        by_rdp = float(rdp.get_epsilon(delta=delta, alphas=_ORDERS))
        if by_rdp > MOST_EPSILON:
            return math.inf, by_rdp
        return float(prv.get_epsilon(delta=delta, eps_error=_EPSILON_ERROR)), by_rdp


def combined(runs: Sequence[Privacy], delta: float | None = None) -> float:
    r"""Return the :math:`\varepsilon` of several private runs on the same data together.

    Pretraining and training add up, and so do the runs that hyperparameters were chosen by.

    Args:
        runs: What each promises.
        delta: :math:`\delta` of the whole; None takes that of the runs, the largest.

    Raises:
        ConfigError: If ``delta`` is not inside (0, 1).

    Example:
        >>> combined([])
        0.0
    """
    history = [(run.noise_multiplier, run.sampling_rate, run.steps) for run in runs]
    if delta is None:
        delta = max((run.delta for run in runs), default=1e-5)
    return min(spent(history, delta))


def noise_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    r"""Return the noise multiplier with which a run spends ``epsilon``, or up to 1 % less.

    Args:
        epsilon: :math:`\varepsilon` > 0.
        delta: :math:`\delta`.
        sampling_rate: Probability that an example is in a batch.
        steps: Number of steps.

    Raises:
        ConfigError: If no noise will do, or a number is out of range.
        ImportError: If Opacus is not installed.

    Example:
        >>> spent([(noise_for(2.0, 1e-5, 0.01, 100), 0.01, 100)], 1e-5)[0] <= 2.0
        True
    """
    require_fraction("noise_for", "delta", delta)
    require_count("noise_for", "steps", steps, "Epochs times batches of an epoch.")
    numbers = is_real(epsilon) and is_real(sampling_rate)
    if not numbers or not 0.0 < epsilon < math.inf or not 0.0 < sampling_rate <= 1.0:
        raise ConfigError(
            "noise_for",
            expected="a finite epsilon > 0 and 0 < sampling_rate <= 1",
            got=f"{epsilon=} and {sampling_rate=}",
            hint="The rate is the batch size over the number of examples.",
        )
    load_accountants()
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            found = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sampling_rate,
                steps=steps,
                accountant="prv",
                epsilon_tolerance=0.01 * epsilon,
                eps_error=_EPSILON_ERROR,
            )
    except ValueError as error:
        raise ConfigError(
            "Private",
            expected="an epsilon that some noise can keep",
            got=f"epsilon={epsilon:g} for {steps} steps at a sampling rate of {sampling_rate:g}",
            hint="Take a larger epsilon, fewer epochs or smaller batches.",
        ) from error
    return float(found)


@contextmanager
def _quiet() -> Iterator[None]:
    # Opacus says which orders are best, and takes the logarithm of 1 - q where q = 1.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def load_accountants() -> Any:
    """Return the module of Opacus that counts.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        from opacus import accountants
    except ImportError as error:
        raise ImportError(
            "fit(private=...) needs Opacus' accountants: pip install bayesdrop[private]."
        ) from error
    return accountants
