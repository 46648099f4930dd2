"""Masks over the ranks of peft's adapters: put in, trained, cut and merged exactly."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CompactionError, ConfigError, ConversionError, ConversionWarning

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# peft asks transformers by a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

KEYS = [k for k, cls in bd.nn.registered(bd.BayesianDropout).items() if not cls.input_dependent]
IDS = torch.arange(12).reshape(2, 6)


def bert(**sizes):
    defaults = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.BertConfig(vocab_size=12, intermediate_size=12, **{**defaults, **sizes})
    return transformers.BertForSequenceClassification(config).double()


def adapted(model=None, targets=("query", "value"), trained=True, **options):
    options = {"r": 4, "lora_alpha": 8, "target_modules": list(targets), **options}
    model = bert() if model is None else model
    model = peft.get_peft_model(model, peft.LoraConfig(**options), autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and trained:
                parameter.normal_(std=0.5)
    return model.eval()


def masks_of(model):
    return [m.mask for m in model.modules() if isinstance(m, bd.nn.MaskedRanks)]


def with_pruned(model, kept, dropout="beta-bernoulli"):
    """Masks that keep this many ranks in each layer, not the first ones."""
    model = bd.conversion.mask_lora_ranks(model, dropout)
    for mask, number in zip(masks_of(model), kept, strict=True):
        keep = torch.full((mask.num_units,), 1e-4)
        keep[mask.num_units - number :] = 5.0
        mask.set_posterior(keep)
    return model


def logits(model, ids=IDS):
    return model(ids).logits


@pytest.mark.parametrize("dropout", KEYS)
def test_new_masks_leave_an_untrained_adapter_the_model_it_was(dropout):
    model = adapted(trained=False)
    masked = bd.conversion.mask_lora_ranks(model, dropout)
    assert len(masks_of(masked)) == 4 and not masks_of(model)
    torch.testing.assert_close(logits(masked), logits(model))


@pytest.mark.parametrize("dropout", KEYS)
def test_masks_of_a_trained_adapter_start_nearly_open(dropout):
    cls = bd.nn.layers[dropout]
    model = adapted()
    masked = bd.conversion.mask_lora_ranks(model, dropout)
    if not cls.fixed_rate:
        assert all(mask.keep_prob().min() > 0.8 for mask in masks_of(masked))
    for mask in masks_of(masked):
        mask.train()
    assert all(p.requires_grad for mask in masks_of(masked) for p in mask.parameters())


def test_the_rank_with_the_largest_factors_has_the_first_stick():
    model = adapted(targets=["query"])
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        layer.lora_B["default"].weight[:, 2] *= 100
    mask = masks_of(bd.conversion.mask_lora_ranks(model, "indian-buffet"))[0]
    assert mask.keep_prob().argmax() == 2


@pytest.mark.filterwarnings("ignore:.*lora_B.bias")  # peft doubts that biases have one dimension
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}])
@pytest.mark.parametrize("kept", [(1, 2, 3, 4), (0, 4, 0, 1), (0, 0, 0, 0)])
def test_ranks_are_cut_exactly_and_the_model_is_plain_peft(kept, options, tmp_path):
    base = bert()
    state = {name: value.clone() for name, value in base.state_dict().items()}
    model = adapted(base, **options)
    masked = with_pruned(model, kept)
    expected = logits(masked)
    small = bd.compression.cut_lora_ranks(masked)
    torch.testing.assert_close(logits(small), expected, rtol=1e-9, atol=1e-9)
    assert not masks_of(small) and not list(bd.nn.named_owners(small))
    ranks = [m.r["default"] for m in small.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    least = 1 if "lora_bias" in options else 0
    assert ranks == ([max(k, least) for k in kept if max(k, least)] or [1])

    small.save_pretrained(tmp_path)
    fresh = bert()
    fresh.load_state_dict(state)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-6, atol=1e-6)
    for whole in (masked, small):  # peft merges the mean mask's update
        merged = whole.merge_and_unload()
        torch.testing.assert_close(logits(merged), expected, rtol=1e-9, atol=1e-9)
        assert not [m for m in merged.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


def test_each_of_two_adapters_is_cut_to_its_own_ranks():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model = adapted(net, ["0", "2"])
    model.add_adapter("other", peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0", "2"]))
    for adapter in ("default", "other"):
        model = bd.conversion.mask_lora_ranks(model, adapter=adapter)
    for adapter, kept in {"default": (0, 2), "other": (3, 0)}.items():
        for (_, layer), number in zip(layers_of(model), kept, strict=True):
            second = layer.lora_B[adapter]
            nn.init.normal_(second.linear.weight)
            second.mask.set_posterior((torch.arange(layer.r[adapter]) < number) * 5.0 + 1e-4)

    def outputs(model):
        return [model.set_adapter(adapter) or model(x) for adapter in ("default", "other")]

    x = torch.randn(4, 6)
    small = bd.compression.cut_lora_ranks(model.eval())
    torch.testing.assert_close(outputs(small), outputs(model))
    ranks = [dict(layer.r) for _, layer in layers_of(small)]  # a layer goes with all its adapters
    assert ranks == [{"default": 1, "other": 3}, {"default": 2, "other": 1}]
    assert [m.weight.shape[1] for _, layer in layers_of(small) for m in layer.lora_B.values()] == [
        1, 3, 2, 1
    ]  # fmt: skip


def test_peft_still_switches_its_adapters():
    model = adapted()
    masked = with_pruned(model, (1, 2, 3, 4))
    with model.disable_adapter(), masked.disable_adapter():
        plain = logits(model)
        torch.testing.assert_close(logits(masked), plain)
    expected = logits(masked)
    masked.merge_adapter()
    torch.testing.assert_close(logits(masked), expected)
    masked.unmerge_adapter()
    torch.testing.assert_close(logits(masked), expected)
    assert not torch.allclose(expected, plain)


def test_other_layers_with_ranks_are_masked_too():
    """Convolutions, and the transposed weights of GPT-2."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
    model = with_pruned(adapted(net, ["0", "2"], r=3), (1, 2))
    x = torch.randn(2, 2, 4, 4)
    expected = model(x)
    small = bd.compression.cut_lora_ranks(model)
    torch.testing.assert_close(small(x), expected)
    torch.testing.assert_close(small.merge_and_unload()(x), expected)

    config = transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=2)
    gpt2 = transformers.GPT2LMHeadModel(config).double()
    model = with_pruned(adapted(gpt2, ["c_attn"], fan_in_fan_out=True), (2,))
    expected = logits(model)
    small = bd.compression.cut_lora_ranks(model)
    torch.testing.assert_close(logits(small), expected)
    torch.testing.assert_close(logits(small.merge_and_unload()), expected)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids).logits


