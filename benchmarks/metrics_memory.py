"""Peak memory of all of a classifier's figures over a million test points.

    python benchmarks/metrics_memory.py [--num-examples 1000000]

Batches of posterior samples, 64 x 1000 x 10, are made up and handed to ``ClassificationMetrics``;
all of them together would be 2.6 GB in float32. The peak is that of the process: it includes
torch, and the batch itself.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

# Before torch is imported: busy-waiting threads make a step up to ten times slower under load.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch

import bayesdrop as bd

RESULT = Path(__file__).parent / "results" / "metrics-memory.json"
LIMIT = 2 * 2**30


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-examples", type=int, default=1_000_000)
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    metrics = bd.metrics.ClassificationMetrics()
    at_start, seconds = peak_bytes(), 0.0
    begin = time.perf_counter()
    for start in range(0, options.num_examples, options.batch_size):
        rows = min(options.batch_size, options.num_examples - start)
        logits = 2 * torch.randn(rows, options.num_classes)
        noise = torch.randn(options.num_samples, rows, options.num_classes)
        samples = (logits + noise).softmax(-1)
        labels = torch.distributions.Categorical(logits=logits).sample()
        tick = time.perf_counter()
        metrics.update(samples, labels)
        seconds += time.perf_counter() - tick
    before_compute = peak_bytes()
    tick = time.perf_counter()
    figures = metrics.compute()
    result = {
        "command": "python " + " ".join(["benchmarks/metrics_memory.py", *sys.argv[1:]]),
        "num_examples": options.num_examples,
        "num_samples": options.num_samples,
        "num_classes": options.num_classes,
        "batch_size": options.batch_size,
        "samples_bytes_float32": 4
        * options.num_examples
        * options.num_samples
        * options.num_classes,
        "peak_bytes_at_start": at_start,
        "peak_bytes_after_updates": before_compute,
        "peak_bytes": peak_bytes(),
        "limit_bytes": LIMIT,
        "seconds_in_updates": seconds,
        "seconds_in_compute": time.perf_counter() - tick,
        "seconds": time.perf_counter() - begin,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "seed": 0,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "figures": figures.to_dict(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if "bytes" in k or "seconds" in k}))
    if result["peak_bytes"] > LIMIT:
        sys.exit(f"{result['peak_bytes']} bytes are more than {LIMIT}")


if __name__ == "__main__":
    main()
