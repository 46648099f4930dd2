"""A Bayesian network's Pyro model and guide."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.ops.provenance import detach_provenance
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.abstract import Abstract
from bayesdrop.distributions import Mixture
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn import LatentOwner, MaskSum, ModelPass, prior_among, repeat_rows
from bayesdrop.nn.mode import in_turn
from bayesdrop.program.checks import require_output
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import finite_rows
from bayesdrop.program.inputs import GivenInputs, Inputs, each_input, outputs_of
from bayesdrop.program.model_use import ModelUse
from bayesdrop.program.network_sites import NetworkSites
from bayesdrop.program.program import Program
from bayesdrop.typing import Latents, NumMasks

_REAL = torch.distributions.constraints.real


class PyroFunction(Abstract, nn.Module):
    """Abstract model or guide of a program: checks batches, registers parameters."""

    def __init__(self, bnn: Program) -> None:
        super().__init__()
        self.bnn = bnn

    def _parameter_scope(self) -> AbstractContextManager[object]:
        # What PyroModule does under this setting. PyroModule itself would also register every
        # parameter under this attribute's name, the same for all networks of a process.
        if not pyro.settings.get("module_local_params"):
            return nullcontext()
        return pyro.get_param_store().scope({"params": {}, "constraints": {}})

    @override
    @in_turn
    def forward(
        self, x: GivenInputs, y: Tensor | None = None, *, num_masks: NumMasks = 1
    ) -> Tensor | None:
        self.bnn.check_num_masks(num_masks)
        x = self.bnn.check_batch(x, y)
        with self._parameter_scope():
            self._register_parameters()
            # They are registered now: a PyroModule in the network would add each once more.
            finite = finite_rows(type(self.bnn).__name__, x, y)
            with poutine.block(hide_types=["param"]), finite:
                return self._run(x, y, num_masks)

    @abstractmethod
    def _run(self, x: Inputs, y: Tensor | None, num_masks: NumMasks) -> Tensor | None:
        """Run the program's sample statements."""

    def _register_parameters(self) -> None:
        store, prefix = pyro.get_param_store(), self.bnn.store_name
        for name, parameter in self.bnn.named_parameters():
            if not parameter.requires_grad:
                continue
            key = f"{prefix}.{name}"
            if self.bnn.owns_store_name and key in store and _is_foreign(key, parameter):
                raise ConfigError(
                    "BayesianNetwork",
                    expected=f"what this network has put under {key!r} in the parameter store",
                    got="something else, as after get_param_store().load(...)",
                    hint="Weights are kept by bd.save and bd.load, or by state_dict. Of other "
                    "networks? pyro.clear_param_store() forgets them.",
                )
            if key not in store or (
                store.param_name(parameter) is None
                if store[key] is parameter
                else self.bnn.owns_store_name
            ):
                # Not left to pyro.param, which would store, and train, a contiguous copy of a
                # channels_last parameter.
                store.set_state({"params": {key: parameter}, "constraints": {key: _REAL}})
                if self.bnn.owns_store_name:
                    self._forget_later(key, parameter)
            value = pyro.param(key, parameter)
            if store[key] is not parameter:
                raise ConfigError(
                    "BayesianNetwork",
                    expected=f"its own parameter under {key!r} in the parameter store",
                    got="that of another network, so that this one would not be trained",
                    hint="Give each network its own name, or call pyro.clear_param_store().",
                )
            if detach_provenance(value) is not parameter:
                raise ConfigError(
                    "BayesianNetwork",
                    expected=f"the value of {key!r} to be the network's parameter",
                    got="another one, from a handler such as poutine.lift or substitute",
                    hint="The network would run with its own. Make it random with a "
                    "pyro.nn.PyroSample, or load the values into it.",
                )

    def _forget_later(self, key: str, parameter: nn.Parameter) -> None:
        # A name that nobody gave is of no use without its network.
        if self not in _STORED:
            _STORED[self] = {}
            weakref.finalize(self, _forget, _STORED[self]).atexit = False
        _STORED[self][key] = id(parameter)

    def _data_plate(self, x: Inputs, y: Tensor | None) -> pyro.plate:
        # The rows of x are the subsample; naming them saves drawing a permutation of all data.
        rows = torch.arange(len(x), device=x.device)
        size = len(x) if y is None else self.bnn.num_data
        return pyro.plate("data", size, subsample=rows, dim=-1)


# Model or guide to what it has put into the store: key and identity of each parameter.
_STORED: weakref.WeakKeyDictionary[PyroFunction, dict[str, int]] = weakref.WeakKeyDictionary()


def _is_foreign(key: str, parameter: nn.Parameter) -> bool:
    """Return whether the store has a value of a name that nobody gave, and no network put it."""
    value = pyro.get_param_store()[key]
    return value is not parameter and all(
        stored.get(key) != id(value) for stored in _STORED.values()
    )


