"""Tables of the README's example, and of timings."""

from __future__ import annotations

import statistics

from paired import SIGNS, difference, noise_of_error
from rows import NETWORKS, NO_KL, epochs_of, kl_factor, read, table, weights_kept

EXAMPLE = {
    ("plain", "mean"): "plain network",
    ("nn.Dropout", "mean"): "nn.Dropout(0.5), off at test",
    ("beta-bernoulli", "mean"): "BB, mean mask",
    ("beta-bernoulli", "sampled"): "BB, sampled",
}
"""Kinds and ways of ``first_example.py`` to their rows."""


def _example(share: float) -> dict[tuple[str, str, str], list[dict]]:
    """Return kind, settings ("shared" or "own") and way to the runs of all seeds."""
    runs = [run for run in read("first-example.json")["runs"] if run["share"] == share]
    shared = next(run["settings"] for run in runs if run["kind"] == "beta-bernoulli")
    found: dict[tuple[str, str, str], list[dict]] = {}
    for run in runs:
        whose = "shared" if run["settings"] == shared else "own"
        for way in ("mean", "sampled"):
            if way in run:
                found.setdefault((run["kind"], whose, way), []).append(run)
    return found


def _units(runs: list[dict]) -> str:
    if not runs[0]["units"]:
        return "64-500-300"
    layers = zip(*(run["units"] for run in runs), strict=True)
    return "-".join(f"{statistics.median(units):.0f}" for units in layers)


def example_front() -> str:
    """Return the README's table: means over the seeds."""
    runs = _example(0.2)
    rows = []
    for (kind, way), title in EXAMPLE.items():
        if way == "sampled":
            continue
        own = runs[kind, "shared", way]
        error = statistics.fmean(run[way]["error"] for run in own)
        nll = statistics.fmean(run[way]["nll"] for run in own)
        flops = statistics.fmean(run["flops"] for run in own) / 1000
        factor = "1" if kind == "beta-bernoulli" else NO_KL
        cells = [str(len(own)), factor, f"{error:.1f}", f"{nll:.2f}", _units(own), f"{flops:.0f}"]
        rows.append([title, *cells])
    header = ["600 test digits", "seeds", "KL", "error %", "NLL", "units", "kFLOPs"]
    return table(header, rows)


def example(share: float) -> str:
    """Return all rows for one share of labels drawn anew: means and standard errors."""
    runs = _example(share)
    plain = runs["plain", "shared", "mean"]
    rows = []
    for (kind, whose, way), own in sorted(runs.items(), key=_order):
        settings = own[0]["settings"]
        title = EXAMPLE[kind, way] + (", own settings" if whose == "own" else "")
        factor = "1" if kind == "beta-bernoulli" else NO_KL
        about = [str(len(own)), f"{settings['epochs']}", factor]
        cells = [_mean([run[way]["error"] for run in own], 2)]
        cells += [_mean([run[way][key] for run in own], 3) for key in ("nll", "ece")]
        if share:
            redrawn = f"{way}, labels redrawn"
            cells += [_mean([run[redrawn][key] for run in own], 3) for key in ("nll", "ece")]
        beside = "" if own is plain else _beside(own, plain, way, share)
        seconds = statistics.median(run["cpu_seconds"] for run in own)
        rows.append([title, *about, *cells, _units(own), f"{seconds:.1f}", beside])
    header = [f"digits, {100 * share:.0f} % of labels drawn anew", "seeds", "epochs", "KL"]
    header += ["error %", "NLL", "ECE"]
    if share:
        header += ["NLL, labels redrawn", "ECE, labels redrawn"]
    return table([*header, "units", "CPU s", "beside plain"], rows)


def _order(item: tuple[tuple[str, str, str], list[dict]]) -> tuple[int, bool]:
    kind, whose, way = item[0]
    return list(EXAMPLE).index((kind, way)), whose == "own"


def _mean(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}"


def _beside(own: list[dict], plain: list[dict], way: str, share: float) -> str:
    keys = [(way, "mean", "error"), (way, "mean", "nll"), (way, "mean", "ece")]
    if share:
        redrawn = (f"{way}, labels redrawn", "mean, labels redrawn")
        keys += [(*redrawn, "nll"), (*redrawn, "ece")]
    found = []
    for mine, theirs, key in keys:
        values = {run["seed"]: run[mine][key] for run in own}
        others = {run["seed"]: run[theirs][key] for run in plain}
        noise = noise_of_error(statistics.fmean(others.values()), 600) if key == "error" else 0.0
        found.append(SIGNS[difference(values, others).verdict(at_least=noise)])
    return " ".join(found)


