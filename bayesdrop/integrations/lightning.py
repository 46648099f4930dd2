"""A callback that trains the Bayesian layers of any LightningModule."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from bayesdrop.errors import BayesdropWarning, ConfigError, DataError
from bayesdrop.inference.batches import data_set_sizes
from bayesdrop.inference.pruning import prune_unused_units
from bayesdrop.inference.schedules import Schedule
from bayesdrop.integrations.kl_term import KLTerm
from bayesdrop.likelihoods import Categorical
from bayesdrop.nn import named_dropout_layers
from bayesdrop.program.network import BayesianNetwork

if TYPE_CHECKING:
    _Callback: Any = object
else:
    try:
        # Two packages have the same classes; a process that has imported one means that one.
        if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
            from pytorch_lightning import Callback as _Callback
        else:
            from lightning.pytorch import Callback as _Callback
    except ImportError as error:
        raise ImportError(
            "bayesdrop.integrations.lightning needs Lightning: pip install bayesdrop[lightning]."
        ) from error


class BayesianCallback(_Callback):
    """Adds to a Trainer what Bayesian layers need; the LightningModule stays as it is.

    ``training_step`` returns the mean negative log-likelihood of the batch's examples, in nats,
    such as a cross-entropy. To this loss the callback adds a ``KLTerm`` of all Bayesian layers in
    the module: once a step under accumulated gradients, once in all under DDP, and none in
    validation, where the layers take their mean masks. It sets schedules, calls the layers' hook
    after each step of the optimiser, and logs ``kl`` (nats per example), ``kl_weight`` and how
    many units, or weights, each layer keeps::

        trainer = L.Trainer(callbacks=[BayesianCallback(kl_weight=bd.schedules.warm_up(0.3))])
        trainer.fit(module, train_loader)

    Checkpoints hold the masks with the module's state; Lightning's do not hold the state of random
    number generators, so that a resumed run goes on with other masks.

    Args:
        num_data: Number of training examples, in all processes together; None is the length of the
            DataLoader's data.
        kl_weight: As for ``KLTerm``, like the following.
        buffers: Schedules of buffers.
        interval: What schedules count, whole numbers among their milestones included: the steps
            of the optimiser, or epochs.
        prune: Whether, at the end, units that no training example uses are pruned for good, where
            masks depend on the input (``bd.prune_unused_units``). The DataLoader then has to yield
            ``(x, y)`` or ``x``, and the module's ``forward`` to run the network. Other masks need
            no such step.
        log: Whether to log.

    Raises:
        ConfigError: When training starts: if the module has no Bayesian layers, steps by hand, is
            shared out over devices (FSDP, DeepSpeed) or has its posterior in bfloat16 or float16;
            if the size of the data or the length of the run is unknown; if a checkpoint is of a
            run with other ``num_data``. In the first step: if the loss has the KL divergence
            already, or layers that learn are in evaluation mode.

    Warns:
        BayesdropWarning: If ``num_data`` is not that of the data, or the optimizer decays what the
            KL holds already (see ``bd.inference.optimizers.parameter_groups``).
    """

    def __init__(
        self,
        num_data: int | None = None,
        *,
        kl_weight: float | Schedule = 1.0,
        buffers: Mapping[str, float | Schedule] | None = None,
        interval: Literal["step", "epoch"] = "step",
        prune: bool = False,
        log: bool = True,
    ) -> None:
        if interval not in ("step", "epoch"):
            raise ConfigError(
                "BayesianCallback",
                expected="interval to be 'step' or 'epoch'",
                got=f"interval={interval!r}",
                hint="It is what schedules count.",
            )
        self.num_data, self.kl_weight, self.buffers = num_data, kl_weight, buffers
        self.interval, self.prune, self.log_figures = interval, prune, log
        self._term: KLTerm | None = None
        self._length = 0
        self._hidden: Any = None
        self._earlier: int | None = None

    @property
    def term(self) -> KLTerm:
        """The term of the run.

        Raises:
            ConfigError: Before training has started.
        """
        if self._term is None:
            raise ConfigError(
                "BayesianCallback",
                expected="a run that has started",
                got="none",
                hint="Pass it to Trainer(callbacks=[...]) and call fit.",
            )
        return self._term

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the run, and add the term to the loss."""
        if not pl_module.automatic_optimization:
            raise ConfigError(
                "BayesianCallback",
                expected="a module with automatic optimization",
                got=f"{type(pl_module).__name__}, which steps by hand",
                hint="Add a bd.integrations.KLTerm to the loss in training_step.",
            )
        kind = type(trainer.strategy).__name__
        if kind.startswith(("FSDP", "DeepSpeed", "ModelParallel", "XLAFSDP")):
            raise ConfigError(
                "BayesianCallback",
                expected="one device, or several that each hold the module (DDP)",
                got=f"{kind}, which shares its parameters out",
                hint="The KL divergence needs whole ones.",
            )
        self._length = self._run_length(trainer)
        num_data = self._num_data(trainer.train_dataloader)
        if self._earlier not in (None, num_data):
            raise ConfigError(
                "BayesianCallback",
                expected=f"num_data={self._earlier}, as in the run of the checkpoint",
                got=f"num_data={num_data}",
                hint="Is it the same data? Else load the weights alone.",
            )
        self._term = KLTerm(pl_module, num_data, kl_weight=self.kl_weight, buffers=self.buffers)
        if self.prune:
            self._check_prunes(trainer, pl_module)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._term.attach(*trainer.optimizers, scaler=scaler)
        # What stands in the instance hides what its class defines.
        self._hidden = pl_module.__dict__.get("training_step")
        pl_module.training_step = _with_term(pl_module.training_step, self._term)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set what schedules say."""
        now = trainer.global_step if self.interval == "step" else trainer.current_epoch
        self.term.at(now, self._length)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the KL divergence's part of the loss."""
        if self.log_figures:
            pl_module.log("kl", self.term.last, on_step=False, on_epoch=True, sync_dist=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the KL's weight and what layers keep."""
        if self.log_figures:
            figures = self.term.figures()
            del figures["kl"]
            pl_module.log_dict(figures, sync_dist=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the module its own step back, and prune if asked to."""
        self._restore(pl_module)
        if self.prune:
            program = BayesianNetwork(pl_module, Categorical(), self.term.num_data)
            prune_unused_units(program, trainer.train_dataloader)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its own step back."""
        self._restore(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that resumes must have in common with this one."""
        return {} if self._term is None else {"num_data": self._term.num_data}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note it, to be compared when training starts."""
        self._earlier = state_dict.get("num_data")

    def _restore(self, pl_module: Any) -> None:
        if self._term is not None:
            self._term.detach()
        if hasattr(pl_module.__dict__.get("training_step"), "of_bayesdrop"):
            del pl_module.training_step
            if self._hidden is not None:
                pl_module.training_step = self._hidden

    def _run_length(self, trainer: Any) -> int:
        length = (
            trainer.estimated_stepping_batches if self.interval == "step" else trainer.max_epochs
        )
        # -1 and infinity: it runs for ever.
        if length is not None and 0 < length < float("inf"):
            return int(length)
        if self.buffers is None and not callable(self.kl_weight):
            return 1
        raise ConfigError(
            "BayesianCallback",
            expected="a run whose length schedules can be told",
            got=f"{length} {self.interval}s",
            hint="Pass max_epochs or max_steps to the Trainer.",
        )

    def _num_data(self, loader: Any) -> int:
        try:
            sizes = data_set_sizes(loader)
        except DataError:  # several loaders, or something of Lightning's own
            sizes = set()
        if self.num_data is None:
            if len(sizes) == 1:
                return sizes.pop()
            raise ConfigError(
                "BayesianCallback",
                expected="num_data, the number of training examples, which this loader does not "
                "tell",
                got=f"None and a {type(loader).__name__}",
                hint="Pass BayesianCallback(num_data=len(train_set)).",
            )
        if sizes and self.num_data not in sizes:
            warnings.warn(
                f"BayesianCallback: num_data={self.num_data}, but there are "
                f"{' or '.join(map(str, sorted(sizes)))} training examples, so the KL is weighted "
                "for another data set.",
                BayesdropWarning,
                stacklevel=2,
            )
        return self.num_data

    def _check_prunes(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size > 1:
            raise ConfigError(
                "BayesianCallback",
                expected="one process for prune=True",
                got=f"{trainer.world_size}, of which each sees its own examples only",
                hint="Call bd.prune_unused_units with all of them after training.",
            )
        if not any(layer.input_dependent for _, layer in named_dropout_layers(pl_module)):
            raise ConfigError(
                "BayesianCallback",
                expected="masks that depend on the input for prune=True",
                got="none",
                hint="Units of other masks are pruned already: bd.compact takes them out.",
            )


def _with_term(step: Any, term: KLTerm) -> Any:
    @functools.wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        with term:
            result = step(*args, **kwargs)
        if result is None:  # a batch that is skipped
            return None
        if isinstance(result, Mapping):
            return {**result, "loss": _sum(result.get("loss"), term)}
        return _sum(result, term)

    training_step.of_bayesdrop = True  # type: ignore[attr-defined]
    return training_step


def _sum(loss: Any, term: KLTerm) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(
            "BayesianCallback",
            expected="training_step to return the mean loss of a batch",
            got=f"a tensor of shape {tuple(loss.shape)}"
            if isinstance(loss, Tensor)
            else repr(loss),
            hint="It is a scalar, alone or as 'loss' of a dictionary.",
        )
    return loss + term()
