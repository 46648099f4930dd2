"""Recipes of a pretrained encoder of texts, and what a run of one keeps of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bayesdrop.data import Tokenizer
from bayesdrop.errors import ConfigError
from bayesdrop.networks.encoders import MINILM, encoder_config, encoder_folder, vocabulary_of
from bayesdrop.recipes.methods import BB, VND
from bayesdrop.recipes.recipe import Recipe, Stage, register

MC = "mc-dropout"
ENCODER, CONFIG, ADAPTERS = "encoder", "config", "adapters"
"""Options of the network ``text-encoder`` that a recipe may have."""


def with_encoder(recipe: Recipe) -> tuple[Recipe, Tokenizer | None]:
    """Return a recipe that says its encoder's configuration, and the encoder's tokenizer.

    With the configuration in ``recipe.json`` and the tokenizer beside it, a run is loaded where
    the pretrained weights are absent.

    Args:
        recipe: One of any network; without an encoder it is returned as it is, with None.

    Raises:
        CheckpointError: If ``config.json`` is damaged.
        ConfigError: If the encoder is not there.
        DataError: If it has no tokenizer.
        ImportError: If the package that carries it is absent.
    """
    name = recipe.network_options.get(ENCODER)
    if name is None:
        return recipe, None
    config = encoder_config(name)
    rows, padding = vocabulary_of(config)
    tokenizer = Tokenizer.of(encoder_folder(name), padding=padding)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"encoder {str(name)!r}",
            expected=f"a tokenizer of at most {rows:,} tokens, its vocab_size",
            got=f"{len(tokenizer):,}",
            hint="Is it that of another model?",
        )
    options = {**recipe.network_options, CONFIG: config}
    return replace(recipe, network_options=options), tokenizer


def choose_encoder(recipe: Recipe, encoder: str | None) -> Recipe:
    """Return a recipe with another encoder; None keeps its own.

    Raises:
        ConfigError: If the recipe has none.
    """
    if encoder is None:
        return recipe
    if ENCODER not in recipe.network_options:
        raise ConfigError(
            f"recipe {recipe.name!r}",
            expected="a recipe of a pretrained encoder with --encoder",
            got=f"the network {recipe.network!r}",
            hint="Their names begin with text-encoder.",
        )
    return replace(recipe, network_options={**recipe.network_options, ENCODER: encoder})


# With masks on heads and hidden units as in benchmarks/encoder_gates.py; else not tuned.
_PLAIN = Stage("plain", 2, learning_rate=5e-5, batch_size=16)
_WHOLE = replace(_PLAIN, epochs=4)
_ADAPTED = replace(_PLAIN, learning_rate=1e-3, epochs=4)
_ADAPTERS = {ADAPTERS: {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}}


def _masked(stage: Stage, name: str, rate: float) -> Stage:
    return replace(stage, name=name, dropout=True, variational_learning_rate=rate, kl_warm_up=0.5)


def _register(
    name: str,
    summary: str,
    stages: tuple[Stage, ...],
    network_options: dict[str, Any] | None = None,
    dropout: str | None = None,
    dropout_options: dict[str, Any] | None = None,
) -> None:
    network_options = {ENCODER: MINILM, **(network_options or {})}
    register(
        Recipe(
            name,
            f"{MINILM}, {summary}",
            "phrases",
            "text-encoder",
            stages,
            network_options,
            dropout,
            dropout_options or {},
        )
    )


_register("text-encoder", "no dropout", (_WHOLE,))
_register(
    f"text-encoder-{MC}",
    "nn.Dropout(0.1) between its layers, sampled",
    (replace(_WHOLE, name=MC, dropout=True),),
    {"dropout": 0.1},
    MC,
    {"linear": False, "conv": False, "exclude": "*embed*"},
)
_register(
    f"text-encoder-{BB}",
    "beta-Bernoulli masks on heads and hidden units",
    (_PLAIN, _masked(_PLAIN, BB, 0.4)),
    None,
    BB,
    # The whole KL closes nearly all of them with a few hundred texts.
    {"parametrization": "softplus", "kl_scale": 0.02, "exclude": ["*embed*", "head"]},
)
_register(
    f"text-encoder-{VND}",
    "variational nested dropout, embeddings to be cut",
    (_PLAIN, _masked(_PLAIN, VND, 0.01)),
    None,
    VND,
    {"prior_continue_prob": None, "init_continue_prob": None, "shared_by": "example"}
    | {"exclude": "encoder*"},
)
_register("text-encoder-lora", "frozen, with adapters of rank 8", (_ADAPTED,), _ADAPTERS)
_register(
    f"text-encoder-lora-{BB}",
    "frozen, beta-Bernoulli masks on the ranks of adapters",
    (_masked(_ADAPTED, BB, 0.1),),
    _ADAPTERS,
    BB,
    {"parametrization": "softplus", "kl_scale": 0.1},
)
