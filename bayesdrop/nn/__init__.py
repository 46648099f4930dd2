"""Layers with a prior and a posterior: masks that multiply their input, and random weights.

``masks`` holds one prior over masks a file, ``weights`` one posterior of weights a file; what they
have in common, an owner of global latents, is in ``latents``.
"""

from bayesdrop.nn.catalogue import BayesianLayer, layers, make, register, registered
from bayesdrop.nn.context import MaskContext, active_context
from bayesdrop.nn.contexts import (
    ImposedMasks,
    ModelPass,
    PosteriorSample,
    RecordedMasks,
    TrainingPass,
    impose_masks,
)
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.latents import (
    ConditionalOwner,
    LatentOwner,
    kl_divergence,
    named_owners,
    named_shared,
    prior_among,
)
from bayesdrop.nn.layer_kinds import LAYER_KINDS, LayerKind
from bayesdrop.nn.mask import BayesianDropout, named_dropout_layers
from bayesdrop.nn.mask_sum import MaskSum, repeat_rows
from bayesdrop.nn.masks import (
    BernoulliDropout,
    BetaBernoulliDropout,
    ConcreteDropout,
    DependentBetaBernoulliDropout,
    GaussianDropout,
    HardConcreteDropout,
    HierarchicalIndianBuffetDropout,
    IndianBuffetDropout,
    IndianBuffetSticks,
    MonteCarloDropout,
    NestedDropout,
    OrderedUnits,
    StickBreakingDropout,
    StructuredBayesianPruningDropout,
    VariationalNestedDropout,
    to_dependent,
)
from bayesdrop.nn.weight import BayesianWeights, Noise, named_weight_layers, with_plain_weights
from bayesdrop.nn.weights import (
    Dropconnect,
    FixedRateWeights,
    GaussianDropconnect,
    SparseVariational,
)

_REGISTERED: tuple[type[BayesianDropout] | type[BayesianWeights], ...] = (
    BetaBernoulliDropout,
    DependentBetaBernoulliDropout,
    IndianBuffetDropout,
    HierarchicalIndianBuffetDropout,
    NestedDropout,
    VariationalNestedDropout,
    MonteCarloDropout,
    GaussianDropout,
    ConcreteDropout,
    StructuredBayesianPruningDropout,
    HardConcreteDropout,
    SparseVariational,
    Dropconnect,
    GaussianDropconnect,
)
for _cls in _REGISTERED:
    register(_cls)

__all__ = [
    "BayesianDropout",
    "BayesianLayer",
    "BayesianWeights",
    "BernoulliDropout",
    "BetaBernoulliDropout",
    "ConcreteDropout",
    "ConditionalOwner",
    "DependentBetaBernoulliDropout",
    "Dropconnect",
    "FixedRateWeights",
    "GaussianDropconnect",
    "GaussianDropout",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "ImposedMasks",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "LAYER_KINDS",
    "LatentOwner",
    "LayerKind",
    "MaskContext",
    "MaskSum",
    "MeanGate",
    "ModelPass",
    "MonteCarloDropout",
    "NestedDropout",
    "Noise",
    "OrderedUnits",
    "PosteriorSample",
    "RecordedMasks",
    "SparseVariational",
    "StickBreakingDropout",
    "StructuredBayesianPruningDropout",
    "TrainingPass",
    "VariationalNestedDropout",
    "active_context",
    "impose_masks",
    "kl_divergence",
    "layers",
    "make",
    "named_dropout_layers",
    "named_owners",
    "named_shared",
    "named_weight_layers",
    "prior_among",
    "register",
    "registered",
    "repeat_rows",
    "to_dependent",
    "with_plain_weights",
]
