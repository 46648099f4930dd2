"""scikit-learn's own checks of an estimator."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from bayesdrop.estimators import BayesdropClassifier, BayesdropRegressor

# Small and fast, and still able to learn what the checks ask for.
QUICK = {
    "hidden_layer_sizes": (8,),
    "epochs": 4,
    "batch_size": 100,
    "learning_rate": 0.2,
    "num_samples": 4,
    "dropout_options": {"input_dropout": False},
}
# Check to the reason why it may fail; what is skipped needs SCIPY_ARRAY_API.
_REPEATED = (
    "a row of weight 2 is in one batch, where the same row twice is in two, and counts once"
)
MAY_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": _REPEATED,
    "check_sample_weight_equivalence_on_sparse_data": _REPEATED,
}


@parametrize_with_checks(
    [BayesdropClassifier(**QUICK), BayesdropRegressor(**QUICK | {"epochs": 8, "batch_size": 64})],
    expected_failed_checks=lambda estimator: MAY_FAIL,
)
def test_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)
