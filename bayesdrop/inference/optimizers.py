"""The optimiser of ``fit``: parameters in groups by what they are, or one of the user's own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.files import first_line
from bayesdrop.inference.settings import require_function
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import LatentOwner
from bayesdrop.program.program import Program

OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def make_optimizer(
    bnn: Program,
    given: OptimizerFactory | torch.optim.Optimizer | None,
    *,
    learning_rate: float,
    variational_learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return the optimiser of a run, with ``initial_lr`` in every group.

    Args:
        bnn: The network.
        given: As ``optimizer`` of ``fit``.
        learning_rate: As for ``fit``, like the following.
        variational_learning_rate: Of dropout layers, and of variances of random weights.
        weight_decay: Of network weights.

    Raises:
        ConfigError: If nothing is to be trained, or ``given`` is no optimiser of this network.
    """
    if isinstance(given, torch.optim.Optimizer):
        optimizer = given
        parameter_groups(bnn)  # which refuses a frozen network
    else:
        groups = parameter_groups(
            bnn,
            learning_rate=learning_rate,
            variational_learning_rate=variational_learning_rate,
            weight_decay=weight_decay,
        )
        if given is None:
            return torch.optim.Adam(groups, fused=_can_fuse(bnn))
        optimizer = _made_by(given, groups)
    _check(bnn, optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def _made_by(factory: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if isinstance(factory, PyroOptim):
        name = getattr(factory.pt_optim_constructor, "__name__", "Adam")
        known = hasattr(torch.optim, name)
        raise ConfigError(
            "fit",
            expected="a torch optimiser, or a function of parameter groups that makes one",
            got=f"the object pyro.optim.{name} of Pyro",
            hint=f"Pass optimizer={f'torch.optim.{name}' if known else 'torch.optim.Adam'}; the "
            "rates are learning_rate, variational_learning_rate and schedule of fit.",
        )
    require_function("optimizer", factory, "optimizer(groups)", 1)
    if isinstance(factory, type) and issubclass(factory, torch.optim.Optimizer):
        _refuse_closures(factory)
    try:
        made = factory(groups)
    except ValueError as error:
        if "LBFGS" in str(error):  # which takes no groups, and is refused all the same
            _refuse_closures(torch.optim.LBFGS)
        _refuse_kind(factory, error)
        raise
    except (TypeError, RuntimeError) as error:
        _refuse_kind(factory, error)
        raise
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(
            "fit",
            expected="an optimizer function that returns a torch.optim.Optimizer",
            got=f"one that returns {'None' if made is None else f'a {type(made).__name__}'}",
            hint="For example lambda groups: torch.optim.SGD(groups, momentum=0.9).",
        )
    _warn_of_unused(made)
    return made


def _warn_of_unused(made: torch.optim.Optimizer) -> None:
    """Warn if a rate was named that no group has, since those of fit bring their own."""
    known = inspect.signature(type(made)).parameters
    groups = made.param_groups
    if not all("initial_lr" in group for group in groups):
        return
    for name in ("lr", "weight_decay"):
        given = made.defaults.get(name)
        named = name in known and given != known[name].default
        if named and all(group[name] != given for group in groups):
            warnings.warn(
                f"fit: expected groups to have the {name} of fit, got {name}={given:g} for the "
                f"{type(made).__name__} of them, which has no effect. Pass learning_rate, "
                "variational_learning_rate and weight_decay to fit, or bnn.parameters() to the "
                "optimizer.",
                BayesdropWarning,
                stacklevel=5,
            )


def _refuse_kind(factory: Any, error: Exception) -> None:
    """Raise the error for a class that does not take the groups; a function's is its own."""
    if isinstance(factory, type):
        raise ConfigError(
            "fit",
            expected="an optimizer for parameters of any shape, made of parameter groups",
            got=f"{factory.__name__}: {first_line(error)}",
            hint="Adam and SGD take all. One made of some of bnn.parameters() may be passed too.",
        ) from error


def _check(bnn: Program, optimizer: torch.optim.Optimizer) -> None:
    _refuse_closures(type(optimizer))
    if isinstance(optimizer, torch.optim.SparseAdam):
        _refuse_kind(torch.optim.SparseAdam, RuntimeError("it takes no dense gradients"))
    own = {id(p) for p in bnn.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held or held - own:
        raise ConfigError(
            "fit",
            expected="an optimizer of this network's parameters",
            got=f"a {type(optimizer).__name__} of {len(held - own)} others",
            hint="Make it after convert, deepcopy and .to(), from bnn.parameters().",
        )
    for option in ("maximize", "differentiable"):
        if any(group.get(option, False) for group in optimizer.param_groups):
            raise ConfigError(
                "fit",
                expected="an optimizer that minimises the loss, without a graph of its steps",
                got=f"{option}=True",
                hint=f"Leave {option} out.",
            )


def _refuse_closures(kind: type) -> None:
    closure = inspect.signature(kind.step).parameters.get("closure")  # type: ignore[attr-defined]
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            "fit",
            expected="an optimizer that makes a step from one gradient",
            got=f"{kind.__name__}, which evaluates the loss several times in a step",
            hint="Every evaluation draws other masks, so that its line search has no fixed "
            "function: use Adam or SGD.",
        )


def parameter_groups(
    network: nn.Module,
    *,
    learning_rate: float = 1e-3,
    variational_learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
) -> list[dict[str, Any]]:
    """Return the parameters that train in groups, as ``fit`` has them, for any torch optimiser.

    Network weights; posterior means of weights, and parameters of the likelihood, at the same rate
    without decay; parameters of the variational posterior, at a rate of their own without decay.

    Args:
        network: A network with Bayesian layers, or a program.
        learning_rate: As for ``fit``, like the following.
        variational_learning_rate: Of dropout layers, and of variances of random weights.
        weight_decay: Of network weights.

    Raises:
        ConfigError: If nothing is to be trained.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> [(group["lr"], group["weight_decay"]) for group in parameter_groups(net)]
        [(0.001, 0.0001), (0.01, 0.0)]
    """
    variational, means = posterior_parameters(network)
    likelihood = {
        id(p) for m in network.modules() if isinstance(m, Likelihood) for p in m.parameters()
    }
    members: Mapping[str, list[nn.Parameter]] = {
        "weights": [],
        "means": [],
        "likelihood": [],
        "variational": [],
    }
    for parameter in network.parameters():
        if parameter.requires_grad:
            kind = "variational" if parameter in variational else "weights"
            kind = "means" if parameter in means else kind
            members["likelihood" if id(parameter) in likelihood else kind].append(parameter)
    rates = {
        "weights": (learning_rate, weight_decay),
        "means": (learning_rate, 0.0),  # their prior is in the KL
        "likelihood": (learning_rate, 0.0),
        "variational": (variational_learning_rate, 0.0),
    }
    groups = [
        {"params": members[kind], "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for kind, (rate, decay) in rates.items()
        if members[kind]
    ]
    if not groups:
        raise ConfigError(
            "fit",
            expected="parameters to train",
            got="none that require a gradient",
            hint="Were they frozen with requires_grad_(False)?",
        )
    return groups


def require_state_of_weights(
    who: str, optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor], otherwise: str = ""
) -> None:
    """Refuse an optimiser whose state of a parameter is not of its single weights.

    Raises:
        ConfigError: If a tensor of its state, of more than one number, has another shape.
    """
    for tensor in tensors:
        for name, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != tensor.shape:
                raise ConfigError(
                    who,
                    expected="an optimizer whose state is of single weights",
                    got=f"a {type(optimizer).__name__} with {name!r} of shape "
                    f"{tuple(value.shape)} for a parameter of shape {tuple(tensor.shape)}",
                    hint=f"Adam and SGD have such a state{otherwise}.",
                )


def posterior_parameters(network: nn.Module) -> tuple[set[nn.Parameter], set[nn.Parameter]]:
    """Return the variational parameters of a network, and the posterior means of its weights."""
    owners = [m for m in network.modules() if isinstance(m, LatentOwner)]
    variational = {p for owner in owners for p in owner.variational_parameters()}
    return variational, {p for owner in owners for p in owner.mean_parameters()}


def _can_fuse(bnn: Program) -> bool:
    return all(
        parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
        for parameter in bnn.parameters()
    )
