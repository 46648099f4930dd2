"""Recipes of texts, for ``--data text:PATH``; the default is small and made by rule."""

from __future__ import annotations

from dataclasses import replace

from bayesdrop.recipes.methods import BB
from bayesdrop.recipes.recipe import Recipe, Stage, register

_PLAIN = Stage("plain", 10, learning_rate=3e-3, batch_size=50)
# As of the digits: so few examples cannot pay for the whole KL.
_SPARSE = Stage(BB, 40, dropout=True, batch_size=50, variational_learning_rate=0.1, kl_warm_up=0.5)
_OPTIONS = {"init_concentration1": 2.0, "kl_scale": 0.1, "parametrization": "softplus"}

for _network, _title in (("text-mean", "Mean of word vectors"), ("text-lstm", "LSTM of words")):
    register(
        Recipe(
            _network,
            f"{_title}, no dropout",
            "phrases",
            _network,
            (replace(_PLAIN, epochs=_PLAIN.epochs + _SPARSE.epochs),),
        )
    )
    register(
        Recipe(
            f"{_network}-{BB}",
            f"{_title}, beta-Bernoulli dropout from pretrained weights",
            "phrases",
            _network,
            (_PLAIN, _SPARSE),
            dropout=BB,
            dropout_options={**_OPTIONS, "exclude": "embedding"},
        )
    )
