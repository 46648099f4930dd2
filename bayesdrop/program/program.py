"""What a network and an auto-encoder have in common: a model, a guide, an objective."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeAlias, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.abstract import Abstract
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    LatentOwner,
    kl_divergence,
    named_dropout_layers,
    named_owners,
    named_shared,
    named_weight_layers,
    without_fused_kernels,
)
from bayesdrop.nn.arguments import check_num_data, is_real, is_whole
from bayesdrop.nn.mode import in_turn
from bayesdrop.program.explaining import explained
from bayesdrop.program.inputs import (
    GivenInputs,
    Inputs,
    SeveralInputs,
    as_inputs,
    empty_like,
    outputs_of,
    shape_text,
)
from bayesdrop.record import Record
from bayesdrop.typing import LossTerms, NumMasks, SharedBy

Pass: TypeAlias = Callable[[Inputs], Tensor]
"""A function from a batch of inputs to the network's outputs."""

_COUNTER = itertools.count()


class Program(Abstract, nn.Module):
    """Abstract probabilistic program: a network, a likelihood and the size of the data set.

    A subclass defines ``make_pair`` (Pyro's model and guide), ``loss`` (their objective in plain
    torch) and its ``data_term``, ``posterior_passes`` (what ``predict`` runs) and ``is_random``.

    Args:
        network: Maps inputs to what the likelihood takes; used, not copied.
        likelihood: What the output means.
        num_data: Number of training examples :math:`N`.
        kl_weight: Factor on all KL divergences, > 0.
        name: Prefix of the parameters in Pyro's parameter store; None takes a new one.

    Raises:
        ConfigError: If ``num_data`` or ``kl_weight`` is not positive.
    """

    has_local_latents: ClassVar[bool]
    """Whether an example has latents of its own, other than masks drawn from their prior."""
    takes_several: ClassVar[bool] = True
    """Whether the network may have several inputs."""
    frozen: frozenset[str] = frozenset()
    """Names of the modules of ``network`` that the last ``fit`` left in evaluation mode."""
    privacy: Record | None = None
    """What the last ``fit`` promises of its training data; None if it was not private."""
    feature_names: tuple[str, ...] | None = None
    """Names of the columns that the last ``fit`` saw, if it was given a table."""

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        num_data: int,
        *,
        kl_weight: float,
        name: str | None,
    ) -> None:
        super().__init__()
        if not isinstance(likelihood, Likelihood):
            raise ConfigError(
                type(self).__name__,
                expected="a likelihood object such as bd.Categorical()",
                got=repr(likelihood),
                hint="The order is network (or encoder, decoder), likelihood, num_data.",
            )
        if not isinstance(network, nn.Module):
            raise ConfigError(
                type(self).__name__,
                expected="a network that is a torch.nn.Module",
                got=f"the class {network.__name__}"
                if isinstance(network, type)
                else f"a {type(network).__name__}",
                hint="Pass the module itself, such as net or Net().",
            )
        check_num_data(type(self).__name__, num_data)
        without_fused_kernels(network)
        self.network = network
        self.likelihood = likelihood
        self.num_data = int(num_data)
        self.kl_weight = kl_weight
        self.input_shape: tuple[int, ...] | None = None
        self.input_dtype: torch.dtype | None = None
        self.several_inputs: SeveralInputs | None = None
        self._name = name
        self._automatic_name: tuple[int, str] | None = None
        self.named_owners()
        self._pyro_samples = [
            f"{path}.{name}" if path else name
            for path, module in network.named_modules()
            for name in getattr(module, "_pyro_samples", ())
        ]
        # In a tuple, so that they are no children: they hold this module as theirs.
        self._pair = self.make_pair()

    # -- what a program defines ----------------------------------------------------------------

    @abstractmethod
    def make_pair(self) -> tuple[nn.Module, nn.Module]:
        """Return the Pyro model and guide of this object."""

    @abstractmethod
    def loss(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> LossTerms:
        """Return minus the ELBO for the whole data set, in nats, as NLL and KL.

        Args:
            x: A batch of inputs, ``(B, ...)``; a tuple, or a mapping, of several.
            y: The batch's targets.
            num_masks: Masks of each example inside the logarithm, as far as the program knows.
        """

    @abstractmethod
    def data_term(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> Tensor:
        r"""Return what examples add to the loss in training mode: a sum over them, in nats.

        With the ``shared_divergence``, on which the data have no influence, it makes the loss:
        ``data_term(x, y) * N / B + shared_divergence()`` in expectation.

        Args:
            x: A batch of inputs, ``(B, ...)``.
            y: The batch's targets.
            num_masks: As for ``loss``.
        """

    def shared_divergence(self) -> Tensor:
        """Return the divergences of what all examples share, times ``kl_weight``, in nats."""
        return self.kl_weight * kl_divergence(self.network)

    @property
    @abstractmethod
    def is_random(self) -> bool:
        """Whether prediction has anything to sample."""

    @abstractmethod
    def posterior_passes(self, num_samples: int, *, shared_by: SharedBy) -> list[Pass]:
        """Return passes through the network, each under its own draw from the posterior.

        What is global is drawn now, so that batches of any size meet the same draw.

        Args:
            num_samples: Number of draws; where nothing is random there is one pass.
            shared_by: ``"batch"``: one mask serves all inputs, where it does not depend on them.
                ``"example"``: each has its own.
        """

    # -- what follows from it ------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The Pyro model, called as ``model(x, y=None)``; an ``nn.Module`` with all parameters."""
        return self._pair[0]

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide, called as ``guide(x, y=None)``; an ``nn.Module`` with all parameters."""
        return self._pair[1]

    @property
    def kl_weight(self) -> float:
        """Factor on all KL divergences; 1 is the ELBO."""
        return self._kl_weight

    @kl_weight.setter
    def kl_weight(self, value: float) -> None:
        if not is_real(value) or not 0.0 < value < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="a finite kl_weight > 0",
                got=f"kl_weight={value!r}",
                hint="For a warm-up start from a small number, such as 1 / num_epochs.",
            )
        self._kl_weight = float(value)

    @property
    def store_name(self) -> str:
        """Prefix of this object's parameters in Pyro's parameter store; a copy gets its own."""
        if self._name is not None:
            return self._name
        if self._automatic_name is None or self._automatic_name[0] != id(self):
            self._automatic_name = (id(self), f"bayesdrop{next(_COUNTER)}")
        return self._automatic_name[1]

    @property
    def owns_store_name(self) -> bool:
        """Whether the prefix was chosen automatically, so that no other object can have it."""
        return self._name is None

    def named_dropout_layers(self) -> list[tuple[str, BayesianDropout]]:
        """Return the name within ``network`` and the module of every dropout layer."""
        return list(named_dropout_layers(self.network))

    def named_weight_layers(self) -> list[tuple[str, BayesianWeights]]:
        """Return the name within ``network`` and the module of every layer of random weights."""
        return list(named_weight_layers(self.network))

    def named_owners(self) -> list[tuple[str, LatentOwner]]:
        """Return the owners of all global sites: what layers share, each once, then all others.

        Each is told its name here, since layers may have been added, or named by another network.
        """
        owners = list(named_owners(self.network))
        for path, owner in owners:
            owner.path = path
        return owners

    @override
    @in_turn
    def train(self, mode: bool = True) -> Self:
        """Set the mode of every module, as in torch; not while another thread evaluates."""
        return super().train(mode)

    @in_turn
    def forward(self, *args: Any, **kwargs: Tensor) -> Tensor:
        """Run the network in plain torch; its mode decides between sampled and mean latents.

        Args:
            *args: A batch of inputs; or several, as the network takes them or in a tuple.
            **kwargs: Those that the network takes by name.
        """
        who = type(self).__name__
        several = len(args) != 1 or kwargs
        x = as_inputs(who, SeveralInputs(*args, **kwargs) if several else args[0])
        self.remember(x)
        if torch.compiler.is_compiling():
            return outputs_of(self.network, x)
        with explained(who, self.network, x):
            return outputs_of(self.network, x)

    def remember(self, x: Inputs) -> None:
        """Remember the shapes and dtypes of an example, from which networks are traced."""
        if isinstance(x, Tensor):
            shape, dtype = tuple(x.shape[1:]), x.dtype
            # An attribute of a module takes longer to set than to read; what is compiled must not
            # depend on which one it is.
            if (
                torch.compiler.is_compiling()
                or self.several_inputs is not None
                or (shape, dtype) != (self.input_shape, self.input_dtype)
            ):
                self.input_shape, self.input_dtype, self.several_inputs = shape, dtype, None
        elif not self.takes_several:
            raise ConfigError(
                type(self).__name__,
                expected="one tensor",
                got=repr(x),
                hint="Put the inputs side by side.",
            )
        else:
            self.input_shape = self.input_dtype = None
            self.several_inputs = cast(SeveralInputs, empty_like(x))

    def inputs_seen(self) -> Inputs | None:
        """Return no examples of the last inputs' shapes and dtypes; None if it has seen none."""
        if self.several_inputs is not None or self.input_shape is None:
            return self.several_inputs
        return torch.empty((0, *self.input_shape), dtype=self.input_dtype)

    def kept(self) -> dict[str, list[int]]:
        """Return how many units, and how many weights, each layer keeps.

        Returns:
            ``unit_word`` of the layers to a number for each, in network order, such as
            ``{"units": [120, 45]}``.
        """
        return self._count(lambda owner: int(owner.kept().sum()))

    def total(self) -> dict[str, list[int]]:
        """Return how many units, and how many weights, each layer has, in the form of ``kept``."""
        return self._count(lambda owner: owner.total())

    def _count(self, number: Callable[[LatentOwner], int]) -> dict[str, list[int]]:
        counts: dict[str, list[int]] = {}
        shared = {owner for _, owner in named_shared(self.network)}
        for _, owner in self.named_owners():
            if owner not in shared:
                counts.setdefault(owner.unit_word, []).append(number(owner))
        return counts

    def units(self) -> list[int]:
        """Return the number of units that each dropout layer keeps: ``kept()["units"]``."""
        return self.kept().get("units", [])

    def units_total(self) -> list[int]:
        """Return the number of units of each dropout layer: ``total()["units"]``."""
        return self.total().get("units", [])

    def check_batch(self, x: GivenInputs, y: Tensor | None = None) -> Inputs:
        """Return the inputs, or raise ``DataError`` if there are none, or more than in the data.

        Held-out data, without a gradient or in evaluation mode, may have any number of rows.
        Remembers the shape of an example and its dtype, from which ``compact`` traces.
        """
        x = as_inputs(type(self).__name__, x)
        if (isinstance(x, Tensor) and x.ndim == 0) or len(x) == 0:
            raise DataError(
                type(self).__name__,
                expected="a batch with at least one example",
                got=shape_text(x),
                hint="Is the data set empty?",
            )
        trains = self.network.training and torch.is_grad_enabled()
        if trains and y is not None and len(x) > self.num_data:
            raise DataError(
                type(self).__name__,
                expected=f"a batch of at most num_data={self.num_data} examples",
                got=f"{len(x)} examples",
                hint="num_data is the size of the training set, not of a batch. For the ELBO of "
                "held-out data call bnn.eval() first.",
            )
        self.remember(x)
        return x

    def check_plain_torch(self, who: str) -> None:
        """Raise ``ConfigError`` if the network has latents that only its Pyro programs know.

        Args:
            who: What is about to run it in plain torch.
        """
        if self._pyro_samples:
            raise ConfigError(
                who,
                expected="a network whose random weights are those of Bayesian layers",
                got=f"the PyroSample {self._pyro_samples[0]!r}, which has no posterior here",
                hint="Train with SVI(bnn.model, guide, ...) and predict with Pyro's Predictive, "
                "under a guide that has it.",
            )

    def check_num_masks(self, num_masks: NumMasks) -> None:
        """Raise ``ConfigError`` unless examples can have this many masks in this program."""
        if num_masks != "exact" and not (is_whole(num_masks) and int(num_masks) >= 1):
            raise ConfigError(
                type(self).__name__,
                expected="num_masks >= 1 or 'exact'",
                got=f"num_masks={num_masks!r}",
                hint="1 is the ELBO of one mask an example; 4 to 16 come near the posterior.",
            )
        if num_masks == 1:
            return
        if self.has_local_latents:
            raise ConfigError(
                type(self).__name__,
                expected="num_masks=1, since an example has latents of its own",
                got=f"num_masks={num_masks!r}",
                hint="For several importance samples pass fit "
                "objective=bd.inference.objectives.ImportanceWeighted(8).",
            )
        for path, layer in self.named_weight_layers():
            if not layer.draws_as_model:
                raise ConfigError(
                    f"num_masks={num_masks!r}",
                    expected="random weights that are drawn once for all examples",
                    got=f"noise={layer.noise!r}, shared_by={layer.shared_by!r} in {path!r}",
                    hint="Weights are global: averaged inside an example's logarithm they give "
                    "no bound. Pass noise='weights', shared_by='batch' to the layer.",
                )

    def extra_repr(self) -> str:
        """Show the size of the data set."""
        return f"num_data={self.num_data}"
