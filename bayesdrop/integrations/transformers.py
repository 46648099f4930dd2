"""Hugging Face's Trainer for models with Bayesian layers."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.inference.optimizers import posterior_parameters
from bayesdrop.inference.schedules import Schedule
from bayesdrop.integrations.kl_term import KLTerm
from bayesdrop.likelihoods import Categorical
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.network import BayesianNetwork

if TYPE_CHECKING:
    _Trainer: Any = object
    _TrainerCallback: Any = object
else:
    try:
        from transformers import Trainer as _Trainer
        from transformers import TrainerCallback as _TrainerCallback
    except ImportError as error:
        raise ImportError(
            "bayesdrop.integrations.transformers needs transformers and accelerate: "
            "pip install 'bayesdrop[transformers,accelerate]'."
        ) from error


class BayesianTrainer(_Trainer):
    """Hugging Face's ``Trainer`` with the KL divergence in the loss, and sampled predictions.

    The model is a converted one, ``bd.convert(model)``, whose own loss is a mean over examples; a
    ``KLTerm`` of its layers is added in training, once a step whatever
    ``gradient_accumulation_steps`` and the number of processes are. ``eval_loss`` is without it,
    and without ``label_smoothing_factor``: the negative log-likelihood under the mean masks, or,
    with ``num_samples``, of the average of sampled probabilities. Its logs have ``kl`` (nats per
    example), ``kl_weight`` and what each layer keeps.

    The optimiser that it makes has parameters of the posterior in a group of their own, without
    weight decay; schedules of the learning rate multiply that rate too.

    Args:
        model: A converted model.
        args: ``TrainingArguments``.
        num_data: Number of what the model's loss is a mean over: training examples, or tokens for
            a loss over tokens. None is the length of ``train_dataset``.
        kl_weight: As for ``KLTerm``; schedules count steps of the optimiser.
        buffers: The same.
        variational_learning_rate: Of parameters of the posterior; None is ``args.learning_rate``.
        num_samples: Samples of the posterior of which ``evaluate`` and ``predict`` average the
            probabilities, each with one mask for all examples (``args.seed`` seeds them). Their
            predictions are the logarithms of these averages, whose softmax (for several labels,
            sigmoid) they are; of a regression the mean. None takes the mean masks.
        **options: Whatever ``Trainer`` takes.

    Raises:
        ConfigError: If the model has no Bayesian layers, the number of examples is unknown, or
            that of tokens or pixels where the loss is a mean over them; if its posterior is in
            bfloat16 or float16; if several GPUs share one process (``DataParallel``; start with
            ``torchrun``) or one model (FSDP, DeepSpeed); with ``num_samples``, if the model does
            not classify or regress by one tensor of logits.
        CheckpointError: If a run resumes from a checkpoint that lacks parameters of the model.
    """

    label_smoother: Any
    loss_is_scaled_for_ga = False  # it is divided by the number of batches of a step

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        num_data: int | None = None,
        kl_weight: float | Schedule = 1.0,
        buffers: Mapping[str, float | Schedule] | None = None,
        variational_learning_rate: float | None = 1e-2,
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        if num_samples is not None and (not is_whole(num_samples) or num_samples < 1):
            raise ConfigError(
                "BayesianTrainer",
                expected="num_samples >= 1, or None for the mean masks",
                got=f"num_samples={num_samples!r}",
                hint="16 to 64 are usual.",
            )
        super().__init__(model, args, **options)
        if self.args.n_gpu > 1:
            raise ConfigError(
                "BayesianTrainer",
                expected="one GPU a process",
                got=f"{self.args.n_gpu} in this one",
                hint="Start it with torchrun, or set CUDA_VISIBLE_DEVICES.",
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ConfigError(
                "BayesianTrainer",
                expected="one device, or several that each hold the model (DDP)",
                got="FSDP or DeepSpeed, which share its parameters out",
                hint="The KL divergence needs whole ones.",
            )
        self.variational_learning_rate = variational_learning_rate
        self.num_samples = num_samples
        self.num_data = num_data
        self._schedules: dict[str, Any] = {"kl_weight": kl_weight, "buffers": buffers}
        self.term: KLTerm | None = None
        if self._size() is not None:
            self.require_term()
        self._passes: list[Any] = []
        self.add_callback(_Steps(self))

    @override
    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if not model.training:
            # Smoothed labels are for training: what is evaluated is a likelihood.
            smoother, self.label_smoother = self.label_smoother, None
            try:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            finally:
                self.label_smoother = smoother
        term = self.require_term()
        labels = inputs.get("labels")
        with term:
            # Without the number of items, the loss is the batch's mean. (Told of it, some models
            # divide by it and others do not, and gradients of the latter grow with the batches.)
            loss, outputs = super().compute_loss(model, inputs, True, None)
        if self.num_data is None:
            _check_counts_examples(outputs, labels)
        loss = loss + term()
        return (loss, outputs) if return_outputs else loss

    def require_term(self) -> KLTerm:
        """Return the term of the loss.

        Raises:
            ConfigError: If the number of examples is unknown.
        """
        if self.term is None or self.term.network is not self.model:  # model_init makes new ones
            size = self._size()
            if size is None:
                raise ConfigError(
                    "BayesianTrainer",
                    expected="num_data, the number of training examples",
                    got="a train_dataset without a length",
                    hint="Pass BayesianTrainer(..., num_data=...).",
                )
            self.term = KLTerm(self.model, size, **self._schedules)
        return self.term

    def _size(self) -> int | None:
        try:
            return len(cast(Sized, self.train_dataset)) if self.num_data is None else self.num_data
        except TypeError:
            return None

    @override
    def create_optimizer(self, model: Any = None) -> Any:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            _regroup(optimizer, self.model, self.variational_learning_rate)
        return optimizer

    @override
    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A Trainer warns, and goes on with weights that are new.
        ignored = set(self.model._keys_to_ignore_on_save or ())
        missing = [name for name in load_result.missing_keys if name not in ignored]
        if missing:
            raise CheckpointError(
                "BayesianTrainer",
                expected="a checkpoint with all of this model's parameters",
                got=f"one without {missing[0]!r} ({len(missing)} are missing)",
                hint="Was it converted in another way? Of some models (ViT in transformers 5.24) "
                "checkpoints have other names than the model, and no Trainer can resume them.",
            )
        super()._issue_warnings_after_load(load_result)

    @override
    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.term is not None:
            logs = {**logs, **self.term.figures()}
        super().log(logs, *args, **kwargs)

    @override
    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        if self.num_samples is None:
            return super().evaluation_loop(*args, **kwargs)
        _loss_for(self.model)  # which says what cannot be averaged
        program = BayesianNetwork(self.model, Categorical(), num_data=1).eval()  # exact masks
        with seeded(self.args.seed):
            self._passes = program.posterior_passes(self.num_samples, shared_by="batch")
            try:
                return super().evaluation_loop(*args, **kwargs)
            finally:
                self._passes = []

    @override
    def prediction_step(
        self,
        model: Any,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        if not self._passes:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows = next(value for value in inputs.values() if isinstance(value, Tensor))
        step = super().prediction_step
        logits: list[Tensor] = []
        labels = None
        for sampled in self._passes:
            _, found, labels = sampled.within(
                lambda _: step(model, dict(inputs), False, ignore_keys), rows
            )
            if not isinstance(found, Tensor):
                raise ConfigError(
                    "BayesianTrainer",
                    expected="a model whose outputs are a loss and one tensor of logits",
                    got=f"{len(found)} outputs" if isinstance(found, tuple) else repr(found),
                    hint="Name the others in ignore_keys, or take num_samples=None.",
                )
            logits.append(found)
        average, loss_of = _loss_for(self.model)
        mean = average(torch.stack(logits).double()).to(logits[0].dtype)
        loss = None if labels is None else loss_of(mean, labels)
        return (loss, None, None) if prediction_loss_only else (loss, mean, labels)


class _Steps(_TrainerCallback):
    """Sets schedules before a step, and lets layers make theirs after it."""

    def __init__(self, trainer: BayesianTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        self.trainer.require_term().attach(kwargs["optimizer"], scaler=scaler)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.require_term().at(state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.require_term().detach()


def _check_counts_examples(outputs: Any, labels: Any) -> None:
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs[1]
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        return
    if labels.ndim > 1 and logits.ndim == labels.ndim + 1:
        raise ConfigError(
            "BayesianTrainer",
            expected="num_data, the number of all labels of the training set, since the model's "
            "loss is a mean over them",
            got=f"None and labels of shape {tuple(labels.shape)}",
            hint="Count the tokens, or pixels, whose label is not -100. The number of examples "
            "would weigh the KL divergence by as much too high as an example has labels.",
        )


def _regroup(optimizer: Any, model: Any, rate: float | None) -> None:
    """Put parameters of the posterior into groups of their own."""
    variational, means = posterior_parameters(model)
    moved: dict[str, list[Any]] = {"variational": [], "means": []}
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            if parameter in variational:
                moved["variational"].append(parameter)
            elif parameter in means:
                moved["means"].append(parameter)
            else:
                kept.append(parameter)
        group["params"] = kept
    first = optimizer.param_groups[0]
    rates = {"variational": first["lr"] if rate is None else rate, "means": first["lr"]}
    for kind, parameters in moved.items():
        if parameters:
            optimizer.add_param_group(
                {"params": parameters, "lr": rates[kind], "weight_decay": 0.0}
            )


def _loss_for(model: Any) -> Any:
    """Return how samples' logits are averaged, and the loss of what comes of it.

    Raises:
        ConfigError: If the model does not classify or regress.
    """
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    name = type(model).__name__
    if problem == "regression" or (problem is None and getattr(config, "num_labels", 0) == 1):
        return lambda x: x.mean(0), lambda x, y: F.mse_loss(x.reshape(y.shape), y.to(x.dtype))
    if problem == "multi_label_classification":
        return _mean_log_odds, lambda x, y: F.binary_cross_entropy_with_logits(x, y.to(x.dtype))
    if not name.endswith("Classification"):
        raise ConfigError(
            "BayesianTrainer",
            expected="a model that classifies, or regresses, to average samples of",
            got=f"a {name}",
            hint="Take num_samples=None, or bd.predict of a module that returns its logits.",
        )
    return _mean_log_probs, lambda x, y: F.cross_entropy(x.flatten(0, -2), y.flatten())


def _mean_log_probs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()


def _mean_log_odds(logits: Tensor) -> Tensor:
    yes, no = (F.logsigmoid(sign * logits).logsumexp(0) for sign in (1, -1))
    return yes - no
