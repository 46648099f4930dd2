"""Heads and hidden units of transformers: gated, cut exactly, and said where they stay."""

import copy
import pickle
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.utils._pytree import tree_leaves

import bayesdrop as bd
from bayesdrop.compression import compaction_report, count_flops, count_params
from bayesdrop.nn import named_dropout_layers

transformers = pytest.importorskip("transformers", reason="pip install bayesdrop[transformers]")

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
IMAGES = {k: v for k, v in SMALL.items() if "vocab" not in k and "position" not in k}
IDS = torch.arange(27).reshape(3, 9)
PADDING = torch.ones(3, 9, dtype=torch.long)
PADDING[0, 5:] = 0


def close(net, share=0.5):
    """Close a share of the units of every mask; the others are not quite open."""
    for number, (_, layer) in enumerate(named_dropout_layers(net)):
        order = torch.randperm(layer.num_units, generator=torch.Generator().manual_seed(number))
        posterior = torch.linspace(2.0, 6.0, layer.num_units)
        posterior[order[: int(layer.num_units * share)]] = 1e-5
        layer.set_posterior(posterior)


def converted(net, share=0.5, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bd.errors.ConversionWarning)
        result = bd.convert(net, **options).eval()
    close(result, share)
    return result


def check(net, inputs, share=0.5, *, stays=(), **options):
    masked = converted(net, share, **options)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    small = bd.compact(masked, inputs)
    for a, b in zip(tree_leaves(masked(*inputs)), tree_leaves(small(*inputs)), strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * a.abs().max().item())
    assert not list(named_dropout_layers(small))
    report = compaction_report(small)
    found = {c.units for c in report.stayed if c.units.startswith(("heads", "hidden"))}
    assert found == set(stays), report.to_markdown()
    return masked, small


class Seq(nn.Module):
    """A body of torch's own between two Linears, with what its forward takes."""

    def __init__(self, body, **given):
        super().__init__()
        self.first, self.body, self.last = nn.Linear(5, 8), body, nn.Linear(8, 3)
        self.given = given

    def forward(self, x):
        h = self.first(x)
        if isinstance(self.body, nn.TransformerDecoder | nn.TransformerDecoderLayer):
            return self.last(self.body(h, h.flip(0), **self.given))
        if isinstance(self.body, nn.MultiheadAttention):
            return self.last(self.body(h, h, h, **self.given)[0])
        return self.last(self.body(h, **self.given))


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 4, 12, **{"dropout": 0.0, **options})


