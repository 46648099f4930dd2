"""Layers with a prior and a posterior: masks that multiply their input, and random weights.

``masks`` holds one prior over masks a file, ``weights`` one posterior of weights a file; what they
have in common, an owner of global latents, is in ``latents``. ``recurrent`` holds layers
with masks inside.
"""

from bayesdrop.nn import masks, recurrent, weights
from bayesdrop.nn.catalogue import BayesianLayer, layers, make, register, registered
from bayesdrop.nn.context import MaskContext, active_context
from bayesdrop.nn.contexts import (
    ImposedMasks,
    LocalDivergences,
    ModelPass,
    PosteriorSample,
    RecordedMasks,
    TrainingPass,
    impose_masks,
)
from bayesdrop.nn.exact_masks import ExactDraw, ExactMasks
from bayesdrop.nn.fused import without_fused_kernels
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.inner_masks import InnerMasks
from bayesdrop.nn.latents import (
    ConditionalOwner,
    LatentOwner,
    kl_divergence,
    named_owners,
    named_shared,
    prior_among,
)
from bayesdrop.nn.layer_kinds import LAYER_KINDS, LayerKind
from bayesdrop.nn.lora import LoRALinear, MaskedRanks
from bayesdrop.nn.mask import BayesianDropout, named_dropout_layers
from bayesdrop.nn.mask_sum import MaskSum, repeat_rows
from bayesdrop.nn.masked_inputs import (
    input_mask,
    mask_inputs,
    named_masked_inputs,
    unmask_inputs,
)
from bayesdrop.nn.masks import *  # noqa: F403 - what they export is their business
from bayesdrop.nn.matryoshka import VariationalMatryoshka, VariationalMatryoshkaLoss
from bayesdrop.nn.multihead import MultiheadAttention
from bayesdrop.nn.prior_update import update_prior
from bayesdrop.nn.recurrent import *  # noqa: F403
from bayesdrop.nn.restriction import restrict_units, unit_tensors
from bayesdrop.nn.two_valued import TwoValuedMask
from bayesdrop.nn.weight import BayesianWeights, Noise, named_weight_layers, with_plain_weights
from bayesdrop.nn.weights import *  # noqa: F403
from bayesdrop.nn.widening import widen

__all__ = [
    *masks.__all__,
    *recurrent.__all__,
    *weights.__all__,
    "BayesianDropout",
    "BayesianLayer",
    "BayesianWeights",
    "ConditionalOwner",
    "ExactDraw",
    "ExactMasks",
    "ImposedMasks",
    "InnerMasks",
    "LAYER_KINDS",
    "LatentOwner",
    "LayerKind",
    "LoRALinear",
    "LocalDivergences",
    "MaskContext",
    "MaskSum",
    "MaskedRanks",
    "MeanGate",
    "MultiheadAttention",
    "ModelPass",
    "Noise",
    "PosteriorSample",
    "RecordedMasks",
    "TrainingPass",
    "TwoValuedMask",
    "VariationalMatryoshka",
    "VariationalMatryoshkaLoss",
    "active_context",
    "impose_masks",
    "input_mask",
    "kl_divergence",
    "layers",
    "make",
    "mask_inputs",
    "named_dropout_layers",
    "named_masked_inputs",
    "named_owners",
    "named_shared",
    "named_weight_layers",
    "prior_among",
    "register",
    "registered",
    "repeat_rows",
    "restrict_units",
    "unit_tensors",
    "unmask_inputs",
    "update_prior",
    "widen",
    "with_plain_weights",
    "without_fused_kernels",
]
