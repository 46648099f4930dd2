"""Forwards that ask or do what a graph of operations does not have: the network decides."""

import operator
import random
import types

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import CompactionError, ConversionError
from bayesdrop.networks.aliases import read_later
from bayesdrop.networks.tracing import LayerTracer, leaf_modules
from bayesdrop.nn import named_dropout_layers

KEEP = 1e6  # a concentration at which every mask is one


class Net(nn.Module):
    """Two layers and a function of them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.number, self.kept = nn.Linear(6, 8), nn.Linear(8, 3), 1.0, {}
        self.function = function

    def forward(self, x):
        return self.b(self.function(self, self.a(x), x))


def has_logits(net, h, x):
    return F.relu(h.logits if hasattr(h, "logits") else h)


def logits_or_itself(net, h, x):
    return F.relu(getattr(h, "logits", h))


def by_exact_type(net, h, x):
    return F.relu(h) if type(h) is torch.Tensor and isinstance(x, type(h)) else h


def by_parameter(net, h, x):
    return F.relu(h) if isinstance(net.b.weight, nn.Parameter) else h


def by_type_of_size(net, h, x):
    whole = isinstance(h.shape[-1], int) and isinstance(h.size(0) // 2 + h.dim(), int)
    sizes = isinstance(h.shape, tuple) and isinstance(h.size(), tuple)
    return F.relu(h) if whole and sizes and isinstance(h.T, torch.Tensor) else h


def by_a_mark(net, h, x):
    return h if hasattr(x, "mark") else F.relu(h)


def by_caught_values(net, h, x):
    try:
        return F.relu(h) if h.sum() > -1e9 else h
    except Exception:
        return h


def by_caught_length(net, h, x):
    try:
        return F.relu(h) * len(h)
    except Exception:
        return h


def by_caught_number(net, h, x):
    try:
        return F.relu(h) * int(h.detach().sum() * 0 + 1)
    except Exception:
        return h


def with_gradients(net, h, x):
    return F.relu(h) if torch.is_grad_enabled() else F.silu(h)


def annealed(net, h, x):
    net.number = max(0.5, net.number * 0.5)
    return F.relu(h) / net.number


def cached_by_text(net, h, x):
    key = f"{x.shape[1]}"
    if key not in net.kept:
        net.kept[key] = torch.ones(x.shape[1]).sum()
    return F.relu(h) * net.kept[key]


def by_numpy(net, h, x):
    return F.relu(h) * np.prod(x.shape[1:]) / np.sqrt(x.shape[-1])


def in_place_of_two_names(net, h, x):
    g = h
    g += 1
    return F.relu(h * g)


def in_place_of_a_view(net, h, x):
    part = h[:, :4]
    part *= 2
    return F.relu(h)


def viewed_later(net, h, x):
    g = h
    g *= 2
    return F.relu(h[:, :8])


def by_logic(net, h, x):
    positive = h > 0
    small = positive & (h < 0.5)
    return h * positive + h * small + h * (positive | small)


def in_bfloat16(net, h, x):
    with torch.autocast("cpu", torch.bfloat16):
        return (F.relu(h).float() @ torch.full((8, 8), 1 / 3, dtype=torch.float32)).to(h)


FUNCTIONS = [
    *(has_logits, logits_or_itself, by_exact_type, by_parameter, by_type_of_size, by_a_mark),
    *(by_caught_values, by_caught_length, by_caught_number, with_gradients, annealed),
    *(cached_by_text, by_numpy, in_place_of_two_names, in_place_of_a_view, in_bfloat16),
    *(by_logic, viewed_later),
]


def opened(net):
    for _, mask in named_dropout_layers(net):
        mask.set_posterior(torch.full((mask.num_units,), KEEP))
    return net.eval()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_open_masks_and_compaction_leave_what_forward_computes(function):
    net = Net(function).eval()
    masked = opened(bd.convert(net))
    x = torch.randn(3, 6)
    for gradients in (True, False):
        net.number = masked.number = 1.0
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(masked(x), net(x), rtol=1e-5, atol=1e-5)
    for _, mask in named_dropout_layers(masked):
        mask.set_posterior(torch.linspace(-1.0, 5.0, mask.num_units).clamp(min=1e-5))
    small = bd.compact(masked, x, check=False)
    masked.number = small.number = 1.0
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(x))


@pytest.mark.parametrize(
    "function",
    [
        *(has_logits, by_exact_type, by_parameter, by_type_of_size),
        *(in_place_of_two_names, in_place_of_a_view),
    ],
)
def test_what_is_known_of_tensors_needs_no_other_class(function):
    assert isinstance(bd.convert(Net(function)), fx.GraphModule)
    assert not {"hasattr", "getattr", "type"} & globals().keys()


class Reversed(torch.autograd.Function):
    """The identity, with the gradient of its negative."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Reversal(nn.Module):
    """The same as a module."""

    def forward(self, x):
        return Reversed.apply(x)


