"""Units are followed through what moves, joins and multiplies them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.compression.counter import CostCounter
from tests.compression.networks import keep

KEPT = (0, 2, 3, 7)


class Between(nn.Module):
    """A convolution, a mask that keeps four of eight channels, an operation, another layer."""

    def __init__(self, operation, head):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.mask = keep(bd.BetaBernoulliDropout(8, unit_dim=-3), KEPT)
        self.gate1, self.gate2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.shift = nn.Parameter(torch.randn(8))
        self.operation, self.head = operation, head

    def forward(self, x):
        return self.head(self.operation(self, self.mask(F.relu(self.conv(x)))))


def shuffled(net, x):
    n, c, h, w = x.size()
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def swapped(net, x):
    first, second = x.chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


def split(net, x):
    first, second = torch.split(x, [3, 5], 1)[0], torch.split(x, [3, 5], 1)[-1]
    return torch.cat([second, first], 1)


def reversed_pieces(net, x):
    return torch.cat(torch.split(x, [3, 5], 1)[::-1], 1)


def between_places(net, x):
    first, second, third = torch.tensor_split(x, [3, 5], dim=1)
    return torch.cat([third, first, second], 1)


def unbound(net, x):
    columns = x.unbind(dim=-1)
    return torch.stack([columns[-1], columns[0] * columns[2].sigmoid()], -1)


def checked(net, x):
    torch._assert(x.ndim == 4, f"expected images, got {x.ndim} dimensions")
    torch._assert(x.dim() == 4, "expected images")
    return x.to(x.dtype)


def conv(inputs=8):
    return nn.Conv2d(inputs, 5, 3, padding=1)


OPERATIONS = {
    "concatenation": (lambda net, x: torch.cat([x, x.tanh()], 1), conv(16)),
    "concatenation of the input": (lambda net, x: torch.cat([x, net.gate1(x)], 1), conv(12)),
    "a branch that is not used": (
        lambda net, x: torch.cat([x, net.gate2(net.gate1(x))], 1)[:, :8],
        conv(),
    ),
    "chunks": (swapped, conv()),
    "split": (split, conv()),
    "reversed pieces": (reversed_pieces, conv()),
    "channel shuffle": (shuffled, conv()),
    "slice": (lambda net, x: x[:, 2:8], conv(6)),
    "squeeze and excite": (
        lambda net, x: x * torch.sigmoid(net.gate2(F.relu(net.gate1(x.mean((2, 3), True))))),
        conv(),
    ),
    "layer scale": (lambda net, x: net.scale * x, conv()),
    "shifts of channels last": (
        lambda net, x: x.permute(0, 2, 3, 1) + net.shift,
        nn.Linear(8, 5),
    ),
    "layer scale in another shape": (lambda net, x: x * net.shift.view(1, -1, 1, 1), conv()),
    "an assertion": (lambda net, x: x + 0 * checked(net, x).mean(), conv()),
    "numbers": (lambda net, x: 2 * x / 3 - 0 * x, conv()),
    "the number of units": (lambda net, x: x * x.size(1) ** -0.5, conv()),
    "a shape": (lambda net, x: F.interpolate(x, size=x.shape[-2:]), conv()),
    "interpolation": (lambda net, x: F.interpolate(x, scale_factor=2, mode="bicubic"), conv()),
    "padding": (lambda net, x: F.pad(x, (1, 0, 2, 1)), conv()),
    "channels last": (lambda net, x: x.permute(0, 2, 3, 1), nn.Linear(8, 5)),
    "tokens": (lambda net, x: x.flatten(2).transpose(1, 2).mean(1), nn.Linear(8, 5)),
    "tokens by their sizes": (
        lambda net, x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1, x.shape[1]),
        nn.Linear(8, 5),
    ),
    "one place": (lambda net, x: x[:, :, 0, -1], nn.Linear(8, 5)),
    "largest at each of four places": (lambda net, x: F.adaptive_max_pool2d(x, 2), conv()),
    "pixel unshuffle": (lambda net, x: F.pixel_unshuffle(x, 2), conv(32)),
    "pieces between places": (between_places, conv()),
    "pieces by their number": (
        lambda net, x: torch.cat(x.tensor_split(3, dim=1)[::-1], 1),
        conv(),
    ),
    "columns": (unbound, conv()),
    "rolled": (lambda net, x: torch.roll(x, (1, 2), dims=(2, 3)), conv()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_units_go_through_an_operation_exactly(name):
    operation, head = OPERATIONS[name]
    net = Between(operation, copy.deepcopy(head).double()).double().eval()
    small = bd.compact(net, torch.randn(2, 3, 6, 6))
    assert small.conv.out_channels == (3 if name == "slice" else 4)
    assert_equal(net, small)
    x = torch.randn(2, 3, 6, 6)
    cost = CostCounter(net, x)({"mask": net.mask.mean_mask()})
    assert sum(cost.params.values()) == bd.compression.count_params(small)
    assert sum(cost.flops.values()) == bd.compression.count_flops(small, x)


def assert_equal(net, small):
    with torch.no_grad():
        for shape in ((1, 3, 6, 6), (5, 3, 6, 6)):
            x = torch.randn(shape)
            assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "operation",
    [
        lambda net, x: torch.stack(torch.unbind(x, 1)[::-1], 1),
        lambda net, x: x.repeat(1, 2, 1, 1)[:, 4:12],
    ],
)
def test_an_operation_that_is_not_known_sees_all_units(operation):
    net = Between(operation, conv().double()).double().eval()
    small = bd.compact(net, torch.randn(2, 3, 6, 6))
    assert small.head.in_channels == 8
    assert_equal(net, small)


@pytest.mark.parametrize(
    "operation",
    [
        lambda net, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(2),
        lambda net, x: x.mean((2, 3)).squeeze(1),
        lambda net, x: x.mean((2, 3), keepdim=True).squeeze(dim=(2, 3)),
        lambda net, x: torch.reshape(x.mean((2, 3)), shape=(-1, 8)),
        lambda net, x: x.mean((2, 3)).unsqueeze(-1).expand(-1, 8, 3).mean(-1),
        lambda net, x: x.mean((2, 3), keepdim=True).view(x.mean((2, 3)).shape),
    ],
)
def test_a_single_unit_keeps_its_dimension(operation):
    net = Between(operation, nn.Linear(8, 5))
    keep(net.mask, (3,))
    small = bd.compact(net.double().eval(), torch.randn(2, 3, 6, 6))
    assert small.conv.out_channels == 1
    assert_equal(net, small)


@pytest.mark.parametrize("kept", [range(4), (0, 1, 2, 3, 5)])
def test_a_pixel_shuffle_loses_the_units_of_which_all_parts_are_closed(kept):
    net = Between(lambda net, x: F.pixel_shuffle(x, 2), nn.Conv2d(2, 5, 3))
    keep(net.mask, kept)
    small = bd.compact(net.double().eval(), torch.randn(2, 3, 6, 6))
    assert small.head.in_channels == 1 + (5 in kept)
    assert_equal(net, small)


def test_tokens_of_any_number_go_through_what_moves_channels():
    net = Between(lambda net, x: x.flatten(2).transpose(1, 2), nn.Linear(8, 5))
    small = bd.compact(net.double().eval(), torch.randn(2, 3, 6, 6))
    x = torch.randn(1, 3, 9, 4)
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)


class Positions(nn.Module):
    """What is not a unit is not cut, whatever its number was in the example."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)
        self.mask = keep(bd.BetaBernoulliDropout(6), (1, 2))

    def forward(self, x):
        first, second = self.words(x).chunk(2, dim=1)
        return self.head(self.mask(torch.cat([second, first], 1)[:, 1:]))