def test_fit_and_predict_take_a_masked_adapter():
    model = bd.conversion.mask_lora_ranks(adapted(trained=False))
    bnn = bd.BayesianNetwork(Logits(model), bd.Categorical(), num_data=12)
    x, y = torch.randint(12, (12, 6)), torch.arange(12) % 2
    frozen = model.base_model.model.bert.embeddings.word_embeddings.weight.clone()
    bd.fit(bnn, (x, y), epochs=2, batch_size=6, seed=0, progress=False)
    assert all(m.lora_B["default"].linear.weight.any() for _, m in layers_of(model))
    assert frozen.equal(model.base_model.model.bert.embeddings.word_embeddings.weight)
    samples = bd.predict(bnn, x, num_samples=8).mean
    assert samples.shape == (12, 2) and bnn.total()["units"] == [4] * 4


def layers_of(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


def test_what_cannot_be_masked_is_named():
    net = nn.ModuleDict({"words": nn.Embedding(5, 4), "out": nn.Linear(4, 3)})
    model = adapted(net, ["words", "out"], trained=False)
    with pytest.warns(ConversionWarning, match="'base_model.model.words': an embedding"):
        masked = bd.conversion.mask_lora_ranks(model)
    assert len(masks_of(masked)) == 1
    with pytest.raises(ConversionError, match="it has a mask already"):
        bd.conversion.mask_lora_ranks(masked)
    with pytest.raises(ConversionError, match="DoraLinearVariant"):
        bd.conversion.mask_lora_ranks(adapted(use_dora=True))
    with pytest.raises(ConversionError, match="got none"):
        bd.conversion.mask_lora_ranks(bert())
    with pytest.raises(ConversionError, match="'other'"):
        bd.conversion.mask_lora_ranks(adapted(), adapter="other")
    with pytest.raises(ConfigError, match="key of a mask"):
        bd.conversion.mask_lora_ranks(adapted(), "sparse-variational")


def test_what_cannot_be_cut_is_named():
    masked = bd.conversion.mask_lora_ranks(adapted(), "dependent-beta-bernoulli")
    for function in (bd.compression.cut_lora_ranks, lambda model: model.merge_and_unload()):
        with pytest.raises(CompactionError, match="looks at its input"):
            function(masked)
    with pytest.raises(CompactionError, match="masks over their ranks, got none"):
        bd.compression.cut_lora_ranks(adapted())


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft.tuners.lora", None)
    with pytest.raises(ImportError, match=r"pip install 'bayesdrop\[peft\]'"):
        bd.conversion.mask_lora_ranks(nn.Linear(2, 2))
