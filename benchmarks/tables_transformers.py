"""Table of heads and hidden units that the posterior prunes."""

from __future__ import annotations

from statistics import fmean

from rows import NO_KL, read, table


def transformers() -> str:
    """Return a row for the plain and one for the compact network."""
    runs = read("transformer_pruning.json")["runs"]
    rows = [_row("plain", "plain", NO_KL, runs), _row("BB, compact", "masked", "1", runs)]
    header = ["network", "seeds", "KL", "error, %", "NLL", "heads", "hidden units", "parameters"]
    header += ["FLOPs", "ms, batch 1", "not fused", "ms, batch 100", "not fused", "difference"]
    return table(header, rows)


def _row(title: str, key: str, factor: str, runs: list[dict]) -> list[str]:
    own = [run[key] for run in runs]
    cells = [title, str(len(runs)), factor]
    cells += [f"{fmean(r['error'] for r in own):.1f}", f"{fmean(r['nll'] for r in own):.3f}"]
    for word in ("heads", "hidden"):
        index = 1 if key == "plain" else 0
        counts = [[v[index] for k, v in run["kept"].items() if word in k] for run in runs]
        cells.append(" + ".join(f"{fmean(c):.0f}" for c in zip(*counts, strict=True)))
    cells += [f"{fmean(r[name] for r in own):,.0f}" for name in ("params", "flops")]
    plain = key == "plain"
    for size in ("1", "100"):
        latency = [run["latency"] for run in runs]
        cells.append(f"{fmean(t['plain' if plain else 'compact'][size] for t in latency):.2f}")
        other = fmean(t["plain, not fused"][size] for t in latency)
        cells.append(f"{other:.2f}" if plain else "same")
    return [*cells, "-" if plain else f"{max(r['difference'] for r in own):.0e}"]
