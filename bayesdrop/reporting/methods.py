"""The ways of asking a network that a report compares."""

from __future__ import annotations

from enum import StrEnum

from bayesdrop.program.network import BayesianNetwork


class Method(StrEnum):
    """A way of asking a network; its value is the key in ``report.json``."""

    PLAIN = "plain"
    MEAN_MASK = "mean_mask"
    MONTE_CARLO = "monte_carlo"

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        return _LABELS[self]

    @property
    def spoken(self) -> str:
        """What a sentence calls it."""
        return f"the {self.label}{' prediction' if self.samples else ''}"

    @property
    def samples(self) -> bool:
        """Whether it averages over posterior samples."""
        return self is Method.MONTE_CARLO

    def network(self, bnn: BayesianNetwork, plain: BayesianNetwork | None) -> BayesianNetwork:
        """Return which of the two networks it asks; without a plain one it is the same."""
        return plain if self is Method.PLAIN and plain is not None else bnn


_LABELS = {
    Method.PLAIN: "plain network",
    Method.MEAN_MASK: "mean mask",
    Method.MONTE_CARLO: "Monte Carlo",
}


def methods_of(bnn: BayesianNetwork) -> tuple[Method, ...]:
    """Return the methods that differ: one alone without Bayesian layers."""
    return tuple(Method) if bnn.is_random else (Method.PLAIN,)
