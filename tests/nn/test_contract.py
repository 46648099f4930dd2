"""Every registered layer keeps the contract that ``bayesdrop.testing`` ships."""

import bayesdrop as bd
from bayesdrop.testing import MaskContract, WeightContract

_OWN = {
    "point_estimates": {"dependent-beta-bernoulli": frozenset({"slope"})},
    "is_random": {"group-lasso": False},
    "without_statistics": {"dependent-beta-bernoulli": {"momentum": 1e-300}},
}

for _key, _cls in bd.nn.layers.items():
    if _cls.__module__.startswith("bayesdrop."):
        _base = MaskContract if issubclass(_cls, bd.BayesianDropout) else WeightContract
        _values = {name: of[_key] for name, of in _OWN.items() if _key in of}
        _name = f"Test{_cls.__name__}"
        globals()[_name] = type(_name, (_base,), {"key": _key, **_values})


def test_no_layer_of_the_package_escapes():
    tested = {value.key for name, value in globals().items() if name.startswith("Test")}
    assert tested == {
        key for key, cls in bd.nn.layers.items() if cls.__module__.startswith("bayesdrop.")
    }
