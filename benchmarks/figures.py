"""Draw the pages' figures of trained masks.

    python benchmarks/figures.py --dbb runs/mnist/test/lenet-500-300-dbb-0 \
        --ibp runs/mnist/test/lenet-500-300-ibp-20-0

The runs are those of ``benchmarks/mnist.py test --suite lenet-500-300``. Averages are over MNIST's
test images. Writes PNG files into ``benchmarks/figures/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bayesdrop.diagnostics import class_averaged_masks
from bayesdrop.recipes import load_run
from bayesdrop.reporting import plots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dbb", type=Path, help="a run with input-dependent masks")
    parser.add_argument("--ibp", type=Path, help="a run with Indian buffet dropout")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/figures"))
    args = parser.parse_args()
    if args.dbb is not None:
        run = load_run(args.dbb)
        masks = class_averaged_masks(run.bnn, run.load_data(args.data_dir).test)
        first = next(iter(masks.values()))
        layers = run.bnn.named_dropout_layers()
        keep = {path: layer.keep_prob() for path, layer in layers}
        threshold = layers[0][1].threshold
        drawn = {
            "class_masks.png": plots.plot_class_masks(first, run.image_shape),
            "class_correlations.png": plots.plot_class_correlations(masks),
            "keep_probabilities.png": plots.plot_keep_probabilities(keep, threshold=threshold),
        }
        for name, figure in drawn.items():
            plots.save_figure(figure, args.out / name)
    if args.ibp is not None:
        plots.save_figure(plots.plot_sticks(load_run(args.ibp).bnn), args.out / "sticks.png")


if __name__ == "__main__":
    main()
