"""Dropout layers as priors and posteriors over masks, one prior a file."""

from bayesdrop.nn.masks.bernoulli import BernoulliDropout
from bayesdrop.nn.masks.beta_bernoulli import BetaBernoulliDropout
from bayesdrop.nn.masks.concrete import ConcreteDropout
from bayesdrop.nn.masks.contextual import ContextualDropout
from bayesdrop.nn.masks.dependent_beta_bernoulli import DependentBetaBernoulliDropout
from bayesdrop.nn.masks.example_rates import ExampleRatesDropout
from bayesdrop.nn.masks.gaussian import GaussianDropout
from bayesdrop.nn.masks.generalized import GeneralizedDropout
from bayesdrop.nn.masks.group_horseshoe import GroupHorseshoeDropout
from bayesdrop.nn.masks.group_lasso import GroupLassoDropout
from bayesdrop.nn.masks.hard_concrete import HardConcreteDropout
from bayesdrop.nn.masks.hierarchical_indian_buffet import HierarchicalIndianBuffetDropout
from bayesdrop.nn.masks.indian_buffet import IndianBuffetDropout
from bayesdrop.nn.masks.monte_carlo import MonteCarloDropout
from bayesdrop.nn.masks.nested import NestedDropout
from bayesdrop.nn.masks.neural_plasticity import NeuralPlasticityDropout
from bayesdrop.nn.masks.normal_jeffreys import NormalJeffreysDropout
from bayesdrop.nn.masks.ordered_units import OrderedUnits
from bayesdrop.nn.masks.second_stage import to_dependent
from bayesdrop.nn.masks.standout import StandoutDropout
from bayesdrop.nn.masks.stick_breaking import IndianBuffetSticks, StickBreakingDropout
from bayesdrop.nn.masks.structured_bayesian_pruning import StructuredBayesianPruningDropout
from bayesdrop.nn.masks.targeted import TargetedDropout
from bayesdrop.nn.masks.unit_scale import UnitScaleDropout
from bayesdrop.nn.masks.variational_nested import VariationalNestedDropout
from bayesdrop.nn.masks.wake_units import WakeUnits

__all__ = [
    "BernoulliDropout",
    "BetaBernoulliDropout",
    "ConcreteDropout",
    "ContextualDropout",
    "DependentBetaBernoulliDropout",
    "ExampleRatesDropout",
    "GaussianDropout",
    "GroupHorseshoeDropout",
    "GroupLassoDropout",
    "GeneralizedDropout",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "NestedDropout",
    "NeuralPlasticityDropout",
    "NormalJeffreysDropout",
    "OrderedUnits",
    "MonteCarloDropout",
    "StandoutDropout",
    "StickBreakingDropout",
    "StructuredBayesianPruningDropout",
    "UnitScaleDropout",
    "TargetedDropout",
    "VariationalNestedDropout",
    "WakeUnits",
    "to_dependent",
]
