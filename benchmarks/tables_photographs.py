"""The table of a small residual network on a folder of photographs."""

from __future__ import annotations

from rows import NO_KL, read, spread, table

FILE = "cifar-jpeg.json"
_OTHERS = {"fashion-mnist": "Fashion-MNIST", "noise": "noise"}


_FIGURES = (("error", 1), ("nll", 3), ("ece", 3))


def _cells(found: list[dict]) -> list[str]:
    figures = [spread([one[name] for one in found], d) for name, d in _FIGURES]
    return figures + [spread([one["auroc"][name] for one in found], 3) for name in _OTHERS]


def photographs() -> str:
    """Return figures of each recipe, median and range over seeds, and of the ensemble."""
    result = read(FILE)
    rows = []
    recipes = dict.fromkeys(run["recipe"] for run in result["runs"])
    whole = next(run["flops"] for run in result["runs"] if "units" not in run)
    for recipe in recipes:
        runs = [run for run in result["runs"] if run["recipe"] == recipe]
        epochs = " + ".join(str(count) for count in runs[0]["epochs"])
        size = [
            spread([run["params"] / 1000 for run in runs], 1),
            spread([whole / run["flops"] for run in runs], 1),
        ]
        ways = {way: [run[way] for run in runs] for way in ("mean", "sampled") if way in runs[0]}
        for way, found in ways.items():
            masked = len(ways) > 1
            title = f"`{recipe}`" + (f", {'mean mask' if way == 'mean' else way}" * masked)
            kl = "1" if masked else NO_KL
            rows.append([title, str(len(runs)), epochs, kl, *_cells(found), *size])
    if "ensemble" in result:
        one = result["ensemble"]
        plain = next(run for run in result["runs"] if "units" not in run)
        members = len(one["seeds"])
        size = [f"{members * plain['params'] / 1000:.1f}", f"{1 / members:.1f}"]
        epochs = f"{members} x {plain['epochs'][0]}"
        title = f"ensemble of {members} plain"
        rows.append([title, "1", epochs, NO_KL, *_cells([one]), *size])
    images, pixels = result["images"], result["pixels"]
    header = [f"{images['train']:,} images of {pixels} x {pixels}", "seeds", "epochs", "KL"]
    header += ["error %", "NLL", "ECE", *(f"AUROC {title}" for title in _OTHERS.values())]
    return table([*header, "1000 parameters", "FLOPs"], rows)