def example_choice() -> str:
    """Return the candidates of the README's example, means over the seeds of validation."""
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for run in read("first-example-choice.json")["runs"]:
        groups.setdefault(tuple(run["settings"].items()), {}).setdefault(run["kind"], []).append(
            run
        )
    rows = []
    for settings, kinds in groups.items():
        values = dict(settings)
        errors = [
            f"{statistics.fmean(run['mean']['error'] for run in kinds[kind]):.2f}"
            for kind in ("plain", "nn.Dropout", "beta-bernoulli")
        ]
        masked = kinds["beta-bernoulli"]
        title = f"rates {values['learning_rate']:g} and {values['variational_learning_rate']:g}"
        about = [str(len(masked)), str(values["epochs"]), "1 (BB)"]
        rows.append([title, *about, *errors, _units(masked)])
    header = ["300 validation digits, error %", "seeds", "epochs", "KL", "plain", "nn.Dropout"]
    return table([*header, "BB, mean mask", "units of BB"], rows)


def digits_choice() -> str:
    """Return the candidates of the digits' recipes on validation images."""
    rows = []
    for run in read("digits-mlp-choice.json")["runs"]:
        about = [str(run["seed"]), epochs_of(run["settings"]), kl_factor(run["settings"])]
        ways = "mean_mask", "monte_carlo"
        cells = [f"{run['error'][way]:.2f}" for way in ways]
        cells += [f"{run[key][way]:.3f}" for key in ("nll", "ece") for way in ways]
        kept = "-".join(map(str, run["units"])) or "64-500-300"
        if run["weights"]:
            kept = weights_kept(sum(run["weights"]) / sum(run["weights_total"]))
        rows.append([run["candidate"], *about, *cells, kept])
    header = ["300 validation digits", "seed", "epochs", "KL", "error %", "sampled"]
    return table([*header, "NLL", "sampled", "ECE", "sampled", "kept"], rows)


def demo() -> str:
    """Return the table of ``demo.py``: means and standard errors over seeds."""
    runs = read("demo.json")["runs"]
    by_kind = {kind: [run for run in runs if run["kind"] == kind] for kind, _ in EXAMPLE}
    plain = by_kind["plain"]
    rows = []
    for (kind, way), title in EXAMPLE.items():
        own = by_kind[kind]
        settings = own[0]["settings"]
        about = [str(len(own)), epochs_of(settings), kl_factor(settings)]
        cells = [
            _mean([run[way][key] for run in own], digits)
            for key, digits in (("error", 2), ("nll", 4), ("ece", 4), ("auroc", 3))
        ]
        beside = "" if own is plain else _beside_plain(own, plain, way)
        rows.append([title, *about, *cells, _units(own), beside])
    header = ["digits 0-7, 482 test images", "seeds", "epochs", "KL", "error %", "NLL", "ECE"]
    return table([*header, "AUROC 8-9", "units", "beside plain"], rows)


def _beside_plain(own: list[dict], plain: list[dict], way: str) -> str:
    found = []
    for key in ("error", "nll", "ece", "auroc"):
        values = {run["seed"]: run[way][key] for run in own}
        others = {run["seed"]: run["mean"][key] for run in plain}
        noise = noise_of_error(statistics.fmean(others.values()), 482) if key == "error" else 0.0
        found.append(SIGNS[difference(values, others).verdict(key == "auroc", noise)])
    return " ".join(found)


def concrete() -> str:
    """Return the table of ``concrete_regression.py``, the published numbers in brackets."""
    result = read("concrete-regression.json")
    published = result["published"]
    rows = []
    for size, row in result["mean"].items():
        figures = [
            f"{row[key]:.2f} ({published[key][size]:.2f})"
            for key in ("rmse", "aleatoric", "epistemic", "hidden_drop_prob")
        ]
        seeds = sum(run["num_data"] == int(size) for run in result["runs"])
        rows.append([size, str(seeds), str(result["epochs"][size]), "1", *figures])
    header = ["training points", "seeds", "epochs", "KL", "RMSE", "aleatoric", "epistemic"]
    return table([*header, "hidden drop rate"], rows)


def steps() -> str:
    """Return the table of training-step times."""
    result = read("step_time.json")
    rows = [
        [name, *(f"{result[network][name]['ratio']:.2f}" for network in NETWORKS)]
        for name in result["lenet-500-300"]
    ]
    return table([f"training step, {result['threads']} thread(s)", *NETWORKS.values()], rows)


def peers() -> str:
    """Return what a step of other people's layers costs."""
    result = read("peers.json")
    rows = [
        [name, f"{found['ratio']:.2f}", f"{found['cpu_ratio']:.2f}"]
        for name, found in result["ratios"].items()
    ]
    return table(
        ["LeNet-500-300, 1 thread", f"wall (load {result['load_before']:.1f})", "CPU"], rows
    )


def steps_of_layers() -> str:
    """Return what a step of every registered layer costs, before and after it was made faster."""
    result = read("step_time_layers.json")
    runs = [result[when] for when in ("before", "after")]
    keys = ("ratio", "cpu_ratio")
    networks = [run["lenet-500-300"] for run in runs]
    rows = [
        [
            name,
            *(f"{of[name][key]:.2f}" if name in of else "" for of in networks for key in keys),
        ]
        for name in networks[1]
    ]
    before, now = (f"{run['load_before']:.1f}" for run in runs)
    header = [f"before, wall (load {before})", "before, CPU"]
    header += [f"now, wall (load {now})", "now, CPU"]
    return table(["LeNet-500-300, 1 thread", *header], rows)


