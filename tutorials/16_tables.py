# %% [markdown]
# # Tables, end to end
#
# **Question.** You have a table with gaps in it, and you work with scikit-learn. What does a
# Bayesian network add to a pipeline, and what does it cost?
#
# **Answer.** `BayesdropClassifier` and `BayesdropRegressor` are estimators like any other: they go
# into pipelines, `cross_val_score` and `GridSearchCV`. They add to each row how sure the answer
# is, intervals for numbers, and `compact()`. On tables of some hundred rows a linear model is hard
# to beat, so one stands beside each, and the two lines that are printed say how they compare.

# %%
import os

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bayesdrop.estimators import BayesdropClassifier, BayesdropRegressor

SMOKE = "BAYESDROP_SMOKE" in os.environ  # a shorter run, for the tests
EPOCHS, FOLDS = (10, 2) if SMOKE else (40, 5)

# %% [markdown]
# ## A classification
#
# 569 tumours, thirty measurements each, benign or malignant. One value of twenty is taken away, as
# in tables that people fill in. A third of the rows is put aside for the end.

# %%
x, y = load_breast_cancer(return_X_y=True)
x[np.random.default_rng(0).random(x.shape) < 0.05] = np.nan
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, random_state=0)

# %% [markdown]
# ## Choosing by cross-validation
#
# How much the KL divergence counts, and how wide the network is, say the training rows alone. The
# imputer is inside of the pipeline, so that it never sees a row that is scored.

# %%
settings = {"dropout_options": {"input_dropout": True}, "random_state": 0}  # masks on columns too
network = BayesdropClassifier(epochs=EPOCHS, variational_learning_rate=0.1, **settings)
search = GridSearchCV(
    make_pipeline(SimpleImputer(), network),
    {
        "bayesdropclassifier__kl_weight": [0.1, 1.0],
        "bayesdropclassifier__hidden_layer_sizes": [(50,)] if SMOKE else [(50,), (100, 100)],
    },
    scoring="neg_log_loss",
    cv=FOLDS,
).fit(x_train, y_train)
search.best_params_

# %% [markdown]
# ## The test rows, once
#
# Beside it stands a logistic regression in the same pipeline.

# %%
linear = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
linear.fit(x_train, y_train)
losses = {}
for name, model in {"logistic regression": linear, "bayesdrop": search}.items():
    probabilities = model.predict_proba(x_test)
    losses[name] = log_loss(y_test, probabilities)
    accuracy = np.mean(model.predict(x_test) == y_test)
    print(f"{name:20} accuracy {accuracy:.3f}  NLL {losses[name]:.3f}")

# %% [markdown]
# ## How sure is each answer?
#
# `predict_uncertainty` takes the doubt apart: `mutual_information` is what masks disagree about.
# Of gaps it knows nothing: the imputer has no way to say that it guessed.

# %%
imputer, chosen = search.best_estimator_[0], search.best_estimator_[-1]
uncertainty = chosen.predict_uncertainty(imputer.transform(x_test))
wrong = search.predict(x_test) != y_test
order = uncertainty["predictive_entropy"].argsort()
halves = [wrong[half].mean() for half in np.array_split(order, 2)]
print(f"errors in the surer half {halves[0]:.1%}, in the other {halves[1]:.1%}")

# %% [markdown]
# ## Smaller
#
# Units that the posterior has closed are cut; the short form of this tutorial trains too briefly
# to close any. The predictions are those of the mean mask.

# %%
small = chosen.compact()
mean_mask = chosen.set_params(num_samples=None)
rows = imputer.transform(x_test)
difference = np.abs(small.predict_proba(rows) - mean_mask.predict_proba(rows)).max()
units, total = chosen.bnn_.units(), chosen.bnn_.units_total()
print(f"{units} of {total} columns and units, probabilities within {difference:.1e}")

# %% [markdown]
# ## A regression
#
# 442 patients, and how far their diabetes has come a year later. `predict_interval` gives the
# interval that should hold a new target with the probability asked for, noise and doubt about the
# network included. A ridge regression has one width for all: the spread of its training errors.

# %%
x, y = load_diabetes(return_X_y=True)
a_train, a_test, b_train, b_test = train_test_split(x, y, test_size=0.33, random_state=0)
regressor = BayesdropRegressor(epochs=3 * EPOCHS, **settings).fit(a_train, b_train)
ridge = make_pipeline(StandardScaler(), Ridge(1.0)).fit(a_train, b_train)
half_width = np.quantile(np.abs(b_train - ridge.predict(a_train)), 0.9)
ends = {
    "ridge": (ridge.predict(a_test) - half_width, ridge.predict(a_test) + half_width),
    "bayesdrop": regressor.predict_interval(a_test, level=0.9),
}
held = {}
for name, model in {"ridge": ridge, "bayesdrop": regressor}.items():
    lower, upper = ends[name]
    rmse = np.sqrt(np.mean((model.predict(a_test) - b_test) ** 2))
    held[name] = np.mean((lower <= b_test) & (b_test <= upper))
    width = f"{(upper - lower).mean():.0f} +- {(upper - lower).std():.0f}"
    print(f"{name:10} RMSE {rmse:.1f}  90 % intervals hold {held[name]:.0%}, width {width}")

# %% [markdown]
# ## The claim, checked
#
# The network is about as good as the linear models and says more about each row. One split of two
# small tables: a share of 90 % of 146 rows has a standard error of 2.5 points.

# %%
assert losses["bayesdrop"] < 0.2, losses
assert halves[0] <= halves[1], halves
assert difference < 1e-4 and (SMOKE or sum(units) < sum(total)), (difference, units)
assert abs(held["bayesdrop"] - 0.9) < 0.1, held
