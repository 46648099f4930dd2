"""A prediction with its uncertainty taken apart, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bayesdrop.record import ShortRepr


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(ShortRepr):
    r"""What ``predict`` returns; all tensors are on the CPU, rows in the order of the data.

    .. math::
        \bar p_n = \frac1S \sum_s p_{ns}, \qquad
        \underbrace{H[\bar p_n]}_{\text{predictive}} =
        \underbrace{\tfrac1S \textstyle\sum_s H[p_{ns}]}_{\text{expected}} +
        \underbrace{I_n}_{\text{mutual information}}, \qquad
        \underbrace{v_n}_{\text{variance}} =
        \underbrace{\tfrac1S \textstyle\sum_s \sigma^2_{ns}}_{\text{aleatoric}} +
        \underbrace{\tfrac1S \textstyle\sum_s (\mu_{ns} - \bar\mu_n)^2}_{\text{epistemic}}

    Args:
        mean: Class probabilities averaged over posterior samples (never logits), or the predictive
            mean, ``(N, C)``. Of outputs with more dimensions ``(N, C, ...)``, classes in dimension
            1; the fields given as ``(N,)`` below are then ``(N, ...)``, as the labels are.
        num_samples: Posterior samples :math:`S`; 1 for a mean mask and for a network without
            Bayesian layers; mutual information and epistemic variance are then 0.
        unbiased: Whether mutual information and epistemic variance are the averages above times
            :math:`S / (S - 1)`, as estimates of the posterior's. Without it they are those of the
            mixture of the :math:`S` samples, and smaller by that factor on average.
        samples: Probabilities, or means, of each posterior sample, ``(S, N, C)``, if kept.
        y: The targets that came with the data, if any.
        confidence: Probability of the most probable class, ``(N,)``; classifiers only. For several
            Bernoulli outputs it is the average of :math:`\max(\bar p, 1 - \bar p)`, ``(N,)``.
        predictive_entropy: Entropy of ``mean`` in nats, ``(N,)``; classifiers only. For several
            Bernoulli outputs it is the sum of their entropies, ``(N,)``.
        expected_entropy: Average entropy of a sample, in nats, ``(N,)``; classifiers only.
        mutual_information: Their difference, in nats, >= 0, ``(N,)``, times
            :math:`S / (S - 1)` if ``unbiased``; classifiers only.
        energy: :math:`-\frac1S \sum_s \log \sum_c \exp f_{nsc}` of the logits, ``(N,)``;
            ``Categorical`` only, since probabilities do not determine it.
        logit_norm: :math:`\lVert \frac1S \sum_s f_{ns} \rVert_2`, ``(N,)``; ``Categorical`` only.
        variance: ``aleatoric_variance + epistemic_variance``, ``(N, D)``; regression only.
        aleatoric_variance: Average variance of the noise, ``(N, D)``; regression only.
        epistemic_variance: Variance of the samples' means, ``(N, D)``; regression only.
        log_likelihood: :math:`\log \frac1S \sum_s p(y_n \mid x_n, s)` in nats, float64, with
            targets only: ``(N,)`` of a regression, of a classifier one for each label, of the
            labels' shape, 0 where one is missing.
        sample_variances: Variance of each posterior sample's noise, ``(S, N, D)``, kept along with
            ``samples``; regression with normal noise only.
        pit: Predictive distribution function at the targets, ``(N, D)``; regression with targets
            only, and only if the likelihood has a ``cdf``.
    """

    mean: Tensor
    num_samples: int
    unbiased: bool = False
    samples: Tensor | None = None
    y: Tensor | None = None
    confidence: Tensor | None = None
    predictive_entropy: Tensor | None = None
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    energy: Tensor | None = None
    logit_norm: Tensor | None = None
    variance: Tensor | None = None
    aleatoric_variance: Tensor | None = None
    epistemic_variance: Tensor | None = None
    log_likelihood: Tensor | None = None
    sample_variances: Tensor | None = None
    pit: Tensor | None = None
