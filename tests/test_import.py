"""What ``import bayesdrop`` and a prediction do to a process: nothing but registering."""

import pickle
import subprocess
import sys

import bayesdrop as bd

IMPORT = """
import logging, random, sys
import numpy, torch, pyro, pyro.distributions, pyro.infer, pyro.optim
def state():
    loggers = {n: (l.level, list(l.handlers), l.propagate)
               for n, l in logging.Logger.manager.loggerDict.items()
               if isinstance(l, logging.Logger) and not n.startswith("bayesdrop")}
    return (torch.get_default_dtype(), torch.get_rng_state().tolist(), pyro.settings.get(),
            torch.distributions.Distribution._validate_args, random.getstate(),
            str(numpy.random.get_state()), logging.root.level, list(logging.root.handlers),
            torch.is_grad_enabled(), torch.get_num_threads(),
            {n: loggers.get(n) for n in ("torch", "pyro", "matplotlib")},
            len(pyro.get_param_store()._params))
before = state()
import bayesdrop
bayesdrop.fit
assert state() == before, [i for i, (a, b) in enumerate(zip(state(), before)) if a != b]
net = torch.nn.Sequential(bayesdrop.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
bnn = bayesdrop.BayesianNetwork(net, bayesdrop.Categorical(), num_data=10).eval()
before = state()
bayesdrop.predict(bnn, torch.ones(2, 4), num_samples=2, seed=0)
assert state() == before, [i for i, (a, b) in enumerate(zip(state(), before)) if a != b]
heavy = ["arviz", "matplotlib", "torchvision", "torchmetrics", "lightning", "transformers",
         "sklearn", "onnx", "tensorboard", "torch.utils.tensorboard", "rich", "typer",
         "jinja2", "triton", "torch._dynamo", "bayesdrop.recipes"]
print([name for name in heavy if name in sys.modules])
"""


def test_importing_and_predicting_have_no_side_effect_and_load_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


WITHOUT_TORCH = """
import sys
import bayesdrop
from bayesdrop.cli import app
from bayesdrop.errors import ConfigError
from typer.testing import CliRunner
for command in (["--help"], ["--version"], ["train", "--help"], ["list", "dropouts"],
                ["list", "recipes"], ["list", "datasets"]):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
from bayesdrop.listing import Listed, listed, registry_lines
shipped = {what: listed(what) for what in Listed}
assert not hasattr(bayesdrop, "__wrapped__")
assert not {"torch", "pyro", "numpy"} & set(sys.modules)
assert bayesdrop.inference.fit.FitResult and "torch" in sys.modules
from bayesdrop import *
assert fit is bayesdrop.fit and fit.__module__ == "bayesdrop.inference.fit"
for what in Listed:
    assert shipped[what] == registry_lines(what), "write it anew: python -m bayesdrop.listing"
"""


def test_help_version_and_lists_wait_for_no_torch_and_every_name_is_there_all_the_same():
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_dir_and_pickles_know_the_names_at_the_top():
    assert {*bd.__all__, "__version__"} <= set(dir(bd))
    assert pickle.loads(pickle.dumps(bd.BetaBernoulliDropout)) is bd.BetaBernoulliDropout
    assert pickle.loads(pickle.dumps(bd.fit)) is bd.fit
