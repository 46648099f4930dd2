"""Laws of the term by which any loop trains what `fit` trains."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, ConfigError, UncountedDivergenceWarning
from bayesdrop.inference.optimizers import parameter_groups
from bayesdrop.integrations import KLTerm
from bayesdrop.nn import context

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)
Y = torch.tensor([0, 1, 0, 1, 1, 0])


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*(layers or (bd.BetaBernoulliDropout(4),)), nn.Linear(4, 2))


def by_hand(net, accumulated=1, batches=3, epochs=2, **options):
    """Return the network after a plain loop over the same batches."""
    optimizer = torch.optim.Adam(parameter_groups(net, learning_rate=0.1))
    term = KLTerm(net, len(X), **options)
    torch.manual_seed(2)
    steps, step = epochs * -(-batches // accumulated), 0
    for _ in range(epochs):
        for start in range(0, batches, accumulated):
            term.at(step, steps)
            optimizer.zero_grad()
            for number in range(start, min(start + accumulated, batches)):
                rows = slice(2 * number, 2 * number + 2)
                with term:
                    nll = F.cross_entropy(net(X[rows]), Y[rows])
                ((nll + term()) / accumulated).backward()
            optimizer.step()
            step += 1
    return net


def term_of(net, **options):
    term = KLTerm(net, len(X), **options)
    with term:
        output = net(X)
    return term, term(), output


@pytest.mark.parametrize(
    "layer", ["beta-bernoulli", "hard-concrete", "contextual", "indian-buffet", "group-lasso"]
)
def test_a_loss_with_the_term_is_that_of_the_program(layer):
    net = network(bd.nn.layers[layer](4))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(X), kl_weight=0.5)
    torch.manual_seed(1)
    _, term, output = term_of(net, kl_weight=0.5)
    torch.manual_seed(1)
    terms = bnn.loss(X, Y)
    torch.testing.assert_close(len(X) * F.cross_entropy(output, Y), terms.nll)
    torch.testing.assert_close(len(X) * term, terms.kl)


def test_a_loop_with_the_term_is_fit():
    options = {"buffers": {"temperature": bd.schedules.linear(1.0, 0.1)}}
    options["kl_weight"] = bd.schedules.warm_up(0.5)
    ours, theirs = network(), network()
    bnn = bd.BayesianNetwork(theirs, bd.Categorical(), num_data=len(X))
    bd.fit(
        bnn, (X, Y), epochs=4, batch_size=6, schedule=(), seed=3, progress=False, **options,
        optimizer=lambda groups: torch.optim.SGD(groups), objective=as_a_loop,
    )  # fmt: skip
    optimizer = torch.optim.SGD(parameter_groups(ours))
    term = KLTerm(ours, len(X), **options)
    term.attach(optimizer)
    torch.manual_seed(3)
    for epoch in range(4):
        order = torch.randperm(len(X))
        term.at(epoch, 4)
        optimizer.zero_grad()
        with term:
            nll = F.cross_entropy(ours(X[order]), Y[order])
        (nll + term()).backward()
        optimizer.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert term.figures() == {"kl": term.last, "kl_weight": 1.0, "units/0": 4.0}


def test_what_layers_share_is_not_among_the_figures():
    sticks = bd.nn.layers["hierarchical-indian-buffet"]
    assert [name for name in KLTerm(network(sticks(4)), 6).figures() if "/" in name] == ["units/0"]


def as_a_loop(bnn, x, y):
    nll = F.cross_entropy(bnn.network(x), y) * bnn.num_data
    return bd.inference.training.LossTerms(nll, bnn.shared_divergence())


def test_layers_make_their_own_step_after_that_of_the_optimizer():
    net = network(bd.nn.layers["group-lasso"](4, cost_per_norm=500.0))
    net[0].bind_weights(net[1], dim=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    term = KLTerm(net, len(X))
    with pytest.raises(ConfigError, match="not scaled, since a layer makes a step"):
        term.attach(optimizer, scaler=torch.amp.GradScaler("cpu"))
    term.attach(optimizer)
    with term:
        loss = F.cross_entropy(net(X), Y)
    (loss + term()).backward()
    optimizer.step()
    assert int(net[0].kept().sum()) == 0 and term.figures()["units/0"] == 0
    term.detach()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("counts_already", [
    lambda net: bd.BayesianNetwork(net, bd.Categorical(), len(X)).loss(X, Y),
    lambda net: F.cross_entropy(net(X), Y) + bd.kl_divergence(net) / len(X),
], ids=["bnn.loss", "kl_divergence"])  # fmt: skip
def test_a_divergence_that_is_in_the_loss_already_is_refused(counts_already):
    net = network()
    term = KLTerm(net, len(X))
    with term:
        counts_already(net)
    with pytest.raises(ConfigError, match="to be counted twice"):
        term()


def test_bad_terms_say_what_is_wrong():
    net = network()
    with pytest.raises(ConfigError, match=r"without any. Put them in with bd.convert"):
        KLTerm(nn.Linear(2, 2), 10)
    with pytest.raises(ConfigError, match="a whole num_data >= 1"):
        KLTerm(net, 0.5)
    with pytest.raises(ConfigError, match="kl_weight > 0, got 0"):
        KLTerm(net, 6, kl_weight=0).at(0, 1)
    with pytest.raises(ConfigError, match="with kl_weight=0.1"):
        KLTerm(bd.BayesianNetwork(net, bd.Categorical(), 6, kl_weight=0.1), 6)
    with pytest.raises(ConfigError, match="got none since the last call"):
        KLTerm(net, 6)()
    with pytest.raises(ConfigError, match="got a call inside"), KLTerm(net, 6) as term:
        term()
    with pytest.raises(ConfigError, match="optimizer of this network's posterior"):
        KLTerm(net, 6).attach(torch.optim.SGD(network().parameters()))
    with pytest.warns(BayesdropWarning, match="decays parameters of the posterior"):
        KLTerm(net, 6).attach(torch.optim.AdamW(net.parameters()))


def test_who_leaves_the_divergence_out_hears_of_it_once(monkeypatch):
    monkeypatch.setattr(context, "_MANY_PASSES", 5)
    net = network(bd.BetaBernoulliDropout(4), bd.ConcreteDropout(4))
    with pytest.warns(UncountedDivergenceWarning, match="nothing asked for its KL") as caught:
        for _ in range(20):
            net(X)
    assert len(caught) == 1


@pytest.mark.parametrize("case", ["counted", "fixed", "frozen", "evaluated"])
def test_nobody_else_hears_of_it(monkeypatch, case):
    monkeypatch.setattr(context, "_MANY_PASSES", 5)
    net = network(bd.MonteCarloDropout(4) if case == "fixed" else bd.IndianBuffetDropout(4))
    net[0].requires_grad_(case != "frozen")
    net.train(case != "evaluated")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if case == "counted":
            bd.kl_divergence(net)
        for _ in range(20):
            net(X)


def one_step(run, net):
    term = KLTerm(net, len(X))
    torch.manual_seed(1)
    with term:
        output = run(X)
    return output, term


def test_gradient_checkpointing_keeps_the_gradient_of_an_example_s_own_mask_or_is_refused():
    gradients = []
    net = network(bd.nn.layers["contextual"](4))
    for run in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        net.zero_grad()
        output, term = one_step(run, net)
        (F.cross_entropy(output, Y) + term()).backward()
        gradients.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*gradients)
    inputs = X.clone().requires_grad_()
    _, term = one_step(lambda _: checkpoint(net, inputs, use_reentrant=True), net)
    with pytest.raises(ConfigError, match="needs use_reentrant=False"):
        term()


def test_the_term_is_not_lowered_by_autocast():
    net = network(bd.MonteCarloDropout(4)).float()
    net[0].penalty = lambda: (net[1].weight @ net[1].weight.T).sum()
    with torch.autocast("cpu", torch.bfloat16):
        with KLTerm(net, 6) as term:
            net(X.float())
        term()
    with KLTerm(net, 6) as again:
        net(X.float())
    again()
    assert term.last == again.last


def test_layers_that_learn_must_sample():
    net = network().eval()
    with pytest.raises(ConfigError, match="in evaluation mode"), KLTerm(net, 6):
        net(X)
    net[0].requires_grad_(False)
    with KLTerm(net, 6) as term:
        net(X)
    assert not term().requires_grad


def test_a_posterior_in_half_precision_or_in_parts_is_refused():
    with pytest.raises(ConfigError, match="float32, got bfloat16"):
        KLTerm(network().bfloat16(), 6)
    net = network()
    _, term = one_step(net, net)
    net[0].location = nn.Parameter(torch.zeros(0))
    with pytest.raises(ConfigError, match="that are shared out"):
        term()


def test_layers_step_once_however_often_the_loop_is_told_of_its_optimizer(monkeypatch):
    net = network(bd.nn.layers["group-lasso"](4, cost_per_norm=1.0))
    net[0].bind_weights(net[1], dim=1)
    steps = []
    monkeypatch.setattr(type(net[0]), "after_step", lambda self, made: steps.append(made))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = KLTerm(net, len(X))
    first.attach(optimizer)
    first.attach(optimizer)
    optimizer.step()
    assert steps == [optimizer]
    first.detach()
    KLTerm(net, len(X)).attach(optimizer)
    optimizer.step()
    assert steps == [optimizer] * 2
