"""Masks that are put into a trained network start so that it keeps what it knew."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.conversion import conversion_report
from bayesdrop.conversion.evidence import looks_trained
from bayesdrop.errors import ConversionError, ConversionWarning
from bayesdrop.nn import layers, registered

MASKS = registered(bd.BayesianDropout)
FIXED = [key for key, cls in layers.items() if cls.fixed_rate]
LEARNED = [key for key, cls in MASKS.items() if not cls.fixed_rate]


def dense():
    return nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)
    )


def convs():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def step(net, shape, optimizer=torch.optim.Adam, rate=1e-2, steps=10):
    """Train a little."""
    optimizer = optimizer(net.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.randn(20, *shape)), torch.arange(20) % 3).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize(
    "build",
    [
        dense,
        convs,
        bd.networks.lenet_500_300,
        bd.networks.lenet5_caffe,
        lambda: bd.networks.vgg(width=0.1),
        lambda: nn.LayerNorm(5),
        lambda: nn.Sequential(nn.Linear(4, 4, bias=False)),
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
    ],
)
def test_new_networks_do_not_look_trained(build):
    for seed in range(5):
        torch.manual_seed(seed)
        assert not looks_trained(build())


def test_new_networks_of_torchvision_do_not_look_trained():
    from torchvision.models import mobilenet_v3_small, resnet18, squeezenet1_1

    for build in (mobilenet_v3_small, resnet18, squeezenet1_1):
        assert not looks_trained(build(weights=None))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize(("build", "shape"), [(dense, (6,)), (convs, (1, 6, 6))])
def test_trained_networks_do(build, shape, optimizer):
    rate = 1e-2 if optimizer is torch.optim.Adam else 1.0
    assert looks_trained(step(build(), shape, optimizer, rate))


def test_biases_that_began_at_zero_and_stayed_small_look_trained():
    net = dense()
    for module in net:
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()
    assert not looks_trained(net)
    for module in net:
        if isinstance(module, nn.Linear):
            module.bias.data.normal_(0, 0.01)
    assert looks_trained(net)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_biases_within_their_bounds_but_on_one_side_look_trained(sign):
    net = dense()
    for module in net:
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.bias.data.uniform_(0.5 * bound, bound).mul_(sign)
    assert looks_trained(net)


def test_scales_of_a_norm_that_differ_look_trained():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5))
    assert not looks_trained(net)
    net[1].weight.data[0] = 0.9
    assert looks_trained(net)


@pytest.mark.parametrize("key", LEARNED)
def test_every_learned_mask_starts_nearly_open_in_a_trained_network(key):
    net = step(dense(), (6,)).eval()
    x = torch.randn(50, 6)
    started = bd.convert(net, key, input_dropout=False)
    assert conversion_report(started).trained
    change = (started(x) - net(x)).abs().mean() / net(x).std()
    plain = bd.convert(net, key, trained=False, input_dropout=False)
    before = (plain(x) - net(x)).abs().mean() / net(x).std()
    assert float(change.detach()) < 0.12 and bool(change <= before)
    for _, layer in bd.nn.named_dropout_layers(started):
        assert float(layer.keep_prob().detach().mean()) > 0.9 and bool(layer.kept().all())


def test_the_more_layers_the_more_open_each():
    def keep(depth):
        parts = [part for _ in range(depth) for part in (nn.Linear(5, 5), nn.ReLU())]
        net = bd.convert(nn.Sequential(*parts, nn.Linear(5, 2)), trained=True)
        return {round(m.keep_prob()[0].item(), 6) for _, m in bd.nn.named_dropout_layers(net)}

    assert keep(1) == {round(1 - 0.05 / 2, 6)} and keep(9) == {round(1 - 0.05 / 10, 6)}
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)  # with heads and hidden units
    net = bd.convert(nn.Sequential(encoder, nn.Linear(4, 2)), trained=True)
    start = [m.keep_prob()[0].item() for _, m in bd.nn.named_dropout_layers(net)]
    assert start == pytest.approx([1 - 0.05 / 3] * 3)


def test_untrained_networks_and_given_options_start_as_they_say():
    net = dense()
    start = [m.keep_prob()[0].item() for _, m in bd.nn.named_dropout_layers(bd.convert(net))]
    assert start == pytest.approx([5 / 6] * 3)
    trained = step(dense(), (6,))
    for options in ({"trained": False}, {"init_concentration1": 5.0}):
        found = bd.nn.named_dropout_layers(bd.convert(trained, **options))
        assert [m.keep_prob()[0].item() for _, m in found] == pytest.approx([5 / 6] * 3)


@pytest.mark.parametrize("key", FIXED)
def test_noise_of_a_fixed_rate_is_not_put_where_there_never_was_any(key):
    net = step(dense(), (6,))
    with pytest.raises(ConversionError, match=r"never had dropout there \(drop_prob=0.1"):
        bd.convert(net, key)
    for options in (
        {"drop_prob": 0.1},
        {"trained": False},
        {"overrides": {"*": {"drop_prob": 0.2}}},
    ):
        assert len(conversion_report(bd.convert(net, key, **options)).placed) == 3
    assert len(conversion_report(bd.convert(dense(), key)).placed) == 3


@pytest.mark.parametrize("key", [key for key in FIXED if key in MASKS])
def test_the_dropout_that_a_trained_network_has_is_replaced_and_the_rest_named(key):
    net = dense()
    net.insert(2, nn.Dropout(0.3))
    net = step(net, (6,))
    with pytest.warns(ConversionWarning, match=r"'0' \(Linear.*'5' \(Linear.*never had dropout"):
        converted = bd.convert(net, key)
    found = dict(bd.nn.named_dropout_layers(converted))
    assert {n: float(m.drop_prob) for n, m in found.items()} == {"3_dropout": pytest.approx(0.3)}
    bd.convert(net, key, linear=False, conv=False)  # only these are asked for: no warning


def test_the_rate_of_several_dropouts_in_a_row_is_that_of_all():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout2d(0.2), nn.Dropout2d(0.5),
        nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Dropout(0.5), nn.Linear(32, 3),
    )  # fmt: skip
    with pytest.warns(ConversionWarning, match=r"'4' \(Conv2d.*never had dropout"):
        converted = bd.convert(net, "mc-dropout", trained=True)
    rates = {n: float(m.drop_prob) for n, m in bd.nn.named_dropout_layers(converted)}
    assert rates == {"0_dropout": pytest.approx(0.6), "9_dropout": pytest.approx(0.65)}
