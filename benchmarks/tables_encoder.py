"""Tables of the pretrained encoder: masks on the ranks of LoRA, and embeddings of any length."""

from __future__ import annotations

import statistics

from rows import NO_KL, read, spread, table

LORA = {
    "head": "the head alone",
    "fixed-1": "LoRA, rank 1",
    "fixed-2": "LoRA, rank 2",
    "fixed-4": "LoRA, rank 4",
    "fixed-8": "LoRA, rank 8",
    "beta-bernoulli": "beta-Bernoulli masks on 8 ranks",
    "beta-bernoulli-0.1": "beta-Bernoulli masks on 8 ranks",
    "indian-buffet": "Indian buffet masks on 8 ranks",
    "indian-buffet-10": "Indian buffet masks on 8 ranks",
}
LENGTHS = {
    "plain": "the encoder's, truncated",
    "pca": "principal components, truncated",
    "full": "map trained at full length, truncated",
    "fixed": "`MatryoshkaLoss`, six lengths a step",
    "fixed-one": "`MatryoshkaLoss`, one of six a step",
    "uniform": "any of 32 lengths, one a step, law fixed",
    "variational": "any of 32 lengths, one a step, law learned",
    "variational-0.1": "any of 32 lengths, one a step, law learned",
    "variational-exact": "any of 32 lengths, all each step, law learned",
    "variational-short": "the same, one a step, prior for short ones",
}

WAYS = {
    "trained on": "as it is",
    "mc-dropout": "dropout of 0.1, sampled at test",
    "beta-bernoulli-1": "beta-Bernoulli masks, compacted",
    "magnitude-1": "as many left by magnitude",
    "beta-bernoulli-0.02": "beta-Bernoulli masks, compacted",
    "magnitude-0.02": "as many left by magnitude",
}


def _cell(values: list[float], digits: int) -> str:
    """Return median and range, or the one value that all have."""
    return spread(values if len(set(values)) > 1 else values[:1], digits)


def _factor(settings: dict, has_kl: bool) -> str:
    return f"{settings.get('kl_scale', 1.0):g}" if has_kl else NO_KL


def _quality(runs: list[dict]) -> list[str]:
    """Return accuracy, NLL and ECE with the mean masks, and the NLL of those that were sampled."""
    figures = (("accuracy", 1), ("nll", 3), ("ece", 3))
    cells = [_cell([run["mean"][name] for run in runs], digits) for name, digits in figures]
    sampled = [run["sampled"]["nll"] for run in runs if "sampled" in run]
    return [*cells, _cell(sampled, 3) if sampled else ""]


def lora() -> str:
    """Return accuracy, NLL and ECE of adapters, by the mean mask and sampled, with their ranks."""
    runs, rows = read("encoder-lora.json")["runs"], []
    for method, title in LORA.items():
        found = [run for run in runs if run["method"] == method]
        if not found:
            continue
        settings = found[0]["settings"]
        cells = [title, _factor(settings, "dropout" in settings), str(len(found))]
        cells.append(_cell([sum(run["ranks"]) for run in found], 0))
        cells.append(_cell([run["params"] / 1e3 for run in found], 1))
        rows.append([*cells, *_quality(found)])
    header = ["adapter", "KL", "seeds", "ranks left, of 48", "parameters, thousands"]
    return table([*header, "accuracy, %", "NLL", "ECE", "NLL, sampled"], rows)


def lengths(figure: str) -> str:
    """Return a figure by length of the embedding: mean over seeds."""
    result = read("encoder-lengths.json")
    rows = []
    for method, title in LENGTHS.items():
        found = [run for run in result["runs"] if run["method"] == method]
        if not found:
            continue
        learned = method.startswith("variational")
        cells = [title, _factor(found[0]["settings"], learned), str(len(found))]
        means = [statistics.fmean(v) for v in zip(*(r[figure] for r in found), strict=True)]
        deviations = (
            [statistics.stdev(v) for v in zip(*(r[figure] for r in found), strict=True)]
            if len(found) > 1
            else []
        )
        worst = f"{max(deviations):.1f}" if deviations else ""
        seconds = statistics.fmean(run["cpu_seconds"] for run in found)
        rows.append([*cells, *(f"{m:.1f}" for m in means), worst, f"{seconds:.1f}"])
    header = ["embedding", "KL", "seeds", *map(str, result["lengths"])]
    return table([*header, "largest standard deviation", "CPU s"], rows)


def gates() -> str:
    """Return size, time and quality of an encoder without some of its heads and units."""
    runs, rows = read("encoder-gates.json")["runs"], []
    for way, title in WAYS.items():
        found = [run for run in runs if run["way"] == way]
        if not found:
            continue
        cells = [title, _factor(found[0], "kl_scale" in found[0]), str(len(found))]
        masked = [run for run in found if "shares" in run]
        for part in (0, 1):
            left = [100 * run["shares"][part] for run in masked]
            cells.append(f"{_cell(left, 0)} %" if left else "")
        cells.append(_cell([run["params"] / 1e6 for run in found], 2))
        cells.append(_cell([run["flops"] / 1e6 for run in found], 0))
        cells += [_cell([run["latency_ms"][batch] for run in found], 1) for batch in ("1", "32")]
        rows.append([*cells, *_quality(found)])
    header = ["trained on", "KL", "seeds", "heads left", "hidden units left"]
    header += ["parameters, million", "MFLOPs", "ms, one", "ms, 32"]
    return table([*header, "accuracy, %", "NLL", "ECE", "NLL, sampled"], rows)
