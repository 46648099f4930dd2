r"""Control variates for the gradient of several masks: do masks that know of each other help?

    python benchmarks/several_masks_noise.py

LeNet-500-300 on digits with four masks inside the logarithm (``num_masks=4``). The gradient of one
batch of 50 is drawn 200 times at three points of training, with the masks of an example
*independent* (as ``fit`` draws them), *antithetic* (the uniform noise of each second mask is one
minus that of the first) or *stratified* (one number in each of four equal intervals, in random
order, for each unit). A control variate leaves the mean as it is; so do these two, each mask alone
having the same law, but for the logarithm of the average, which depends on the masks jointly: the
objective's own value is given too. Variances are summed over parameters, those of the weights and
those of the posteriors, and relative to independent masks. One thread; a minute.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from result_files import write
from several_masks import network, splits
from torch import Tensor

import bayesdrop as bd
from bayesdrop.ops import noise

OUT = Path(__file__).parent / "results" / "several-masks-noise.json"
MASKS, ROWS, REPEATS, SEEDS = 4, 50, 200, range(3)
POINTS = (0, 20, 100)  # epochs


def independent(u: Tensor) -> Tensor:
    """Return the noise of N examples as it is, ``(N, MASKS, K)``."""
    return u


def antithetic(u: Tensor) -> Tensor:
    """Return noise of which each second mask is the mirror image of the first."""
    u[:, 1::2] = 1 - u[:, ::2]
    return u


def stratified(u: Tensor) -> Tensor:
    """Return noise of which each mask is in another quarter."""
    return (torch.rand_like(u).argsort(1) + u) / MASKS


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "independent": independent,
    "antithetic": antithetic,
    "stratified": stratified,
}


@contextmanager
def drawn(way: str) -> Iterator[None]:
    """Draw the noise of an example's masks in this way."""
    inner, met = noise.uniforms, 0

    def uniforms(shapes: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        nonlocal met
        parts = list(inner(shapes, like).split([math.prod(shape) for shape in shapes]))
        info = torch.finfo(like.dtype)
        for index, shape in enumerate(shapes):
            if len(shape) == 2 and shape[0] % MASKS == 0:  # an example's masks stand in a row
                met += 1
                u = WAYS[way](parts[index].reshape(shape[0] // MASKS, MASKS, -1).clone())
                parts[index] = u.flatten().clamp(info.tiny, 1 - info.eps)
        return torch.cat(parts)

    noise.uniforms = uniforms
    try:
        yield
    finally:
        noise.uniforms = inner
    if met == 0:
        raise RuntimeError("no mask's noise was met")


def gradients(bnn: bd.BayesianNetwork, x: Tensor, y: Tensor, way: str) -> dict[str, float]:
    """Return the variances of the gradient and the average of the loss."""
    named = [(n, p) for n, p in bnn.named_parameters() if p.requires_grad]
    of_posterior = [not n.endswith(("weight", "bias")) for n, _ in named]
    losses, found = [], []
    with drawn(way):
        for repeat in range(REPEATS):
            torch.manual_seed(repeat)
            terms = bnn.loss(x, y, num_masks=MASKS)
            losses.append(float(terms.nll.detach()))
            found.append(torch.autograd.grad(terms.nll, [p for _, p in named], allow_unused=True))
    total = {"weights": 0.0, "posteriors": 0.0}
    for index, posterior in enumerate(of_posterior):
        if found[0][index] is not None:
            variance = torch.stack([g[index] for g in found]).double().var(0).sum()
            total["posteriors" if posterior else "weights"] += float(variance)
    return {**total, "nll": sum(losses) / len(losses)}


def main() -> None:
    """Measure at each point of training."""
    torch.set_num_threads(1)
    data = splits("digits")["train"]
    runs = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = bd.convert(network("digits"))
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(data[0]))
        x, y = (part[:ROWS] for part in data)
        done = 0
        for epochs in POINTS:
            if epochs > done:
                options = {"batch_size": ROWS, "num_masks": MASKS, "schedule": ()}
                bd.fit(bnn, data, epochs=epochs - done, seed=seed, progress=False, **options)
                done = epochs
            bnn.train()
            rows = {way: gradients(bnn, x, y, way) for way in WAYS}
            runs.append({"seed": seed, "epochs": epochs, **rows})
            print(json.dumps(runs[-1]))
    command = "python benchmarks/several_masks_noise.py " + shlex.join(sys.argv[1:])
    about = {"torch": str(torch.__version__), "bayesdrop": bd.__version__}
    write({"command": command.strip(), **about, "masks": MASKS, "runs": runs}, OUT)


if __name__ == "__main__":
    main()