def without_gradients(net, h, x):
    with torch.no_grad():
        h = net.a(x)
    return F.relu(h)


REVERSAL = Reversal()


@pytest.mark.parametrize(
    "function",
    [without_gradients, lambda net, h, x: Reversed.apply(h), lambda net, h, x: REVERSAL(h)],
)
def test_gradients_are_those_of_the_network(function):
    net = Net(function)
    plain = bd.without_dropout(bd.convert(net))
    x = torch.randn(3, 6)
    for each in (net, plain):
        each(x).square().sum().backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_a_module_that_reverses_gradients_is_one_operation():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Reversal(), nn.Conv2d(4, 2, 3))
    masked = bd.convert(net)
    assert isinstance(masked, fx.GraphModule) and len(list(named_dropout_layers(masked))) == 1


def test_a_frozen_part_without_gradients_is_like_the_rest():
    net = Net(without_gradients)
    net.a.requires_grad_(False)
    assert isinstance(bd.convert(net), fx.GraphModule)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item()])
def test_a_branch_that_is_drawn_stays_one(draw):
    net = Net(lambda net, h, x: h if net.training and draw() < 0.5 else F.relu(h))
    masked = bd.convert(net)
    assert not isinstance(masked, fx.GraphModule)
    for _, mask in named_dropout_layers(masked):
        mask.register_forward_hook(lambda module, inputs, output: inputs[0])
    x = torch.randn(3, 6)
    found = [masked(x) for _ in range(50)]
    expected = [net.b(net.a(x)), net.b(F.relu(net.a(x)))]
    for value in expected:
        assert any(torch.allclose(value, other) for other in found)


