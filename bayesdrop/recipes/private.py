"""Recipes of differentially private training: from scratch in one stage, as stages add up."""

from __future__ import annotations

from dataclasses import replace

from bayesdrop.recipes.recipe import Recipe, Stage, register

for _name, _title, _data, _network, _stage in (
    (
        "digits-mlp",
        "LeNet-500-300's multilayer perceptron for 8 x 8 digits",
        "digits",
        "lenet-500-300",
        Stage("private", 40, batch_size=256, learning_rate=1e-2, private_epsilon=8.0),
    ),
    (
        "lenet-300-100",
        "LeNet-300-100",
        "mnist",
        "lenet-300-100",
        Stage("private", 15, batch_size=1024, learning_rate=1e-2, private_epsilon=3.0),
    ),
):
    _promise = f"differentially private at epsilon {_stage.private_epsilon:g}"
    register(Recipe(f"{_name}-private", f"{_title}, {_promise}", _data, _network, (_stage,)))
    register(
        Recipe(
            f"{_name}-beta-bernoulli-private",
            f"{_title}, beta-Bernoulli dropout from scratch, {_promise}",
            _data,
            _network,
            (replace(_stage, dropout=True, variational_learning_rate=1e-2),),
            dropout="beta-bernoulli",
        )
    )