def test_a_sequence_may_have_another_length_than_the_example():
    net = Positions().double().eval()
    small = bd.compact(net, torch.randint(9, (2, 8)))
    x = torch.randint(9, (3, 12))
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)


def test_a_number_before_a_tensor_can_be_exported(tmp_path):
    net = Between(lambda net, x: 1 - 2 * x, conv()).float().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float32)
    small = bd.compact(net, x)
    bd.save_plain(small, tmp_path / "net.onnx", x, format="onnx")
    torch.testing.assert_close(bd.load_plain(tmp_path / "net.onnx")(x), small(x))


def test_one_unit_of_a_table_can_be_selected():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.words = (
                nn.Linear(6, 8),
                nn.Linear(8, 3),
                nn.Embedding(5, 3),
            )
            self.mask = keep(bd.BetaBernoulliDropout(8), KEPT)

        def forward(self, x, kinds):
            h = self.mask(self.first(x))
            return (self.last(h) + self.words(kinds[:, 1])) * x[:, 2].unsqueeze(1)

    net = Wide().double().eval()
    x, kinds = torch.randn(4, 6).double(), torch.randint(5, (4, 2))
    small = bd.compact(net, (x, kinds))
    assert small.get_submodule("last").in_features == len(KEPT)
    for part in (slice(4), slice(1)):
        torch.testing.assert_close(small(x[part], kinds[part]), net(x[part], kinds[part]))


