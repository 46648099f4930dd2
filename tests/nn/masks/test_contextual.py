import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.objectives import Reinforce
from bayesdrop.nn import ContextualDropout, LocalDivergences
from bayesdrop.testing import assert_mean_close, assert_means_equal
from bayesdrop.testing.isolation import noise_by_shape


def layer_of(num_units=6, **options):
    """One whose rates differ between units and inputs."""
    layer = ContextualDropout(num_units, reduction=2, **options)
    with torch.no_grad():
        layer.excite_weight.mul_(3.0)
        layer.excite_bias.uniform_(-1.0, 2.0)
        if layer.prior_logits is not None:
            layer.prior_logits.uniform_(-1.0, 1.0)
    return layer


def network(**options):
    net = nn.Sequential(layer_of(6, **options), nn.Linear(6, 4), nn.Tanh(), layer_of(4, **options),
                        nn.Linear(4, 3))  # fmt: skip
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=40)


def test_rates_are_those_of_the_small_network():
    layer, x = layer_of(), torch.randn(5, 6)
    hidden = nn.functional.leaky_relu(x @ layer.squeeze_weight.T + layer.squeeze_bias, 0.01)
    expected = torch.sigmoid(hidden @ layer.excite_weight.T + layer.excite_bias)
    torch.testing.assert_close(layer.eval().mean_mask(x), expected)
    assert_mean_close(layer.draw_mask({}, x[:1].expand(20_000, 6)), expected[0])


def test_maps_are_seen_by_their_means():
    layer, x = layer_of(unit_dim=-3).eval(), torch.randn(2, 6, 3, 3)
    flat = layer_of().eval()
    flat.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.mean_mask(x), flat.mean_mask(x.mean((2, 3))))


def test_an_example_pays_the_divergence_of_its_masks():
    layer, x = layer_of(), torch.randn(5, 6)
    rates, prior = layer.eval().mean_mask(x), layer.prior_logits.sigmoid()
    expected = kl_divergence(Bernoulli(rates), Bernoulli(prior.expand(5, 6))).sum(1)
    torch.testing.assert_close(layer.divergence_by_example(x), expected)


def test_a_prior_that_is_the_rate_costs_nothing():
    layer = ContextualDropout(6)
    with torch.no_grad():
        layer.excite_weight.zero_()
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer.divergence_by_example(x), torch.zeros(5))
    assert_mean_close(layer.eval().draw_mask({}, x[:1].expand(20_000, 6)), 0.9)


def test_the_learned_prior_s_optimum_is_the_mean_rate():
    layer, x = layer_of(), torch.randn(50, 6)
    mean = layer.eval().mean_mask(x).mean(0).detach()
    with torch.no_grad():
        layer.prior_logits.copy_(torch.logit(mean))
    gradient = torch.autograd.grad(layer.divergence_by_example(x).mean(), layer.prior_logits)
    torch.testing.assert_close(gradient, (torch.zeros(6),))


@pytest.mark.parametrize("masks", [1, 3])
def test_loss_and_program_agree_in_expectation(masks):
    bnn, x, y = network(kl_scale=0.5), torch.randn(5, 6), torch.randint(3, (5,))
    bnn.kl_weight = 0.3
    ours = [float(bnn.loss(x, y, num_masks=masks).loss.detach()) for _ in range(100)]
    loss = TraceMeanField_ELBO().loss
    theirs = [loss(bnn.model, bnn.guide, x, y, num_masks=masks) for _ in range(70)]
    assert_means_equal(torch.tensor(ours), torch.tensor(theirs))


def test_the_divergence_is_a_factor_of_each_example_and_absent_from_predictions():
    bnn, x, y = network(), torch.randn(5, 6), torch.randint(3, (5,))
    trace = poutine.trace(bnn.model).get_trace(x, y)
    trace.compute_log_prob()
    node = trace.nodes["0.divergence"]
    expected = -bnn.network[0].divergence_by_example(x)
    torch.testing.assert_close(node["log_prob"], 8 * expected)
    assert "0.divergence" not in poutine.trace(bnn.model).get_trace(x).nodes


