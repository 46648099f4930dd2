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
_lenet5.register("-dbb", f"{_BB}, {_DBB}", _LENET5_SCALES, dependent=_GATES)

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
