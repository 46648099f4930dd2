"""What ``import bayesdrop`` does to a process: nothing but registering."""

import subprocess
import sys

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
assert state() == before, [i for i, (a, b) in enumerate(zip(state(), before)) if a != b]
heavy = ["arviz", "matplotlib", "torchvision", "torchmetrics", "sklearn", "onnx", "tensorboard",
         "torch.utils.tensorboard", "rich", "typer"]
print([name for name in heavy if name in sys.modules])
"""


def test_importing_has_no_side_effect_and_loads_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