def test_the_loss_bounds_the_evidence_with_any_number_of_masks():
    """Against the sum over all masks of both layers' prior, in a network of few units."""
    net = nn.Sequential(layer_of(3), nn.Linear(3, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=1)
    x, y = torch.randn(1, 3), torch.zeros(1).long()
    prior = Bernoulli(logits=net[0].prior_logits)
    masks = prior.enumerate_support(expand=False).new_tensor(
        [[i >> k & 1 for k in range(3)] for i in range(8)]
    )
    joint = prior.log_prob(masks).sum(1) + net[1](x * masks).log_softmax(1)[:, 0]
    evidence = float(-torch.logsumexp(joint, 0).detach())
    net[0].relaxation = "bernoulli-straight-through"
    for count in (1, 4):
        with torch.no_grad():
            losses = [bnn.loss(x, y, num_masks=count).loss for _ in range(200)]
        assert float(torch.stack(losses).mean()) > evidence


def test_what_examples_add_is_the_loss_without_what_they_share(monkeypatch):
    noise_by_shape(monkeypatch)
    bnn, x, y = network(kl_scale=0.5), torch.randn(5, 6), torch.randint(3, (5,))
    bnn.kl_weight = 0.3
    whole = bnn.data_term(x, y) * 8 + bnn.shared_divergence()
    torch.testing.assert_close(bnn.loss(x, y).loss, whole)


def test_a_plain_loop_counts_it_by_a_context():
    bnn, x, y = network(), torch.randn(5, 6), torch.randint(3, (5,))
    bnn.eval()
    with LocalDivergences() as local:
        output = bnn.network(x)
    plain = nn.functional.cross_entropy(output, y) + local.mean()
    torch.testing.assert_close(bnn.loss(x, y).loss, 40 * plain)
    assert float(bd.kl_divergence(bnn.network)) == 0


def test_reinforce_has_the_gradient_of_the_expected_loss_and_divergence():
    net = nn.Sequential(layer_of(2), nn.Linear(2, 2, bias=False))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=3)
    x, y = torch.randn(3, 2), torch.zeros(3).long()
    layer, weights = net[0], list(net[0].parameters())
    rates = layer.log_odds(x).sigmoid()
    total = layer.divergence_by_example(x).sum()
    for mask in torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]):
        probs = torch.where(mask > 0, rates, 1 - rates).prod(1)
        total = total - (probs * net[1](x * mask).log_softmax(1)[:, 0]).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, weights)])
    drawn = [
        torch.cat([g.flatten() for g in torch.autograd.grad(Reinforce()(bnn, x, y).loss, weights)])
        for _ in range(400)
    ]
    assert_mean_close(torch.stack(drawn), expected)


@pytest.mark.parametrize("per_input", [False, True])
def test_the_compact_network_has_the_small_network_of_the_units_that_are_left(per_input):
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), layer_of(6, unit_dim=-3, threshold=0.5)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), layer_of(5, threshold=0.4)),
        nn.Linear(5, 2),
    ).eval()
    net[2].prune(torch.tensor([1, 0, 0, 1, 0, 0]).bool())
    x = torch.randn(7, 1, 4, 4)
    small = bd.compact(net, x, per_input=per_input)
    torch.testing.assert_close(small(x), net(x))
    assert small.get_submodule("0").out_channels == 4
    cost = bd.compression.measure_per_input(net, x)
    assert cost.units_total == {"2": 6, "7": 5} and cost.units["2"] < 4


def test_units_that_nothing_reads_stay_where_the_gate_looks_at_them():
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), layer_of(6), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        net[3].weight[:, :4] = 0.0
    x = torch.randn(7, 3)
    torch.testing.assert_close(bd.compact(net, x)(x), net(x))


def test_a_small_file_runs_without_the_package(tmp_path):
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), layer_of(6), nn.Linear(6, 2)).float().eval()
    x = torch.randn(7, 3).float()
    bd.save_plain(bd.compact(net, x), tmp_path / "small.pt2", x)
    torch.testing.assert_close(bd.load_plain(tmp_path / "small.pt2")(x), net(x))


def test_the_checks_of_the_elbo_pass():
    table = bd.check_elbo(network(), torch.randn(8, 6), torch.randint(3, (8,)), num_samples=100,
                          num_repeats=20)  # fmt: skip
    assert table.passed, table


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="a whole reduction >= 1"):
        ContextualDropout(3, reduction=0)
    with pytest.raises(ConfigError, match="a prior that can be learned"):
        ContextualDropout(3, prior_keep_prob=None)
    with pytest.raises(ConfigError, match="num_masks='exact'"):
        network().loss(torch.randn(5, 6), torch.zeros(5).long(), num_masks="exact")
