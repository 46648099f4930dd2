"""Laws of the callbacks that write epochs elsewhere, against the real libraries."""

from types import SimpleNamespace

import pytest
import torch

import bayesdrop as bd
from bayesdrop.integrations.loggers import MLflowLogger, WandbLogger
from tests.integrations.test_kl_term import X, Y, network


def fitted(*callbacks):
    bnn = bd.BayesianNetwork(network(), bd.Categorical(), num_data=len(X))
    options = {"epochs": 3, "progress": False, "callbacks": callbacks}
    return bd.fit(bnn, (X, Y), **options).history


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_has_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        history = fitted(MLflowLogger(mlflow))
    client = mlflow.MlflowClient()
    found = client.get_metric_history(run.info.run_id, "nll")
    assert [(m.step, m.value) for m in found] == [(r["epoch"], r["nll"]) for r in history]
    assert client.get_run(run.info.run_id).data.metrics["units/0"] == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_has_every_epoch_of_two_fits(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="disabled", dir=tmp_path)
    written = []
    monkeypatch.setattr(
        type(run), "log", lambda self, data, **options: written.append((data, options))
    )
    history = fitted(WandbLogger(run)) + fitted(WandbLogger(run))
    assert [data["nll"] for data, _ in written] == [record["nll"] for record in history]
    assert all(data["epoch"] and not options for data, options in written)


def test_one_process_of_several_writes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    MLflowLogger(None)(None, {"epoch": 1, "nll": 1.0})


def test_options_of_mlflow_reach_it():
    written = []
    client = SimpleNamespace(
        log_metrics=lambda *given, **options: written.append((given, options))
    )
    MLflowLogger(client, run_id="a")(None, {"epoch": 3, "nll": 1.0})
    ((_, options),) = written
    assert options == {"step": 3, "run_id": "a"}
