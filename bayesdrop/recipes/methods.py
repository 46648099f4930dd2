"""What each method is in the recipes of every network: its key, options and summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PRETRAINED = "from pretrained weights"
BB, SBP, L0 = "beta-bernoulli", "structured-bayesian-pruning", "hard-concrete"
IBP, HIBP, VND, SVD = (
    "indian-buffet",
    "hierarchical-indian-buffet",
    "variational-nested",
    "sparse-variational",
)
NPN = "neural-plasticity"
GAUSSIAN, JEFFREYS, HORSESHOE = "gaussian-weights", "normal-jeffreys", "group-horseshoe"
SSL, TARGETED = "group-lasso", "targeted"
GENERALIZED = ("generalized", "generalized-uniform")
_BEFORE, _IN = "before hidden Linear layers", "in hidden Linear layers"
_FIXED = "nested dropout, the number of kept groups"
_ONE_WIDTH = "all layers at one width"
_SPREAD = f"{_ONE_WIDTH}, shared out in a batch, and weights with fixed noise"
_SPREAD_OPTIONS = {
    "share_widths": True,
    "stratified": True,
    "weights": {"dropout": "gaussian-dropconnect", "drop_prob": 0.1},
}


@dataclass(frozen=True)
class Method:
    """What recipes for several networks have in common.

    Args:
        words: What the recipe's summary says behind the network's title.
        dropout: Key of the dropout; None for a plain network.
        options: Of ``convert``.
        rate: Of the ``nn.Dropout`` layers that the network is built with.
    """

    words: str
    dropout: str | None = None
    options: Mapping[str, Any] | None = None
    rate: float = 0.0


_UNITS = {"linear": False, "conv": False}  # only where an nn.Dropout was
_AS_RUN = {"shared_by": "example", "gradient": "straight-through"}
_SOFTPLUS, _LOG = {"parametrization": "softplus"}, {"parametrization": "log"}  # as tuned
_SCALES = {"weights": GAUSSIAN, "shared_by": "example"}
_OPEN_LAW = {"prior_continue_prob": None, "init_continue_prob": None}

METHODS = {
    "": Method("no dropout"),
    "dropout": Method(f"nn.Dropout(0.5) {_BEFORE}", rate=0.5),
    BB: Method(f"beta-Bernoulli dropout {_PRETRAINED}", BB, _SOFTPLUS),
    f"{BB}-scaled": Method(
        f"beta-Bernoulli dropout {_PRETRAINED}, the convolutions' KL scaled up", BB, _SOFTPLUS
    ),
    f"dependent-{BB}": Method(
        f"beta-Bernoulli dropout {_PRETRAINED}, then masks that look at the input", BB, _SOFTPLUS
    ),
    IBP: Method(f"Indian buffet dropout {_PRETRAINED}", IBP, _LOG),
    **{
        f"{IBP}-{mass}": Method(
            f"Indian buffet dropout of concentration {mass} {_PRETRAINED}",
            IBP,
            {"concentration": float(mass), **_LOG},
        )
        for mass in (5, 20, 50)
    },
    HIBP: Method(
        f"hierarchical Indian buffet dropout {_PRETRAINED}",
        HIBP,
        {"concentration": 5.0, "layer_concentration": 4.0, **_LOG},
    ),
    SBP: Method(f"structured Bayesian pruning {_PRETRAINED}", SBP),
    L0: Method(f"hard-concrete gates with an L0 penalty {_PRETRAINED}", L0),
    SSL: Method(f"a group lasso of the weights of each unit {_PRETRAINED}", SSL),
    TARGETED: Method(
        "targeted dropout of hidden units", TARGETED, {"drop_prob": 0.66, "targeted_share": 0.75}
    ),
    f"{TARGETED}-dropconnect": Method(
        "targeted dropout of weights",
        f"{TARGETED}-dropconnect",
        {"drop_prob": 0.66, "targeted_share": 0.75},
    ),
    GENERALIZED[0]: Method(
        f"generalized dropout that learns the architecture {_PRETRAINED}",
        "generalized",
        {
            "prior_concentration1": 0.01,
            "prior_concentration0": 1.0,
            "init_keep_prob": 0.7,
            "threshold": 0.5,
        },
    ),
    GENERALIZED[1]: Method(
        f"generalized dropout under a uniform prior (Dropout++) {_PRETRAINED}",
        "generalized",
        {"prior_concentration1": 1.0, "prior_concentration0": 1.0},
    ),
    NPN: Method(
        f"neural plasticity {_PRETRAINED}: plastic gates without a relaxation, then hard ones", NPN
    ),
    "standout": Method(
        "StandOut, units kept by their pre-activations",
        "standout",
        {"position": "before-activation"},
    ),
    "contextual": Method(
        "contextual dropout, rates from a small network",
        "contextual",
        {"exclude": "fc1"},  # its inputs are pixels, or maps that have their mask already
    ),
    "mc-dropout": Method(
        f"nn.Dropout(0.5) {_BEFORE}, sampled at test", "mc-dropout", _UNITS, rate=0.5
    ),
    "gaussian": Method(f"Gaussian dropout of rate 0.5 {_BEFORE}", "gaussian", _UNITS, rate=0.5),
    "dropconnect": Method(
        f"Bernoulli dropconnect of rate 0.5 {_IN}", "dropconnect", {"drop_prob": 0.5}
    ),
    "gaussian-dropconnect": Method(
        f"Gaussian dropconnect of rate 0.5 {_IN}", "gaussian-dropconnect", {"drop_prob": 0.5}
    ),
    "spike-and-slab": Method(
        f"nn.Dropout(0.5) {_BEFORE} and Gaussian dropconnect of rate 0.5 in them",
        "mc-dropout",
        _UNITS,
        rate=0.5,
    ),
    "concrete": Method("concrete dropout, a learned rate for each layer", "concrete"),
    "nested-uniform": Method(f"{_FIXED} uniform", "nested", {"law": "uniform"}),
    "nested-geometric": Method(
        f"{_FIXED} geometric", "nested", {"law": "geometric", "continue_prob": 0.9}
    ),
    "nested-shared": Method(
        f"nested dropout, {_ONE_WIDTH}: full in three of ten masks, else uniform",
        "nested",
        {"law": "uniform", "full_prob": 0.3, "share_widths": True},
    ),
    "nested-stratified": Method(
        f"nested dropout, {_SPREAD}",
        "nested",
        {"law": "uniform", "full_prob": 0.3, **_SPREAD_OPTIONS},
    ),
    VND: Method("variational nested dropout", VND, {**_OPEN_LAW, **_AS_RUN}),
    f"{VND}-frozen": Method(
        "variational nested dropout, order probabilities frozen at their initial 0.9526",
        VND,
        {"learn_order": False, **_AS_RUN},
    ),
    f"{VND}-shared": Method(
        f"variational nested dropout, {_ONE_WIDTH}",
        VND,
        {**_OPEN_LAW, "prior_full_prob": 0.3, "share_widths": True, **_AS_RUN},
    ),
    f"{VND}-stratified": Method(
        f"variational nested dropout, {_SPREAD}",
        VND,
        {**_OPEN_LAW, "prior_full_prob": 0.3, "shared_by": "example", **_SPREAD_OPTIONS},
    ),
    SVD: Method("sparse variational dropout of the weights", SVD),
    GAUSSIAN: Method(f"Gaussian weights {_PRETRAINED}", GAUSSIAN),
    JEFFREYS: Method(
        f"normal-Jeffreys scales of units over Gaussian weights {_PRETRAINED}", JEFFREYS, _SCALES
    ),
    HORSESHOE: Method(
        f"group horseshoe scales of units over Gaussian weights {_PRETRAINED}", HORSESHOE, _SCALES
    ),
}