class Frozen(nn.Module):
    """Holds a layer in one mode."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.b(self.drop(self.norm(self.a(x))))

    def train(self, mode=True):
        super().train(mode)
        held = self.drop if self.mode else self.norm
        held.training = self.mode
        return self


def test_a_layer_that_train_holds_in_evaluation_mode_stays_in_it():
    masked = bd.convert(Frozen(False), exclude="drop").train()
    before = masked.norm.running_mean.clone()
    masked(torch.randn(5, 6))
    assert torch.equal(masked.norm.running_mean, before)


def test_a_layer_that_is_never_in_evaluation_mode_is_refused():
    with pytest.raises(ConversionError, match=r"eval\(\) of its own that leaves 'drop'"):
        bd.convert(Frozen(True))


def test_a_forward_that_would_run_the_original_is_refused():
    net = Net(has_logits)
    old = net.forward
    net.forward = lambda x: old(2 * x)
    with pytest.raises(ConversionError, match="set as the forward of 'Net'"):
        bd.convert(net)


@pytest.mark.parametrize("name", ["", "0"])
def test_a_part_that_a_graph_goes_through_is_called_with_its_hooks(name):
    seen = []
    net = nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 2))
    part = net.get_submodule(name)
    part.register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    part.register_full_backward_pre_hook(lambda module, gradient: (0 * gradient[0],))
    masked = bd.convert(net)
    assert not seen  # nothing but tensors, and no call of the user's network
    masked(torch.randn(3, 6)).sum().backward()
    assert seen == [torch.Tensor]
    assert not masked.get_submodule("0.0").weight.grad.any()


@pytest.mark.parametrize("kind", ["method", "hook before", "hook behind"])
def test_a_call_that_is_more_than_the_class_s_forward_stays_so(kind):
    net = Net(has_logits).eval()
    if kind == "method":
        net.forward = types.MethodType(lambda self, x: self.b(self.a(x).tanh()), net)
    elif kind == "hook before":
        net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    else:
        net.register_forward_hook(lambda module, inputs, output: 2 * output)
    masked = opened(bd.convert(net))
    x = torch.randn(3, 6)
    torch.testing.assert_close(masked(x), net(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bd.compact(masked, x)(x), masked(x))


@pytest.mark.parametrize("name", ["", "0"])
def test_a_convolution_under_a_hook_is_refused_with_what_to_do(name):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 3))
    net.get_submodule(name).register_forward_hook(lambda module, inputs, output: 2 * output)
    match = f"on {repr(name) if name else 'itself'}.* Register it on a layer, or on what convert"
    with pytest.raises(ConversionError, match=match):
        bd.convert(net)


def test_a_change_in_place_is_a_sum_where_nobody_sees_it():
    def branches(net, h, x):
        out = F.relu(h)
        out += h
        return out

    net = Net(branches)
    graph = LayerTracer().trace(net)
    assert [str(n.target) for n in graph.nodes if n.op == "call_function"][-1].endswith("add>")
    # A view of what has changed sees the change, whoever makes it.
    for function, read in ((in_place_of_a_view, (False, True)), (viewed_later, (True, False))):
        net = Net(function)
        graph = LayerTracer().trace(net)
        (change,) = [n for n in graph.nodes if "imul" in str(n.target)]
        assert read_later(change, change.args[0], leaf_modules(net, graph)) == read


class Viewed(nn.Module):
    """Changes in place what something has made of a value that is read later."""

    def __init__(self, make):
        super().__init__()
        self.a, self.make = nn.Linear(8, 8), make

    def forward(self, x):
        h = self.a(x)
        made = self.make(h)
        made *= 2
        return h + 1


VIEWS = {
    "method": lambda h: h.narrow(1, 0, 4),
    "attribute": lambda h: h.T,
    "changed by a method": lambda h: h.neg_(),
    "changed by a function": lambda h: torch.neg_(h),
    "changed as it says": lambda h: F.relu(h, inplace=True),
    "changed by an operator": lambda h: operator.iadd(h, 1),
    "pieces": lambda h: h.chunk(2, 1)[0],
    "of a view": lambda h: h.view(-1).detach(),
    "passes": nn.Dropout(),
    "changed by a layer": nn.ReLU(inplace=True),
    "anything": Reversal(),
}
COPIES = {
    "clone": lambda h: h.clone(),
    "sum": lambda h: h + 1,
    "function": lambda h: F.relu(h),
    "keyword": lambda h: h & 1,
    "inverse": lambda h: ~h,
    "size": lambda h: h.shape[0],
    "layer": nn.ReLU(),
}
MADE = [(VIEWS[name], True) for name in VIEWS] + [(COPIES[name], False) for name in COPIES]


@pytest.mark.parametrize(("make", "shares"), MADE, ids=[*VIEWS, *(f"no {n}" for n in COPIES)])
def test_what_shares_numbers_is_known(make, shares):
    net = Viewed(make)
    graph = LayerTracer().trace(net)
    change = [n for n in graph.nodes if n.name.startswith(("imul", "mul"))][-1]
    read = read_later(change, change.args[0], leaf_modules(net, graph))
    assert read == (False, shares)


def test_a_change_of_a_view_inside_a_graph_is_refused_by_compact():
    net = nn.Sequential(nn.Linear(6, 8), bd.BetaBernoulliDropout(8), nn.Linear(8, 3)).eval()
    graph = LayerTracer().trace(net)
    last = next(n for n in graph.nodes if n.target == "2")
    with graph.inserting_before(last):
        view = graph.call_method("narrow", (last.args[0], 1, 0, 4))
        graph.call_method("mul_", (view, 2.0))
    module = fx.GraphModule(net, graph)
    x = torch.randn(3, 6)
    with pytest.raises(CompactionError, match="mul_"):
        from bayesdrop.compression.graph import traced

        traced(module, (x,))