def steps_by_cpu() -> str:
    """Return the CPU time of a step of either network, and of the dense one on two threads."""
    result = read("step_time_layers.json")
    runs = {
        "LeNet-500-300": result["after"]["lenet-500-300"],
        "two threads": result["two_threads"]["lenet-500-300"],
        "LeNet5-Caffe": result["maps"]["lenet5-caffe"],
    }
    rows = [
        [name, *(f"{run[name]['cpu_ratio']:.2f}" for run in runs.values())]
        for name in runs["LeNet5-Caffe"]
    ]
    dense = [
        f"{result[name]['one_more_masked_layer']['cpu_milliseconds']:.2f} ms"
        for name in ("after", "two_threads")
    ]
    rows.append(["one more mask of 100 units", *dense, ""])
    loads = [result[name]["load_before"] for name in ("after", "two_threads", "maps")]
    header = [f"{name} (load {load:.0f})" for name, load in zip(runs, loads, strict=True)]
    return table(["CPU time of a training step", *header], rows)


def steps_compiled() -> str:
    """Return what ``torch.compile`` makes of a step."""
    result = read("step_time_compiled.json")
    load = f"wall (load {result['load_before']:.0f})"
    rows = [
        [name, f"{found['ratio']:.2f}", f"{found['cpu_ratio']:.2f}"]
        for name, found in result["lenet-500-300"].items()
        if name.endswith(("fused Adam", "compile", "bnn.loss", "bd.fit"))
    ]
    return table([f"LeNet-500-300, {result['threads']} thread", load, "CPU"], rows)


WHOLE_RECIPE = (
    "plain torch",
    "plain torch, nn.Dropout",
    "recipe",
    "recipe, compact_every=1",
)


def whole_recipe() -> str:
    """Return what recipes cost against plain runs of as many epochs."""
    results = [read(f"compact-training{end}.json") for end in ("", "-lenet5-caffe")]
    rows = []
    for result in results:
        found = result["rounds"]
        network = result["recipe"].removesuffix("-beta-bernoulli")
        examples = f"{network}, {result['examples']:,} images"
        epochs = "+".join(map(str, result["stages"].values()))
        load = f"{result['load_before']:.0f}"
        for name in WHOLE_RECIPE:
            cells = [
                statistics.median(turn[name][kind] / turn["plain torch"][kind] for turn in found)
                for kind in ("wall", "cpu")
            ]
            units = found[0][name].get("units")
            left = "-".join(map(str, units[-1])) if units else "all"
            ratios = [f"{cell:.2f}" for cell in cells]
            rows.append([f"{examples}: {name}", epochs, str(len(found)), load, *ratios, left])
    return table(["1 thread", "epochs", "rounds", "load", "wall", "CPU", "units"], rows)


def predictions() -> str:
    """Return the table of prediction times."""
    result = read("predict_time.json")
    titles = {
        "plain_passes": "64 plain passes",
        "predict_ordinary": "bd.predict before: all units",
        "predict": "bd.predict: open units, one mask per posterior sample",
        "compact_passes": "64 passes of the compact network",
        "predict_per_example": 'bd.predict, shared_by="example"',
        "stock_predictive": "stock Predictive",
    }
    networks = result["networks"]
    ratios = [of["ratio_to_plain_passes"] for of in networks.values()]
    rows = [
        [title, *("/".join(_ratio(of[clock], key) for clock in CLOCKS) for of in ratios)]
        for key, title in titles.items()
    ]
    threads = f"{result['threads']} thread(s), wall / CPU"
    return table([f"prediction, {threads}", *networks], rows)


CLOCKS = ("seconds", "cpu_seconds")


def _ratio(ratios: dict, key: str) -> str:
    return f"{ratios[key]:.2f}" if key in ratios else "-"


def mean_masks() -> str:
    """Return the table of single passes with mean masks."""
    result = read("predict_time.json")["single_pass"]
    sizes = next(iter(result.values()))
    rows = [
        [name, *("/".join(_ratio(of[size], clock) for clock in CLOCKS) for size in sizes)]
        for name, of in result.items()
    ]
    return table(["plain = 1, wall / CPU", *(s.replace("_", " ") for s in sizes)], rows)


def latencies() -> str:
    """Return the table of measured latency beside FLOPs."""
    result = read("latency.json")
    ways = {"eager": "eager", "compile": "torch.compile", "onnx": "ONNX Runtime"}
    rows = []
    for name, of in result["networks"].items():
        units = "-".join(map(str, of["units"]))
        titles = {"compact": "compact", "members": f"{result['members']} members"}
        for key, title in titles.items():
            for way, sizes in of[key]["milliseconds"].items():
                pairs = [row["cpu"] for row in sizes.values()]
                cells = [f"{new:.3f} ({old / new:.1f}x)" for old, new in pairs]
                flops = f"{of[key]['flops_speedup']:.1f}x"
                rows.append([f"{name}, {units}, {title}", ways[way], flops, *cells])
    header = ["network", "run by", "fewer FLOPs", "CPU ms, batch 1", "batch 100", "batch 1000"]
    return table(header, rows)
