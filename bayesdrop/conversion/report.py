"""What ``convert`` has done: which layers got masks or random weights, which did not, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn import BayesianDropout, BayesianWeights
from bayesdrop.record import TableRecord


@dataclass(frozen=True)
class Placed:
    """A layer that a conversion has put in.

    Args:
        name: Its name in the network.
        key: Its key in ``bd.nn.layers``.
        where: What it is on, in words.
        number: How many units it has, or weights.
    """

    name: str
    key: str
    where: str
    number: int


@dataclass(frozen=True)
class Left:
    """A part of a network that a conversion has left as it was.

    Args:
        name: Its name in the network.
        kind: Its class, or the function that is called.
        why: The reason, in words.
        num_parameters: How many parameters it has.
        drop_prob: The largest rate of a dropout of its own; 0 if it has none.
        wanted: Whether the call asked for more than was possible, so that ``convert`` warns.
    """

    name: str
    kind: str
    why: str
    num_parameters: int = 0
    drop_prob: float = 0.0
    wanted: bool = False


@dataclass(frozen=True, repr=False)
class ConversionReport(TableRecord):
    """What a conversion has done to a network.

    Args:
        network: The network's class.
        placed: What was put in, in the order in which it runs.
        left: What was left as it was.
        trained: Whether the weights were taken to be trained, so that masks start nearly open.
        no_graph: Why torch.fx cannot trace the network, which was converted by parts; else empty.
    """

    text_columns = 4

    network: str
    placed: tuple[Placed, ...]
    left: tuple[Left, ...] = field(default=())
    trained: bool = False
    no_graph: str = ""

    @property
    def unexpected(self) -> tuple[Left, ...]:
        """What was left although the call asked for it: of this ``convert`` warns."""
        return tuple(part for part in self.left if part.wanted)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a row for each layer that was put in, and for each part that was left."""
        rows = [[p.name, p.key, p.where, "", str(p.number)] for p in self.placed]
        rows += [
            [part.name, "-", part.kind, part.why, str(part.num_parameters)] for part in self.left
        ]
        return ["layer", "put in", "where", "left because", "units or parameters"], rows

    def __repr__(self) -> str:
        counts = f"{len(self.placed)} put in, {len(self.left)} left as they were"
        names = ", ".join(f"{part.name!r} ({part.kind})" for part in self.unexpected)
        trouble = f", against the request: {names}" if names else ""
        way = ", by parts" if self.no_graph else ""
        return f"ConversionReport({self.network}{way}: {counts}{trouble})"

    def __str__(self) -> str:
        reason = f"By parts, since there is no graph of it. {self.no_graph}\n\n"
        return f"{self!r}\n\n{reason if self.no_graph else ''}{self.to_markdown()}"


def conversion_report(network: nn.Module) -> ConversionReport:
    """Return what ``convert`` has done to a network; copies and pickles of it know, too.

    Args:
        network: What ``convert`` returned, or a module that holds it, such as a
            ``BayesianNetwork``.

    Raises:
        ConfigError: If the network does not come from ``convert``.

    Example:
        >>> import bayesdrop as bd
        >>> net = bd.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> conversion_report(net)
        ConversionReport(Sequential: 2 put in, 0 left as they were)
        >>> conversion_report(net).placed[1]
        Placed(name='2_dropout', key='beta-bernoulli', where="inputs of '2'", number=8)
    """
    report = earlier_report(network)
    if report is None:
        raise ConfigError(
            "conversion_report",
            expected="a network that convert has returned",
            got=type(network).__name__,
            hint="Layers that were put in by hand have no report.",
        )
    return report


def earlier_report(network: nn.Module) -> ConversionReport | None:
    """Return the report that the layers of a network carry, if they do."""
    for module in network.modules():
        if isinstance(module, BayesianDropout | BayesianWeights):
            report = module.conversion
            if isinstance(report, ConversionReport):
                return report
    return None
