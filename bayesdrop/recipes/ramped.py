"""Targeted dropout whose rate and share rise as training goes on, to 0.99 as published."""

from __future__ import annotations

from dataclasses import replace

from bayesdrop.recipes.recipe import get, register

# The share comes near its end in 49 of 256 epochs and reaches it, as the rate does, in 98.
_MIDDLE, _END, _TOP = 49 / 256, 98 / 256, 0.99
_RAMPS = {
    "drop_prob": ((0.0, 0.0), (_END, _TOP)),
    "targeted_share": ((0.0, 0.0), (_MIDDLE, 0.95 * _TOP), (_END, _TOP)),
}

for _network in ("digits-mlp", "lenet-500-300", "lenet5-caffe"):
    for _method in ("targeted", "targeted-dropconnect"):
        _constant = get(f"{_network}-{_method}")
        (_stage,) = _constant.stages
        _rates = {"drop_prob": _TOP, "targeted_share": _TOP}
        register(
            replace(
                _constant,
                name=f"{_constant.name}-ramped",
                summary=f"{_constant.summary}, rate and share ramped up to {_TOP}",
                stages=(replace(_stage, buffers=_RAMPS),),
                dropout_options={**_constant.dropout_options, **_rates},
            )
        )