TORCH = {
    "attention": lambda: nn.MultiheadAttention(8, 4, batch_first=True),
    "attention with more": lambda: nn.MultiheadAttention(
        8, 4, add_bias_kv=True, add_zero_attn=True, batch_first=True
    ),
    "layer": lambda: encoder_layer(batch_first=True),
    "norm first, time first": lambda: encoder_layer(norm_first=True, activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(
        encoder_layer(batch_first=True), 2, enable_nested_tensor=False
    ),
    "decoder layer": lambda: nn.TransformerDecoderLayer(8, 4, 12, dropout=0.0, batch_first=True),
    "decoder": lambda: nn.TransformerDecoder(
        nn.TransformerDecoderLayer(8, 4, 12, dropout=0.0, batch_first=True), 2
    ),
}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", TORCH)
def test_blocks_of_torch_are_cut_exactly(name, share):
    net = Seq(TORCH[name]())
    inside = ()
    if share == 1.0:  # a layer without any units is none: one stays, and adds nothing
        inside = {p.where for p in bd.conversion.conversion_report(bd.convert(net)).placed}
        inside = [where for where in inside if where.startswith(("heads", "hidden"))]
    masked, small = check(net, torch.randn(2, 6, 5), share, stays=inside)
    units = [n for n, _ in named_dropout_layers(masked) if n.endswith(".mask")]
    assert len(units) == sum(
        isinstance(m, nn.MultiheadAttention) or hasattr(m, "linear2") for m in net.modules()
    )
    if share == 0.0:  # torch's own layers, with their fused kernels
        assert not any(isinstance(m, bd.nn.MultiheadAttention) for m in small.modules())
    else:
        assert count_params(small) < count_params(net)


def test_masks_and_hints_reach_the_heads_that_are_left():
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    padding = torch.zeros(2, 6)
    padding[1, 4:] = -torch.inf
    net = Seq(encoder_layer(batch_first=True), src_mask=causal, is_causal=True)
    check(net, torch.randn(2, 6, 5))
    check(Seq(encoder_layer(batch_first=True), src_key_padding_mask=padding), torch.randn(2, 6, 5))
    by_head = torch.randn(8, 6, 6)
    body = nn.MultiheadAttention(8, 4, batch_first=True)
    check(Seq(body, attn_mask=by_head, need_weights=False), torch.randn(2, 6, 5))


def test_masks_in_place_of_dropout_inside_a_layer_of_torch_become_plain():
    net = Seq(encoder_layer(dropout=0.1))
    masked, small = check(net, torch.randn(2, 6, 5))
    masks = [name for name, _ in named_dropout_layers(masked)]
    assert {"body.dropout1", "body.dropout2"} <= set(masks)
    assert dict(masked.named_modules())["body.dropout1"].batch_dim == 1
    assert type(small.body.dropout) is nn.Identity  # its place has the mask of the hidden units


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.ConversionWarning")
@pytest.mark.parametrize("by_hand", [False, True])
def test_masks_inside_an_encoder_of_torch_are_not_gone_past_by_its_kernels(by_hand):
    body = nn.TransformerEncoder(encoder_layer(dropout=0.1, batch_first=True), 2)
    net = Seq(body)
    if by_hand:
        body.layers[1].dropout1 = bd.BetaBernoulliDropout(8)
        net = bd.BayesianNetwork(net, bd.Gaussian(), num_data=10).network
    else:
        net = bd.convert(net, exclude=["*self_attn*", "*linear*"])
    for _, layer in named_dropout_layers(net):
        layer.set_posterior(1.0)
    net.eval().requires_grad_(False)
    x = torch.randn(2, 6, 5)
    expected = net(x)
    net.requires_grad_(True)  # with gradients torch has no kernel
    torch.testing.assert_close(net(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(bd.compact(net, x)(x), expected)


def test_a_block_that_does_what_its_names_do_not_say_is_put_back():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return x + self.fc2(self.fc1(x).softmax(-1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.idle = Odd(), Odd()
            self.even = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

        def forward(self, x):
            return self.even(self.odd(x) if x.sum() > -1e9 else self.idle(x))

    stays = ["hidden units of 'odd'", "hidden units of 'idle'"]
    masked, small = check(Net(), torch.randn(4, 8), stays=stays)
    reasons = {cut.units: cut.why for cut in compaction_report(small).cuts}
    assert reasons["hidden units of 'odd'"] == "its outputs would change"
    assert reasons["hidden units of 'idle'"] == "the example does not run it"
    assert small.even[0].out_features == 6 and small.odd.fc1.out_features == 12
    rounded = bd.compact(masked, torch.randn(4, 8), multiple_of=4)
    reasons = {cut.units: cut.why for cut in compaction_report(rounded).cuts}
    assert rounded.even[0].out_features == 8
    assert reasons["hidden units of 'even'"] == "a layer needs so many"


class Biased(nn.Module):
    """Attention with a scale, and biases of distances, for each head, as in Swin and BEiT."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.logit_scale = nn.Parameter(torch.rand(4, 1, 1))
        self.relative_position_bias_table = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        if x.sum() < -1e9:  # no graph
            return x
        parts = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(2, 0)
        q, k, v = parts.transpose(2, 3)
        place = torch.arange(x.shape[1])
        bias = self.relative_position_bias_table[(place - place[:, None]).abs()].movedim(-1, 0)
        weights = (q @ k.mT * self.logit_scale + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def test_what_an_attention_has_for_each_head_goes_with_it_and_frozen_weights_stay_so():
    net = Seq(Biased())
    net.body.qkv.weight.requires_grad_(False)
    _, small = check(net, torch.randn(2, 6, 5))
    body = small.body
    assert body.num_heads == 2 and body.qkv.out_features == 12 and body.proj.in_features == 4
    assert body.logit_scale.shape == (2, 1, 1)
    assert body.relative_position_bias_table.shape == (6, 2)
    assert not body.qkv.weight.requires_grad and body.proj.weight.requires_grad


def test_a_mask_put_on_a_layer_by_hand_is_the_only_one_and_is_cut():
    net = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    bd.nn.mask_inputs(net[2], bd.BetaBernoulliDropout(12))
    masked, small = check(net, torch.randn(4, 5))
    assert [name for name, _ in named_dropout_layers(masked)] == ["0_dropout", "2.mask"]
    assert small.get_submodule("2").in_features == 6
    assert not [name for name, _ in named_dropout_layers(bd.without_dropout(masked))]


def test_weights_that_the_network_returns_keep_the_heads():
    class Weights(Seq):
        def forward(self, x):
            h = self.first(x)
            out, weights = self.body(h, h, h)
            return self.last(out) + weights.sum() + weights[:, :, :3].square()

    net = converted(Weights(nn.MultiheadAttention(8, 4, batch_first=True)))
    with pytest.raises(bd.errors.CompactionError, match="a difference of"):
        bd.compact(net, torch.randn(2, 6, 5))


@pytest.mark.parametrize("key", sorted(bd.nn.registered(bd.nn.BayesianDropout)))
def test_every_prior_gates_heads_and_hidden_units(key):
    net = bd.convert(encoder_layer(batch_first=True), key)
    bnn = bd.BayesianNetwork(Seq(net), bd.Categorical(class_dim=-1), num_data=20)
    x, y = torch.randn(4, 6, 5), torch.zeros(4, 6).long()
    terms = bnn.loss(x, y)
    terms.loss.backward()
    masks = dict(named_dropout_layers(net))
    assert [m.num_units for m in masks.values()] == [4, 12]
    assert bnn.units_total() == [4, 12]
    assert all(p.grad is not None for m in masks.values() for p in m.parameters())
    assert bd.predict(bnn, x, num_samples=3).mean.shape == (4, 3, 6)


@pytest.mark.parametrize(
    ("name", "format"),
    [("encoder", "export"), ("vit", "export"), ("bert", "export"), ("vit", "onnx")],
)
def test_files_of_compact_transformers_give_their_outputs(name, format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install bayesdrop[onnx]")
    build, inputs = {
        "encoder": (lambda: Seq(TORCH["encoder"]()), (torch.randn(3, 6, 5),)),
        "vit": (
            lambda: torchvision.models.VisionTransformer(8, 4, 1, 4, 16, 24, num_classes=3),
            (torch.randn(3, 3, 8, 8),),
        ),
        "bert": (bert, (IDS, PADDING)),
    }[name]
    inputs = [x.float() if x.is_floating_point() else x for x in inputs]
    small = bd.compact(converted(build()).float(), tuple(inputs))
    bd.save_plain(small, tmp_path / "net", tuple(inputs), format=format)
    again = bd.load_plain(tmp_path / "net")
    (expected,) = (x for x in tree_leaves(small(*(x[:2] for x in inputs))) if x is not None)
    torch.testing.assert_close(again(*(x[:2] for x in inputs)), expected, rtol=1e-4, atol=1e-5)


def bert(**options):
    config = transformers.BertConfig(**SMALL, **options)
    return transformers.BertForSequenceClassification(config)


HUGGING_FACE = {
    "bert eager": (lambda: bert(attn_implementation="eager"), (IDS, PADDING)),
    "bert sdpa": (bert, (IDS, PADDING)),
    "distilbert": (
        lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=50, dim=16, n_layers=1, n_heads=4, hidden_dim=24,
                max_position_embeddings=20,
            )
        ),
        (IDS, PADDING),
    ),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=20)
        ),
        (IDS,),
    ),
    "neox": (  # query, key and value of each head side by side
        lambda: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(**SMALL | {"num_hidden_layers": 1})
        ),
        (IDS, PADDING),
    ),
    "llama": (
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**SMALL, num_key_value_heads=4)
        ),
        (IDS, PADDING),
    ),
    "vit": (
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(**IMAGES, image_size=8, patch_size=4)
        ),
        (torch.randn(2, 3, 8, 8),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_models_of_hugging_face_are_cut_in_place(name):
    build, inputs = HUGGING_FACE[name]
    net = build()
    masked, small = check(net, inputs)
    assert type(masked) is type(net) is type(small)
    kinds = [cut.units.split()[0] for cut in compaction_report(small).cuts]
    layers = getattr(net.config, "num_hidden_layers", 1)
    assert kinds.count("heads") == kinds.count("hidden") == layers
    assert count_flops(small, inputs) < count_flops(net, inputs)
    again = pickle.loads(pickle.dumps(copy.deepcopy(small)))
    for a, b in zip(tree_leaves(small(*inputs)), tree_leaves(again(*inputs)), strict=True):
        torch.testing.assert_close(b, a) if isinstance(a, torch.Tensor) else None
    filled = copy.deepcopy(masked)
    filled.load_state_dict(masked.state_dict())


def test_groups_of_heads_go_when_all_their_query_heads_are_dead():
    config = transformers.LlamaConfig(
        **SMALL | {"num_attention_heads": 8, "num_hidden_layers": 1}, num_key_value_heads=2
    )
    net = converted(transformers.LlamaForCausalLM(config), share=0.0)
    heads = net.model.layers[0].self_attn.o_proj.mask
    for dead, kept, groups, why in [
        ([0, 1, 2, 3], 4, 1, ""),  # one group
        ([0, 5], 6, 2, ""),  # one head of each
        ([0, 1, 2, 3, 6], 3, 1, ""),
        ([1, 2], 8, 2, "all groups need as many heads"),  # of one group only
        (list(range(8)), 1, 1, "a layer needs so many"),
    ]:
        posterior = torch.full((8,), 5.0)
        posterior[dead] = 1e-5
        heads.set_posterior(posterior)
        small = bd.compact(net, (IDS, PADDING))
        torch.testing.assert_close(small(IDS, PADDING).logits, net(IDS, PADDING).logits)
        left = small.model.layers[0].self_attn
        assert left.q_proj.out_features == left.o_proj.in_features == 2 * kept
        assert left.k_proj.out_features == left.v_proj.out_features == 2 * groups
        stayed = {c.units: c.why for c in compaction_report(small).stayed}
        assert stayed == ({"heads of 'model.layers.0.self_attn'": why} if why else {})


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_compact_language_model_generates_with_its_cache(name):
    build, _ = HUGGING_FACE[name]
    masked, small = check(build(), (IDS,))
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = masked.generate(IDS[:1, :5], **options)
    assert torch.equal(small.generate(IDS[:1, :5], **options), expected)
    assert torch.equal(small.generate(IDS[:1, :5], use_cache=False, **options), expected)


class Sliced(nn.Module):
    """Runs parts of a Sequential, of which the middle layer is in two pairs of layers."""

    def __init__(self):
        super().__init__()
        layers = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body[2:](self.body[:2](x) * 0.5)


def test_hidden_units_on_both_sides_of_one_layer_are_cut_or_left():
    masked = bd.convert(Sliced()).eval()
    for _, mask in named_dropout_layers(masked):
        mask.set_posterior(torch.linspace(-1.0, 5.0, mask.num_units).clamp(min=1e-5))
    x = torch.randn(3, 6)
    torch.testing.assert_close(bd.compact(masked, x)(x), masked(x))


def test_the_report_of_a_graph_that_was_cut_as_a_whole_says_so():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    report = compaction_report(bd.compact(bd.convert(net), torch.rand(2, 3)))
    assert str(report) == "CompactionReport(no parts: the graph was cut as a whole)"
    assert not report.cuts and report.stayed == ()
