"""The recipes that come with the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bayesdrop.recipes.recipe import Recipe, Stage, register_recipe

_KEY = "beta-bernoulli"

# The published protocol (Adam, weight decay 1e-4, batches of 100, from pretrained weights) with
# ten times its learning rate for (a, b) and fewer epochs.
_PLAIN = Stage("plain", 20, milestones=(0.5, 0.8))
_SPARSE = Stage(_KEY, 60, dropout=True, variational_learning_rate=0.1, milestones=(0.8, 0.93))

# The paper prunes below 1e-3. When the learning rate falls, a few units are on their way out, at
# 2e-3 to 3e-3; between there and 0.1 there are none, and the validation error is the same.
_THRESHOLD = 0.01

# Gates start steep, and open for whatever is not far below its mean, so that training begins
# close to the network without them. With the whole KL of the shifts more gates close, at a higher
# error.
_DEPENDENT = Stage(
    "dependent",
    20,
    dropout=True,
    dependent=True,
    learning_rate=3e-4,
    variational_learning_rate=0.01,
)
_GATES = {"init_shift": 4.0, "init_slope": 10.0, "init_shift_scale": 0.1, "kl_scale": 0.06}

# A channel's average over positions has no peak at zero, as a dense layer's unit has after ReLU: a
# gate as steep as there closes channels at random. On 10,000 images of MNIST's training set
# (benchmarks/mnist.py choose; BB has 0.71 % error at 1.9 times the speed), slopes of 10, 5, 3 and
# 1 for the convolutions give 1.36, 0.68, 0.70 and 0.65 % at 3.8, 2.4, 2.1 and 2.0 times.
_CONV_GATES = {**_GATES, "overrides": {"conv*": {"init_slope": 5.0}}}


@dataclasses.dataclass(frozen=True)
class _Family:
    """Recipes for one network: their names begin alike and their stages are as long."""

    prefix: str
    title: str
    data: str
    network: str
    stages: tuple[Stage, Stage]
    pretrain_dropout: float = 0.0
    augment: bool = False
    dependent_epochs: int = 20

    def register_baselines(self) -> None:
        """Register the network without dropout and with nn.Dropout, for as many epochs."""
        epochs = sum(stage.epochs for stage in self.stages)
        stages = (dataclasses.replace(self.stages[0], epochs=epochs),)
        for suffix, words, rate in (
            ("", "no dropout", 0.0),
            ("-dropout", "nn.Dropout(0.5) before hidden Linear layers", 0.5),
        ):
            self._register(suffix, words, stages, rate, {}, {})

    def register(
        self,
        suffix: str,
        words: str,
        options: Mapping[str, object] | None = None,
        *,
        dropout: str = _KEY,
        dependent: Mapping[str, object] | None = None,
    ) -> None:
        """Register a recipe with Bayesian dropout, and masks that see their input on request."""
        stages: tuple[Stage, ...] = self.stages
        if dependent is not None:
            stages += (dataclasses.replace(_DEPENDENT, epochs=self.dependent_epochs),)
        self._register(
            suffix, words, stages, self.pretrain_dropout, options or {}, dependent or {}, dropout
        )

    def _register(
        self,
        suffix: str,
        words: str,
        stages: tuple[Stage, ...],
        dropout_rate: float,
        options: Mapping[str, object],
        dependent: Mapping[str, object],
        dropout: str | None = None,
    ) -> None:
        recipe = Recipe(
            self.prefix + suffix,
            f"{self.title}, {words}",
            self.data,
            self.network,
            stages,
            network_options={"dropout": dropout_rate} if dropout_rate else {},
            dropout=dropout,
            dropout_options=options,
            dependent_options=dependent,
            augment=self.augment,
        )
        register_recipe(recipe)


def _scales(**layers: float) -> dict[str, object]:
    return {"overrides": {name: {"kl_scale": scale} for name, scale in layers.items()}}


_BB = "beta-Bernoulli dropout from pretrained weights"
_DBB = "then masks that look at the input"

# Chosen on 10,000 images of MNIST's training set (benchmarks/mnist.py choose): units go on closing
# while the learning rate is high, the top layer's last. On all 60,000 images the rate falls after
# as many steps as with 50,000, and the scales are about 1.2 times those chosen there (1.3, 1.15,
# 1.4), so that the KL counts as much against an example; those of fc1 and fc2 were raised from
# 1.56 and 1.38 for the units that training kept, not by validation. Weights that were trained
# with nn.Dropout beforehand start it better.
_LENET_300_SCALES = {**_scales(fc1=1.6, fc2=1.6, fc3=1.68), "threshold": _THRESHOLD}
_lenet_300 = _Family(
    "lenet-500-300",
    "LeNet-500-300",
    data="mnist",
    network="lenet-500-300",
    stages=(_PLAIN, dataclasses.replace(_SPARSE, epochs=105, milestones=(0.68, 0.86))),
    pretrain_dropout=0.5,
)
_lenet_300.register_baselines()
_lenet_300.register("-bb", _BB, _LENET_300_SCALES)
_lenet_300.register("-dbb", f"{_BB}, {_DBB}", _LENET_300_SCALES, dependent=_GATES)

# Three concentrations; the widths are chosen by the data under the whole ELBO.
_IBP_STAGES = (_PLAIN, dataclasses.replace(_SPARSE, epochs=45, milestones=(0.75, 0.9)))
_ibp = dataclasses.replace(_lenet_300, stages=_IBP_STAGES)
for _concentration in (5, 20, 50):
    _ibp.register(
        f"-ibp-{_concentration}",
        f"Indian buffet dropout of concentration {_concentration} from pretrained weights",
        {"concentration": float(_concentration)},
        dropout="indian-buffet",
    )

# One vector of sticks for the three layers, with the paper's concentrations.
_ibp.register(
    "-hibp",
    "hierarchical Indian buffet dropout from pretrained weights",
    {"concentration": 5.0, "layer_concentration": 4.0},
    dropout="hierarchical-indian-buffet",
)

# Without larger scales for the convolutions the dense layers are pruned and the convolutions,
# which cost most, hardly.
_lenet5 = _Family(
    "lenet5-caffe",
    "LeNet5-Caffe",
    data="mnist",
    network="lenet5-caffe",
    stages=(
        dataclasses.replace(_PLAIN, epochs=10),
        dataclasses.replace(_SPARSE, epochs=22, milestones=(0.75, 0.9)),
    ),
    pretrain_dropout=0.5,
    dependent_epochs=8,
)
_LENET5_SCALES = {
    **_scales(conv1=9.0, conv2=4.5, fc1=2.5, fc2=4.0),
    "threshold": _THRESHOLD,
}
_lenet5.register_baselines()
_lenet5.register("-bb", _BB, _LENET5_SCALES)
_lenet5.register(
    "-bb-scaled",
    f"{_BB}, the convolutions' KL scaled up",
    {**_scales(conv1=16.0, conv2=8.0, fc1=2.5, fc2=4.0), "threshold": _THRESHOLD},
)
_lenet5.register("-dbb", f"{_BB}, {_DBB}", _LENET5_SCALES, dependent=_CONV_GATES)

# The published protocol of 200 epochs a stage, at the paper's initial keep probabilities for VGG,
# softplus(2). For a GPU; not run yet.
_vgg = _Family(
    "vgg",
    "VGG with batch norm",
    data="cifar10",
    network="vgg",
    stages=(
        dataclasses.replace(_PLAIN, epochs=200),
        dataclasses.replace(
            _SPARSE, epochs=200, variational_learning_rate=0.01, milestones=(0.5, 0.8)
        ),
    ),
    augment=True,
    dependent_epochs=200,
)
_vgg.register_baselines()
_vgg.register("-bb", _BB, {"init_concentration1": 2.126928})
_vgg.register(
    "-dbb", f"{_BB}, {_DBB}", {"init_concentration1": 2.126928}, dependent={"init_shift": 1.0}
)

# 720 to 900 examples cannot pay for the KL of 864 units: from the paper's initial keep
# probabilities every unit is switched off at once. Start with units on, let the KL rise, and count
# it at a tenth (a tempered posterior, chosen on the validation split; the full KL keeps 38-33-28
# units with a higher NLL).
_digits = _Family(
    "digits-mlp",
    "LeNet-500-300's multilayer perceptron for 8 x 8 digits",
    data="digits",
    network="lenet-500-300",
    stages=(
        dataclasses.replace(_PLAIN, epochs=50),
        dataclasses.replace(_SPARSE, epochs=200, batch_size=50, kl_warm_up=0.5),
    ),
)
_digits.register_baselines()
_digits.register("-bb", _BB, {"init_concentration1": 2.0, "kl_scale": 0.1})

# Structured Bayesian pruning and L0. Published: 200 epochs at one learning rate of 1e-3 (SBP with
# Adam's beta1 at 0.95, from pretrained weights; L0 from scratch, tested with averaged weights).
# Here: the schedule of the other recipes, with a larger learning rate for the noise and the gates.
# The L0 price is the paper's 0.1 for each parameter; the separate prices that it reports for
# LeNet5-Caffe are (10, 0.5, 0.1, 10), as
# overrides={"conv1": {"cost_per_parameter": 10.0}, "conv2": {"cost_per_parameter": 0.5}, ...}.
# The paper's LeNet5-Caffe gates the inputs of fc1 and fc2 and the maps of both convolutions, as
# convert does.
_SBP, _L0 = "structured-bayesian-pruning", "hard-concrete"
_SBP_WORDS = "structured Bayesian pruning from pretrained weights"
_L0_WORDS = "hard-concrete gates with an L0 penalty from pretrained weights"
for _family, _epochs, _rate in ((_lenet_300, 45, 1e-2), (_lenet5, 22, 1e-2), (_digits, 200, 3e-2)):
    for _key, _suffix, _words in ((_SBP, "-sbp", _SBP_WORDS), (_L0, "-l0", _L0_WORDS)):
        _stage = dataclasses.replace(
            _family.stages[1],
            name=_key,
            epochs=_epochs,
            variational_learning_rate=_rate,
            milestones=(0.75, 0.9),
        )
        _stages = (_family.stages[0], _stage)
        dataclasses.replace(_family, stages=_stages).register(_suffix, _words, dropout=_key)

# The sampling family: the usual network with nn.Dropout, its masks drawn at test too; noise on the
# weights of the same layers instead, or on both (spike and slab); and dropout with learned rates.
# One stage from scratch, as published, and no longer than the two stages of the beta-Bernoulli
# recipes. Weights have their prior in the weight decay; concrete dropout has it in its penalty:
# the length scale is about sqrt(1e-4 N), the same prior (the paper's 1e-2 is none to speak of).
_UNITS_OF_DROPOUT = {"linear": False, "conv": False}
_UNITS, _WEIGHTS = "before hidden Linear layers", "in hidden Linear layers"
for _family, _epochs, _length_scale, _hidden in (
    (_lenet_300, 60, 2.5, {"exclude": "fc1"}),
    (_lenet5, 30, 2.5, {"conv": False}),
    (_digits, 100, 0.35, {"exclude": "fc1"}),
):
    _noise = {**_hidden, "drop_prob": 0.5}
    _both = {**_UNITS_OF_DROPOUT, "weights": {"dropout": "gaussian-dropconnect", **_noise}}
    for _suffix, _key, _rate, _options, _words in (
        ("-mc", "mc-dropout", 0.5, _UNITS_OF_DROPOUT,
         f"nn.Dropout(0.5) {_UNITS}, sampled at test"),
        ("-gaussian", "gaussian", 0.5, _UNITS_OF_DROPOUT,
         f"Gaussian dropout of rate 0.5 {_UNITS}"),
        ("-dropconnect", "dropconnect", 0.0, _noise,
         f"Bernoulli dropconnect of rate 0.5 {_WEIGHTS}"),
        ("-gaussian-dropconnect", "gaussian-dropconnect", 0.0, _noise,
         f"Gaussian dropconnect of rate 0.5 {_WEIGHTS}"),
        ("-spike-and-slab", "mc-dropout", 0.5, _both,
         f"nn.Dropout(0.5) {_UNITS} and Gaussian dropconnect of rate 0.5 in them"),
    ):  # fmt: skip
        _stage = Stage(_key, _epochs, dropout=True)
        _family._register(_suffix, _words, (_stage,), _rate, _options, {}, _key)
    _stage = Stage(
        "concrete", _epochs, dropout=True, variational_learning_rate=1e-2, weight_decay=0.0
    )
    _scale = {"length_scale": _length_scale}
    _words = "concrete dropout, a learned rate for each layer"
    _family._register("-concrete", _words, (_stage,), 0.0, _scale, {}, "concrete")
