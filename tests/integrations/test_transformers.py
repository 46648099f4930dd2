"""Laws of the Trainer of Hugging Face with Bayesian layers, against the real library."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.inference.optimizers import parameter_groups
from bayesdrop.integrations import KLTerm

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from bayesdrop.integrations.transformers import BayesianTrainer  # noqa: E402
from tests.integrations.page import run_block  # noqa: E402

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 8, "hidden_dropout_prob": 0.0}
SMALL |= {"attention_probs_dropout_prob": 0.0}
# The Trainer's own loader copies to pinned memory where there is none.
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)


@functools.cache
def converted(kind, **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=11, max_position_embeddings=6, **SMALL, **options)
    return bd.convert(getattr(transformers, kind)(config), exclude="*embeddings*")


def bert(kind="BertForSequenceClassification", **options):
    return copy.deepcopy(converted(kind, **options))


def vit(**options):
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=4, patch_size=2, num_channels=1, **SMALL, **options)
    return bd.convert(transformers.ViTForImageClassification(config), exclude="*embeddings*")


def examples(count=8, classes=2):
    ids = torch.arange(count * 5).reshape(count, 5) % 11
    return [{"input_ids": row, "labels": i % classes} for i, row in enumerate(ids)]


def arguments(folder, **options):
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    quiet |= {"per_device_train_batch_size": 2, "num_train_epochs": 1, "save_strategy": "no"}
    quiet |= {"lr_scheduler_type": "constant", "learning_rate": 0.01, "optim": "adamw_torch"}
    quiet |= {"max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
    return transformers.TrainingArguments(str(folder), **{**quiet, **options})


def trainer(folder, model, *, data=None, model_options=None, **options):
    names = ("num_data", "kl_weight", "buffers", "num_samples", "variational_learning_rate")
    ours = {name: options.pop(name) for name in names if name in options}
    data = examples() if data is None else data
    return BayesianTrainer(
        model, arguments(folder, **options), train_dataset=data, eval_dataset=data, **ours
    )


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_is_the_plain_loop(tmp_path, accumulated):
    schedules = {"kl_weight": bd.schedules.warm_up(0.9)}
    schedules["buffers"] = {"temperature": bd.schedules.linear(1.0, 0.1)}
    model, theirs = bert(), bert()
    run = trainer(
        tmp_path, model, gradient_accumulation_steps=accumulated, weight_decay=0.1,
        variational_learning_rate=0.03, **schedules,
    )  # fmt: skip
    run.add_callback(Seed())
    run.create_optimizer()
    run.train()
    rates = {"learning_rate": 0.01, "variational_learning_rate": 0.03, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(parameter_groups(theirs, **rates))
    own_decay(optimizer, theirs, run)
    term = KLTerm(theirs, 8, **schedules)
    data, steps = examples(), 4 // accumulated
    for step in range(steps):
        torch.manual_seed(step)
        term.at(step, steps)
        optimizer.zero_grad()
        for start in range(step * 2 * accumulated, (step + 1) * 2 * accumulated, 2):
            rows = data[start : start + 2]
            ids = torch.stack([row["input_ids"] for row in rows])
            labels = torch.tensor([row["labels"] for row in rows])
            theirs.train()
            with term:
                nll = F.cross_entropy(theirs(ids).logits, labels)
            ((nll + term()) / accumulated).backward()
        optimizer.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    logged = run.state.log_history[0]
    assert logged["kl"] > 0 and logged["kl_weight"] == pytest.approx(min(1, 1 / (0.9 * steps)))
    assert any(name.startswith("units/") for name in logged)


class Seed(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        torch.manual_seed(state.global_step)


def own_decay(optimizer, model, run):
    """Give a loop's optimiser the decay that the Trainer gives by names."""
    decayed = set(run.get_decay_parameter_names(model))
    named = {parameter: name for name, parameter in model.named_parameters()}
    weights = optimizer.param_groups[0]
    some = [p for p in weights["params"] if named[p] in decayed]
    weights["params"] = [p for p in weights["params"] if named[p] not in decayed]
    optimizer.add_param_group({"params": some, "lr": 0.01, "weight_decay": 0.1})