WHOLE = {
    "narrow": lambda net, x: x.narrow(1, 0, 8),
    "torch.narrow": lambda net, x: torch.narrow(x, 1, 0, 8),
    "slice": lambda net, x: x[:, 0:8],
    "list": lambda net, x: x[:, [0, 1, 2, 3, 4, 5, 6, 7]],
    "roll": lambda net, x: x.roll(8, 1),
    "roll twice": lambda net, x: torch.roll(x, 16, 1),
    "unflatten": lambda net, x: x.unflatten(1, (8, 1))[:, :, 0],
    "unflatten first": lambda net, x: torch.unflatten(x, 1, (1, 8))[:, 0],
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_names_the_number_of_units_and_leaves_them_in_order_is_exact(name):
    net = Between(WHOLE[name], nn.Conv2d(8, 4, 1)).eval()
    small = bd.compact(net, torch.randn(2, 3, 4, 4))
    x = torch.randn(3, 3, 5, 4)
    torch.testing.assert_close(small(x), net(x))
    assert small.head.in_channels == len(KEPT)


class Steps(nn.Module):
    """Units in the last dimension, and steps in the second, which an operation moves."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.mask = nn.Linear(4, 8), keep(bd.BetaBernoulliDropout(8), KEPT)
        self.drop, self.last, self.operation = nn.Dropout1d(0.2), nn.Linear(8, 3), operation

    def forward(self, x):
        return self.last(self.operation(self, self.mask(self.first(x))))


def interleaved(net, x):
    n, t, k = x.shape
    return x.view(n, 2, t // 2, k).transpose(1, 2).reshape(n, t, k)


def in_heads(x):
    n, t, _ = x.shape
    return x.view(n, t, 2, 4).transpose(1, 2)


MOVED_STEPS = {
    "dropout of maps": lambda net, x: net.drop(x.permute(0, 2, 1)).permute(0, 2, 1),
    "steps first": lambda net, x: net.drop(x.transpose(0, 1)).transpose(0, 1),
    "interleaved": interleaved,
    "heads": lambda net, x: in_heads(x).transpose(1, 2).flatten(2),
}


@pytest.mark.parametrize("name", MOVED_STEPS)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_what_moves_steps_is_exact_for_other_numbers_of_steps(name, rows):
    net = Steps(MOVED_STEPS[name]).eval()
    small = bd.compact(net, torch.randn(rows, 6, 4))
    for steps in (2, 6, 10):
        x = torch.randn(3, steps, 4)
        torch.testing.assert_close(small(x), net(x))
    assert small.first.out_features == len(KEPT)


def test_first_arguments_may_be_given_by_name():
    class Named(Between):
        def forward(self, x):
            x = self.mask(F.relu(input=self.conv(input=x)))
            x = torch.permute(input=torch.cat(tensors=[x, x], dim=1), dims=(0, 2, 3, 1))
            x = torch.where(input=x, condition=x > 0, other=torch.add(input=x, other=1.0))
            return self.head(input=torch.mean(input=x, dim=(1, 2)))

    net, x = Named(None, nn.Linear(16, 5)).eval(), torch.randn(2, 3, 4, 4)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x))
    assert small.get_submodule("conv").out_channels == 4


def test_a_linear_function_with_one_output_and_no_dimension_for_it():
    class Dot(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = keep(bd.BetaBernoulliDropout(8), KEPT)
            self.weight = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return F.linear(self.mask(x), self.weight)

    net, x = Dot().eval(), torch.randn(3, 8)
    torch.testing.assert_close(bd.compact(net, x)(x), net(x))
