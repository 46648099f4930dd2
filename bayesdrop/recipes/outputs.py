"""What is made of a trained run: its report and its compact network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from bayesdrop.compression import (
    CompressionTable,
    compact,
    measure_compression,
    save_plain,
)
from bayesdrop.data import load_ood
from bayesdrop.recipes.run import Run
from bayesdrop.reporting import Report, add_analysis, build_report
from bayesdrop.reporting.model_card import versions


def report_run(
    run: Run,
    *,
    ood: Sequence[str] = (),
    num_samples: int = 64,
    data_dir: str | Path | None = None,
    thorough: bool = False,
    shift: bool | None = None,
    diagnose: bool = False,
) -> Report:
    """Evaluate a run on its test set.

    Args:
        run: A trained run.
        ood: Names of data sets that it was not trained on.
        num_samples: Posterior samples.
        data_dir: Folder of the data files.
        thorough: Whether to add intervals, dataset shift, selective prediction, the posterior over
            size and what else ``analyse`` finds, in minutes instead of seconds.
        shift: With ``thorough``, whether to corrupt the test images; None as far as it is quick.
        diagnose: With ``thorough``, whether to check the ELBO and the guide on the training data.

    Raises:
        ConfigError: If a name is unknown or shares classes with the run's data.
        DataError: If data cannot be loaded, or have another shape than the run's.
    """
    from bayesdrop import __version__

    outside = {
        name: load_ood(name, run.data, data_dir=data_dir, vocabulary=run.vocabulary)
        for name in ood
    }
    splits = run.load_data(data_dir)
    report = build_report(
        run.bnn,
        run.plain,
        splits.test,
        description={
            "recipe": run.recipe.name,
            "network": run.recipe.network,
            "data": run.data,
            "data_title": splits.title,
            "minutes": run.minutes,
            "versions": {"bayesdrop": __version__, **versions()},
        },
        ood=outside,
        num_samples=num_samples,
        seed=run.seed,
        history=run.history,
    )
    if not thorough:
        return report
    return add_analysis(
        report,
        validation=splits.validation,
        train=splits.train if diagnose else None,
        class_names=splits.class_names,
        shift=shift,
    )


def compact_run(
    run: Run, out: str | Path, *, onnx: str | Path | None = None
) -> tuple[nn.Module, CompressionTable]:
    """Prune a run, save what is left, and return it with its cost before and after.

    Args:
        run: A trained run.
        out: File for the compact network, for ``torch.export.load(out).module()``.
        onnx: File for a copy in ONNX, or None.

    Raises:
        CompactionError: If the network cannot be made smaller exactly.
        CheckpointError: If a file cannot be written.
        ImportError: If ONNX is asked for and not installed.
    """
    example = run.example()
    small = compact(run.bnn, example)
    save_plain(small, out, example)
    if onnx is not None:
        save_plain(small, onnx, example, format="onnx")
    return small, measure_compression(run.bnn, small, example)