@pytest.mark.parametrize("rate", [None, 0.03])
def test_the_posterior_has_its_rate_and_means_the_weights_both_without_decay(tmp_path, rate):
    model = bert()
    model.classifier = bd.nn.GaussianWeights(nn.Linear(8, 2))  # its own has a mask on the inputs
    run = trainer(tmp_path, model, variational_learning_rate=rate, weight_decay=0.1)
    groups = run.create_optimizer().param_groups
    found = {p: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = {name: found[p] for name, p in model.named_parameters()}
    posterior = {name for name in names if name.endswith(("location", "log_shape"))}
    assert posterior and {names[name] for name in posterior} == {(rate or 0.01, 0.0)}
    assert names["classifier.log_variance"] == (rate or 0.01, 0.0)
    assert names["classifier.weight"] == (0.01, 0.0)
    assert names["bert.pooler.dense.weight"] == (0.01, 0.1)


def test_evaluation_is_the_likelihood_of_the_mean_masks(tmp_path):
    model = bert()
    run = trainer(tmp_path, model)
    found = run.evaluate()
    data = examples()
    ids = torch.stack([row["input_ids"] for row in data])
    labels = torch.tensor([row["labels"] for row in data])
    expected = F.cross_entropy(model.eval()(ids).logits, labels)
    assert found["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def test_predictions_of_samples_are_those_of_predict(tmp_path):
    model = bert()
    data = examples()
    x = torch.stack([row["input_ids"] for row in data])
    y = torch.tensor([row["labels"] for row in data])
    run = trainer(tmp_path, model, num_samples=5, seed=4)
    found = run.predict(data)
    bnn = bd.BayesianNetwork(Logits(model), bd.Categorical(), num_data=8)
    theirs = bd.predict(bnn, (x, y), num_samples=5, seed=4)
    ours = torch.tensor(found.predictions).softmax(-1).double()
    torch.testing.assert_close(ours, theirs.mean.double(), rtol=1e-5, atol=1e-6)
    nll = bd.metrics.negative_log_likelihood(theirs.mean, y)
    assert found.metrics["test_loss"] == pytest.approx(nll, rel=1e-4)
    assert run.evaluate()["eval_loss"] == found.metrics["test_loss"]


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_samples_are_averaged_as_the_model_means_them(tmp_path, problem):
    count = 1 if problem == "regression" else 2
    data = [{**row, "labels": torch.full((count,), float(row["labels"]))} for row in examples()]
    model = bert(num_labels=count, problem_type=problem)
    run = trainer(tmp_path, model, data=data, num_samples=3)
    found = run.predict(data)
    x = torch.stack([row["input_ids"] for row in data])
    likelihood = bd.Gaussian() if problem == "regression" else bd.Bernoulli()
    net = Logits(model)
    passes = bd.BayesianNetwork(net, likelihood, num_data=8).eval()
    with bd.ops.seeding.seeded(42), torch.no_grad():
        samples = torch.stack([p(x) for p in passes.posterior_passes(3, shared_by="batch")])
    if problem == "regression":
        expected, ours = samples.mean(0), torch.tensor(found.predictions)
    else:
        expected = samples.sigmoid().mean(0)
        ours = torch.tensor(found.predictions).sigmoid()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_goes_on_to_the_same_bits(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    options["kl_weight"] = bd.schedules.warm_up(0.9)
    options["buffers"] = {"temperature": bd.schedules.linear(1.0, 0.1)}
    whole = trainer(tmp_path, bert(), **options)
    whole.train()
    again = trainer(tmp_path, bert(), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.log_history[-2]["kl_weight"] == 1.0 == again.term.kl_weight
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_converted_model_is_saved_with_its_masks(tmp_path):
    pytest.importorskip("safetensors")
    from bayesdrop.integrations.pretrained import from_pretrained, save_pretrained

    ours, theirs = bert(), bert()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    save_pretrained(ours, tmp_path)
    from_pretrained(tmp_path, theirs)
    ids = torch.stack([row["input_ids"] for row in examples()])
    assert torch.equal(theirs(ids).logits, ours.eval()(ids).logits)


def test_images_train_and_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    pixels = torch.linspace(-1, 1, 8 * 16).reshape(8, 1, 4, 4)
    data = [{"pixel_values": row, "labels": i % 2} for i, row in enumerate(pixels)]
    run = trainer(tmp_path, vit(), data=data, save_strategy="steps", save_steps=2)
    run.train()
    again = trainer(tmp_path, vit(), data=data)
    with pytest.raises(CheckpointError, match="all of this model's parameters"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_model_that_the_trainer_makes_anew_has_its_own_divergence_in_the_loss(tmp_path):
    run = BayesianTrainer(
        args=arguments(tmp_path, max_steps=2), model_init=lambda: bert(), train_dataset=examples()
    )
    first = run.term.network
    run.train()
    assert run.term.network is run.model is not first
    used = run.term
    run.train()
    assert run.term is not used and run.term.last > 0


def test_labels_are_smoothed_in_training_alone(tmp_path):
    smooth, plain = (
        trainer(tmp_path, bert(), label_smoothing_factor=factor, max_steps=1)
        for factor in (0.5, 0.0)
    )
    assert smooth.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    torch.manual_seed(0)
    smooth.train()
    torch.manual_seed(0)
    plain.train()
    losses = [run.state.log_history[0]["loss"] for run in (smooth, plain)]
    assert losses[0] != losses[1]


def test_a_mean_over_tokens_needs_their_number(tmp_path):
    model = bert("BertForTokenClassification")
    data = [{**row, "labels": row["input_ids"] % 2} for row in examples()]
    with pytest.raises(ConfigError, match="the number of all labels of the training set"):
        trainer(tmp_path, model, data=data, max_steps=1).train()
    run = trainer(tmp_path, model, data=data, max_steps=1, num_data=8 * 5)
    run.train()
    assert run.term.last == pytest.approx(bd.kl_divergence(model).item() / 40, rel=0.05)


def test_what_is_forgotten_is_said(tmp_path, monkeypatch):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(examples())

    torch.manual_seed(0)
    plain = transformers.BertForSequenceClassification(bert().config)
    with pytest.raises(ConfigError, match=r"without any. Put them in with bd.convert"):
        trainer(tmp_path, plain)
    with pytest.raises(ConfigError, match="num_data, the number of training examples"):
        trainer(tmp_path, bert(), data=Stream(), max_steps=2).train()
    with pytest.raises(ConfigError, match="float32, got bfloat16"):
        trainer(tmp_path, bert().bfloat16())
    with monkeypatch.context() as patch:
        made = BayesianTrainer.create_accelerator_and_postprocess

        def shared_out(self):
            made(self)
            self.is_fsdp_enabled = True

        patch.setattr(BayesianTrainer, "create_accelerator_and_postprocess", shared_out)
        with pytest.raises(ConfigError, match="FSDP or DeepSpeed"):
            trainer(tmp_path, bert())
    with pytest.raises(ConfigError, match="num_samples >= 1"):
        trainer(tmp_path, bert(), num_samples=0)


def test_the_example_of_the_page_trains(tmp_path):
    class Auto:
        @staticmethod
        def from_pretrained(name, **options):
            config = transformers.BertConfig(vocab_size=11, max_position_embeddings=6, **SMALL)
            return transformers.BertForSequenceClassification(config).to(**options)

    found = run_block(
        "BayesianTrainer", bd=bd, torch=torch, name="", train=examples(), test=examples(),
        AutoModelForSequenceClassification=Auto,
        TrainingArguments=lambda folder, **options: arguments(tmp_path, **options),
    )["trainer"]  # fmt: skip
    assert found.term.kl_weight == 1.0 and found.state.global_step == 1
