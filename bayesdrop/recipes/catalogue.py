"""The recipes that come with the package: one table, of networks and of schedules.

A recipe's name is that of its network and the key of its dropout, with a word behind it where a
network has several. How each number was chosen, and what was tried beside it, stands in
``benchmarks/choices.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bayesdrop.recipes.methods import (
    BB,
    GAUSSIAN,
    GENERALIZED,
    HIBP,
    HORSESHOE,
    IBP,
    JEFFREYS,
    L0,
    METHODS,
    NPN,
    SBP,
    SSL,
    SVD,
    TARGETED,
    VND,
)
from bayesdrop.recipes.recipe import Recipe, Stage, register


@dataclass(frozen=True)
class _Network:
    """A network, and what its recipes have in common.

    Args:
        name: Beginning of its recipes' names.
        title: Of their summaries.
        data: Default data set.
        network: Name of a constructor.
        plain: Stage without dropout.
        sparse: Stage that beta-Bernoulli dropout is trained in.
        rate: Of the ``nn.Dropout`` that pretraining has.
        augment: Whether training images are cropped and flipped.
    """

    name: str
    title: str
    data: str
    network: str
    plain: Stage
    sparse: Stage
    rate: float = 0.0
    augment: bool = False

    def add(
        self,
        method: str,
        *stages: Stage,
        options: Mapping[str, Any] | None = None,
        dependent: Mapping[str, Any] | None = None,
        dependent_epochs: int = 20,
    ) -> None:
        """Register the recipe of a method: by default pretraining, then ``sparse``.

        Args:
            method: Key of ``METHODS``.
            *stages: What is trained.
            options: Of ``convert``, beside the method's.
            dependent: Options of masks that look at the input, which have a stage more.
            dependent_epochs: Its epochs.
        """
        what = METHODS[method]
        stages = stages or (self.plain, self.sparse)
        if dependent is not None:
            stages += (replace(_DEPENDENT, epochs=dependent_epochs),)
        # Pretraining has the network's own rate; where nothing is pretrained, the method says.
        rate = self.rate if len(stages) > 1 and what.dropout != SVD else what.rate
        register(
            Recipe(
                f"{self.name}-{method}" if method else self.name,
                f"{self.title}, {what.words}",
                self.data,
                self.network,
                stages,
                network_options={"dropout": rate} if rate else {},
                dropout=what.dropout,
                dropout_options={**(what.options or {}), **(options or {})},
                dependent_options={"gate_mean": "naive", **dependent} if dependent else {},
                augment=self.augment,
            )
        )

    def add_baselines(self) -> None:
        """Register the network without dropout and with nn.Dropout, for as many epochs."""
        epochs = self.plain.epochs + self.sparse.epochs
        for method in ("", "dropout"):
            self.add(method, replace(self.plain, epochs=epochs))

    def prune(self, key: str, epochs: int, rate: float) -> None:
        """Register structured Bayesian pruning, or hard-concrete gates."""
        stage = replace(
            self.sparse,
            name=key,
            epochs=epochs,
            variational_learning_rate=rate,
            milestones=(0.75, 0.9),
        )
        self.add(key, self.plain, stage)

    def harden(self, epochs: int, rate: float, options: Mapping[str, Any]) -> None:
        """Register neural plasticity: dense, plastic and hard, the slope constant in each.

        Args:
            epochs: Of the plastic stage; the last one has a quarter of them.
            rate: Learning rate of the gates.
            options: Of ``convert``.
        """
        plastic = replace(
            self.sparse,
            name="plastic",
            epochs=epochs,
            variational_learning_rate=rate,
            milestones=(0.9,),
            kl_warm_up=0.0,
            weight_decay=0.0,
            objective="disarm",
            buffers={"slope": 7.0},
        )
        hard = replace(
            plastic,
            name="hard",
            epochs=epochs // 4,
            milestones=(0.5,),
            objective="reinforce-one-pass",
            buffers={"slope": 5000.0},
        )
        self.add(NPN, self.plain, plastic, hard, options=options)

    def compress(self, stage: Stage, options: Mapping[str, Any]) -> None:
        """Register Gaussian weights, alone and within scales of units.

        Args:
            stage: What follows pretraining.
            options: Of ``convert``, for scales and weights.
        """
        stages = self.plain, replace(stage, name="compressed")
        self.add(GAUSSIAN, *stages, options=options)
        within = {"weights": {"dropout": GAUSSIAN, **options, **_WITHIN}}
        for method in (JEFFREYS, HORSESHOE):
            self.add(method, *stages, options={**options, **within})

    def penalise(self, epochs: int, options: Mapping[str, Any]) -> None:
        """Register the group lasso, which has a stage of so many epochs."""
        stage = replace(self.sparse, name=SSL, epochs=epochs, milestones=(0.75, 0.9))
        self.add(SSL, self.plain, replace(stage, kl_warm_up=0.0), options=options)

    def target(self, epochs: int, units: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        """Register targeted dropout, of units and of weights: one stage from scratch.

        Args:
            epochs: As many as both stages of the other recipes have, or fewer.
            units: What of ``convert`` says which units, beside those that are not inputs.
            weights: The same of the layers whose weights may be dropped.
        """
        for method, where in (
            (TARGETED, {"input_dropout": False, **units}),
            (f"{TARGETED}-dropconnect", weights),
        ):
            self.add(method, Stage(method, epochs, dropout=True), options=where)

    def sample(self, epochs: int, hidden: Mapping[str, Any], length_scale: float) -> None:
        """Register fixed noise, StandOut, concrete and contextual dropout: one stage from scratch.

        Args:
            epochs: As many as both stages of the other recipes have, or fewer.
            hidden: What of ``convert`` restricts noise on weights to hidden Linear layers.
            length_scale: Of concrete dropout's prior on the weights, about sqrt(1e-4 N).
        """
        noise = {"dropout": "gaussian-dropconnect", **hidden, "drop_prob": 0.5}
        for method, options in (
            ("mc-dropout", {}),
            ("gaussian", {}),
            ("dropconnect", hidden),
            ("gaussian-dropconnect", hidden),
            ("spike-and-slab", {"weights": noise}),
            ("standout", {}),
        ):
            stage = Stage(str(METHODS[method].dropout), epochs, dropout=True)
            self.add(method, stage, options=options)
        stage = Stage(
            "concrete", epochs, dropout=True, variational_learning_rate=1e-2, weight_decay=0.0
        )
        self.add("concrete", stage, options={"length_scale": length_scale})
        stage = Stage("contextual", epochs, dropout=True, variational_learning_rate=1e-3)
        self.add("contextual", stage)

    def nest(
        self, kl_scale: float, num_groups: int, options: Mapping[str, Any], **stage: Any
    ) -> None:
        """Register nested dropout, fixed and variational: one network of every width.

        Args:
            kl_scale: How much more the KL of an order counts, ten times as much where it is paid
                once for all layers.
            num_groups: Groups of units where layers share a width.
            options: Of ``convert``.
            **stage: Fields of the one stage.
        """
        scales = {VND: kl_scale, f"{VND}-shared": 10.0 * kl_scale}
        scales[f"{VND}-stratified"] = 10.0 * kl_scale
        for method in METHODS:
            if not method.startswith(("nested-", VND)):
                continue
            more: dict[str, Any] = {"kl_scale": scales[method]} if method in scales else {}
            if (METHODS[method].options or {}).get("share_widths"):
                more["num_groups"] = num_groups
            self.add(
                method,
                Stage(
                    str(METHODS[method].dropout),
                    dropout=True,
                    variational_learning_rate=1e-2,
                    **stage,
                ),
                options={"input_dropout": False, **options, **more},
            )


def _scales(**layers: float) -> dict[str, Any]:
    return {"overrides": {name: {"kl_scale": scale} for name, scale in layers.items()}}


def _costs(**layers: float) -> dict[str, Any]:
    return {"overrides": {name: {"cost_per_norm": cost} for name, cost in layers.items()}}


# The published protocol (Adam, weight decay 1e-4, batches of 100, from pretrained weights) with
# ten times its learning rate for the posteriors and fewer epochs.
_PLAIN = Stage("plain", 20, milestones=(0.5, 0.8))
_SPARSE = Stage(BB, 60, dropout=True, variational_learning_rate=0.1, milestones=(0.8, 0.93))
_DEPENDENT = Stage(
    "dependent",
    20,
    dropout=True,
    dependent=True,
    learning_rate=3e-4,
    variational_learning_rate=0.01,
)
_GATES = {"init_shift": 4.0, "init_slope": 10.0, "init_shift_scale": 0.1, "kl_scale": 0.06}
_CONV_GATES = {**_GATES, "overrides": {"conv*": {"init_slope": 5.0}}}
_WEIGHTS = Stage(
    "sparse",
    60,
    dropout=True,
    learning_rate=1e-3,
    variational_learning_rate=1e-2,
    weight_decay=0.0,
    milestones=(0.75, 0.92),
    kl_warm_up=0.2,
)
_THRESHOLD = {"threshold": 0.01}
# Trained weights are about so large: scales of 1 over such weights need not move first.
_WITHIN = {"prior_scale": 0.05, "init_log_variance": -15.0}
_COMPRESSED = replace(_WEIGHTS, epochs=40, milestones=(0.8, 0.93))

# -- LeNet-500-300 and LeNet-300-100 -------------------------------------------------------------

_lenet_300 = _Network(
    "lenet-500-300",
    "LeNet-500-300",
    "mnist",
    "lenet-500-300",
    _PLAIN,
    replace(_SPARSE, epochs=105, milestones=(0.68, 0.86)),
    rate=0.5,
)
_options = {**_scales(fc1=1.6, fc2=1.6, fc3=1.68), **_THRESHOLD}
_lenet_300.add_baselines()
_lenet_300.add(BB, options=_options)
_lenet_300.add(f"dependent-{BB}", options=_options, dependent=_GATES)
for _method in (f"{IBP}-5", f"{IBP}-20", f"{IBP}-50", HIBP):
    _lenet_300.add(_method, _PLAIN, replace(_SPARSE, epochs=45, milestones=(0.75, 0.9)))
for _key in (SBP, L0):
    _lenet_300.prune(_key, 45, 1e-2)
for _key in GENERALIZED:
    _lenet_300.prune(_key, 45, 1e-2)
_lenet_300.harden(40, 3e-3, {})
_lenet_300.penalise(45, _costs(fc1=10.0, fc2=20.0, fc3=40.0))
_lenet_300.target(60, {}, {"exclude": "fc3"})
_lenet_300.sample(60, {"exclude": "fc1"}, length_scale=2.5)
_lenet_300.nest(0.03 * 60_000, 32, {}, epochs=50, milestones=(0.6, 0.85))
_lenet_300.add(SVD, _WEIGHTS)
_lenet_300.compress(_COMPRESSED, {})
replace(_lenet_300, name="lenet-300-100", title="LeNet-300-100", network="lenet-300-100").add(
    SVD, replace(_WEIGHTS, epochs=150, variational_learning_rate=1e-3, milestones=(0.7, 0.9))
)

# -- LeNet5-Caffe --------------------------------------------------------------------------------

_lenet5 = _Network(
    "lenet5-caffe",
    "LeNet5-Caffe",
    "mnist",
    "lenet5-caffe",
    replace(_PLAIN, epochs=10),
    replace(_SPARSE, epochs=22, milestones=(0.75, 0.9)),
    rate=0.5,
)
_options = {**_scales(conv1=9.0, conv2=4.5, fc1=2.5, fc2=4.0), **_THRESHOLD}
_lenet5.add_baselines()
_lenet5.add(BB, options=_options)
_lenet5.add(
    f"{BB}-scaled", options={**_scales(conv1=16.0, conv2=8.0, fc1=2.5, fc2=4.0), **_THRESHOLD}
)
_lenet5.add(f"dependent-{BB}", options=_options, dependent=_CONV_GATES, dependent_epochs=8)
for _key in (SBP, L0):
    _lenet5.prune(_key, 22, 1e-2)
for _key in GENERALIZED:
    _lenet5.prune(_key, 22, 1e-2)
_lenet5.harden(40, 3e-3, {})
_lenet5.penalise(22, {"cost_per_norm": 10.0})
# The first convolution and the last layer are left alone, as published.
_lenet5.target(30, {"exclude": ["conv1", "fc1"]}, {"exclude": ["conv1", "fc2"]})
_lenet5.sample(30, {"conv": False}, length_scale=2.5)
# The inputs of fc1 are conv2's maps, which have their mask already.
_lenet5.nest(0.03 * 60_000, 20, {"exclude": "fc1"}, epochs=30, milestones=(0.6, 0.85))
_lenet5.add(f"{IBP}-20")
_lenet5.add(SVD, Stage("plain", 10, weight_decay=0.0), _WEIGHTS)
_lenet5.compress(replace(_COMPRESSED, epochs=30), {})

# -- VGG, for a GPU: not run yet -----------------------------------------------------------------

_vgg = _Network(
    "vgg",
    "VGG with batch norm",
    "cifar10",
    "vgg",
    replace(_PLAIN, epochs=200),
    replace(_SPARSE, epochs=200, variational_learning_rate=0.01, milestones=(0.5, 0.8)),
    augment=True,
)
_options = {"init_concentration1": 2.126928}  # softplus(2), the paper's for VGG
_vgg.add_baselines()
_vgg.add(BB, options=_options)
_vgg.add(f"dependent-{BB}", options=_options, dependent={"init_shift": 1.0}, dependent_epochs=200)
# The first convolution is unmasked, as published, and fc1's inputs are conv8's maps.
replace(_vgg, name="vgg11", title="VGG-11, half as wide again", network="vgg11").nest(
    0.03 * 50_000,
    32,
    {"exclude": ["conv1", "fc1"]},
    epochs=200,
    batch_size=512,
    milestones=(0.5, 0.75),
)

# -- Digits: quick, every method -----------------------------------------------------------------

# So few examples cannot pay for the whole KL: it counts a tenth, and rises over half of the run.
_TENTH = {"kl_scale": 0.1}
_digits = _Network(
    "digits-mlp",
    "LeNet-500-300's multilayer perceptron for 8 x 8 digits",
    "digits",
    "lenet-500-300",
    replace(_PLAIN, epochs=50),
    replace(_SPARSE, epochs=200, batch_size=50, kl_warm_up=0.5),
)
_options = {"init_concentration1": 2.0, **_TENTH}
_digits.add_baselines()
_digits.add(
    BB,
    _digits.plain,
    replace(_digits.sparse, learning_rate=3e-3),
    options={**_options, "kl_scale": 0.03},
)
_digits.add(f"dependent-{BB}", options=_options, dependent=_GATES)
for _method in (IBP, HIBP):
    _digits.add(_method, options=_TENTH)
for _key in (SBP, L0):
    _digits.prune(_key, 200, 3e-2)
for _key in GENERALIZED:
    _digits.prune(_key, 200, 3e-2)
_digits.harden(120, 1e-2, {"cost_per_parameter": 0.01})
_digits.penalise(100, _costs(fc1=0.5, fc2=1.0, fc3=4.0))
_digits.target(100, {}, {"exclude": "fc3"})
_digits.sample(100, {"exclude": "fc1"}, length_scale=0.35)
_digits.nest(900.0, 32, {}, epochs=100, batch_size=50, milestones=(0.6, 0.85))
_stage = replace(
    _WEIGHTS,
    epochs=200,
    batch_size=50,
    variational_learning_rate=3e-2,
    milestones=(0.8, 0.93),
    kl_warm_up=0.5,
)
_digits.add(SVD, replace(_stage, variational_learning_rate=3e-3), options=_TENTH)
_digits.compress(_stage, _TENTH)
