"""Where names are that one looks for at the top, for the message of one that is not there."""

from __future__ import annotations

from bayesdrop import errors

RENAMED = {
    "BayesianWeights": "nn.BayesianWeights",
    "ClassificationMetrics": "metrics.ClassificationMetrics",
    "Comparison": "reporting.Comparison",
    "CompressionTable": "compression.CompressionTable",
    "DropconnectConv2d": "nn.Dropconnect",
    "DropconnectLinear": "nn.Dropconnect",
    "ELBOCheck": "diagnostics.ELBOCheck",
    "Evaluation": "diagnostics.Evaluation",
    "FitResult": "inference.fit.FitResult",
    "Frontier": "compression.Frontier",
    "GaussianDropconnectConv2d": "nn.GaussianDropconnect",
    "GaussianDropconnectLinear": "nn.GaussianDropconnect",
    "GuideDiagnostic": "diagnostics.GuideDiagnostic",
    "IndianBuffetSticks": "nn.IndianBuffetSticks",
    "OODTable": "metrics.OODTable",
    "PerInputCost": "compression.PerInputCost",
    "Prediction": "metrics.Prediction",
    "ShiftCurves": "diagnostics.ShiftCurves",
    "SizePosterior": "compression.SizePosterior",
    "SparseVariationalConv2d": "nn.SparseVariational",
    "SparseVariationalLinear": "nn.SparseVariational",
    "SparsityTable": "compression.SparsityTable",
    "TemperatureScaling": "metrics.TemperatureScaling",
    "WidthSweep": "compression.WidthSweep",
    "at_width": "cut_to_width",
    "bootstrap_metrics": "metrics.bootstrap_metrics",
    "choose_threshold": "compression.choose_threshold",
    "class_averaged_masks": "diagnostics.class_averaged_masks",
    "class_uncertainty": "metrics.entropy_parts",
    "close_unused_units": "prune_unused_units",
    "compare_predictions": "reporting.compare_predictions",
    "compression_table": "compression.measure_compression",
    "corrupt": "metrics.corrupt",
    "corruptions": "metrics.corruptions",
    "count_flops": "compression.count_flops",
    "export_onnx": "save_plain",
    "fit_temperature": "metrics.fit_temperature",
    "hold_width": "compression.hold_width",
    "load_compact": "load_plain",
    "load_regression": "load_data",
    "load_sparse": "load_plain",
    "log_likelihood_bound": "diagnostics.log_likelihood_bound",
    "make_dropout": "nn.make",
    "make_weight_layer": "nn.make",
    "ood_table": "metrics.compare_ood",
    "per_input_cost": "compression.measure_per_input",
    "pruning_frontier": "compression.sweep_thresholds",
    "register_dropout": "nn.register",
    "register_weight_layer": "nn.register",
    "registered_dropouts": "nn.registered",
    "registered_weight_layers": "nn.registered",
    "reliability_diagram": "metrics.reliability",
    "risk_coverage": "metrics.risk_coverage",
    "save_compact": "save_plain",
    "save_sparse": "save_plain",
    "select_threshold": "metrics.select_threshold",
    "shift_curves": "diagnostics.measure_shift",
    "size_posterior": "compression.measure_size",
    "sparsity_table": "compression.measure_sparsity",
    "to_deterministic": "without_dropout",
    "width_sweep": "compression.sweep_widths",
    "with_width": "compression.hold_width",
}
"""Earlier name in ``bayesdrop`` to today's, from ``bayesdrop`` on."""

_ELSEWHERE = {name: f"likelihoods.{name}" for name in ("NegativeBinomial", "Poisson", "StudentT")}
_ELSEWHERE |= {
    name: f"errors.{name}" for name in vars(errors) if name.endswith(("Error", "Warning"))
}


def no_such_name(name: str) -> AttributeError:
    """Return the error for a name that ``bayesdrop`` does not have, with where it is if it is."""
    today = f": it is bayesdrop.{RENAMED[name]} now" if name in RENAMED else ""
    if name in _ELSEWHERE:
        today = f": it is bayesdrop.{_ELSEWHERE[name]}"
    return AttributeError(f"module 'bayesdrop' has no attribute {name!r}{today}")