def _forget(stored: dict[str, int]) -> None:
    store = pyro.get_param_store()
    for key, identity in stored.items():
        if key in store and id(store[key]) == identity:
            # The store knows a parameter of several networks by the last one's name, without
            # which it cannot let go of it; whoever has it registers it again.
            store.set_state({"params": {key: store[key]}, "constraints": {}})
            del store[key]


class Guide(PyroFunction):
    """The global latents' posteriors."""

    @override
    def _run(self, x: Inputs, y: Tensor | None, num_masks: NumMasks) -> None:
        for path, owner in self.bnn.named_owners():
            with poutine.scale(scale=owner.kl_scale * self.bnn.kl_weight):
                for name, fn in owner.posterior().items():
                    pyro.sample(f"{path}.{name}", fn)
        with self._data_plate(x, y):
            constant = Delta(torch.zeros((), device=x.device)).mask(False)
            pyro.sample("data.plate", constant, infer={"is_auxiliary": True})


class Model(PyroFunction):
    """The global latents' priors, the masks given them, and the observations.

    With several masks of an example its observation is a mixture of what they say.
    """

    def __init__(self, bnn: Program) -> None:
        super().__init__(bnn)
        self._use = ModelUse()

    @override
    def _run(self, x: Inputs, y: Tensor | None, num_masks: NumMasks) -> Tensor:
        latents: dict[LatentOwner, Latents] = {}
        batch_shapes: list[torch.Size] = []
        for path, owner in self.bnn.named_owners():
            prior = prior_among(owner, latents)
            values: dict[str, Tensor] = {}
            with poutine.scale(scale=owner.kl_scale * self.bnn.kl_weight):
                for name, fn in prior.items():
                    value = pyro.sample(f"{path}.{name}", fn)
                    values[name] = value
                    batch_shapes.append(_global_batch(f"{path}.{name}", value, fn.event_dim))
                latents[owner] = values
                penalty = None if y is None else owner.penalty()
                if penalty is not None:
                    pyro.factor(f"{path}.penalty", -penalty)
        particles = particle_shape(batch_shapes)
        rows = len(x)
        if particles:
            x = each_input(lambda t: t.expand(particles + t.shape).reshape(-1, *t.shape[1:]), x)
        mask_sum = MaskSum(self.bnn.network) if num_masks == "exact" else None
        masks = int(num_masks) if mask_sum is None else len(mask_sum)
        plate = self._data_plate(x[:rows], y)
        context = ModelPass(latents, particles, rows, masks, mask_sum, plate)
        rows_run = each_input(lambda t: repeat_rows(t, masks), x)
        explain = explained("BayesianNetwork.model", self.bnn.network, rows_run)
        with context, NetworkSites(particles), explain:
            output = outputs_of(self.bnn.network, rows_run)
        output = require_output("BayesianNetwork.model", output, len(rows_run))
        self._use.check(context, y)
        target = None if y is None else self.bnn.likelihood.target(output[:rows], y)
        batch_shape = particles + ((rows,) if masks == 1 else (rows, masks))
        output = output.reshape(batch_shape + output.shape[1:])
        with finite_rows("BayesianNetwork.model", x[:rows], y, output):
            fn = self.bnn.likelihood.distribution(output, batch_ndim=len(batch_shape))
        if masks > 1:
            fn = Mixture(fn, None if mask_sum is None else mask_sum.log_weights)
        with plate:
            pyro.sample("obs", fn, obs=target)
            for layer, divergence in context.divergences.items() if y is not None else ():
                by_example = divergence.reshape(particles + (rows, masks)).sum(-1)
                pyro.factor(f"{layer.path}.divergence", -self.bnn.kl_weight * by_example)
        return output


def _global_batch(site: str, value: Tensor, event_dim: int) -> torch.Size:
    """Return a global latent's batch shape, whose last dimension is the data plate's: one wide.

    Raises:
        ShapeError: If values lie along the examples, each of which would meet another one.
    """
    batch = value.shape[: value.ndim - event_dim]
    if batch and batch[-1] != 1:
        raise ShapeError(
            "BayesianNetwork.model",
            expected=f"one value of {site!r} for all examples",
            got=f"shape {tuple(value.shape)}",
            hint="Samples for Predictive(parallel=True) are (S, 1, ...): "
            "{name: value.unsqueeze(1) for name, value in samples.items()}. With a guide of "
            "Pyro's pass parallel=False.",
        )
    return batch


def particle_shape(batch_shapes: Iterable[torch.Size]) -> torch.Size:
    """Return the batch shape to the left of the data plate's dimension.

    It is not empty under ``vectorize_particles=True`` and ``Predictive(parallel=True)``. The
    network then sees particles x examples as one batch, so that any network works. Where no layer
    has latents, only the plates around the program tell.
    """
    shapes = list(batch_shapes)
    for plate in get_plates():
        if plate.dim is not None:
            shapes.append(torch.Size((plate.size, *[1] * (-plate.dim - 1))))
    batch_shape = torch.broadcast_shapes(*shapes) if shapes else torch.Size()
    return batch_shape[:-1]
