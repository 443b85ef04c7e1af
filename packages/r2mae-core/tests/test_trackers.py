"""Every tracker holds the numbers of `metrics.csv`, offline, also after a resume."""

import contextlib
import json
import shutil
import socket
import sqlite3
import struct
import time
from uuid import uuid4

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import Logger

from r2mae_core import RunFolder, UserError, logging_to, read_metrics
from r2mae_core.train import training
from r2mae_core.train.trackers import _NEEDS, _kept, check_tracker
from tiny import samples, train

NAMES = ("mask_ratio", "loss")


class PowerCut(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 7:
            raise RuntimeError("power cut")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No connection leaves the machine, and nothing of the machine's own settings counts."""
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    connect = socket.socket.connect

    def only_here(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in NAMES}


def wandb(run):
    from wandb.proto.wandb_internal_pb2 import Record

    found = {name: {} for name in NAMES}
    files = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # before the power cut, and after
    assert len({file.name for file in files}) == 1  # both are one run
    for file in files:
        for data in leveldb_records(file.read_bytes()[7:]):
            record = Record()
            record.ParseFromString(data)
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in NAMES:
                if name in row:
                    found[name][row["trainer/global_step"]] = row[name]
    return found


def leveldb_records(data, block=32768, head=7):
    """Yield the records of a log in LevelDB's format, whose first block began with 7 bytes of a header."""
    place, whole = 0, b""
    while place + head <= len(data):
        left = block - (place + 7) % block
        if left < head:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)  # after the checksum
        whole += data[place + head : place + head + length]
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""
        place += head + length


def mlflow(run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (only,) = runs
    assert only.info.run_name == run.path.name
    return {name: {m.step: m.value for m in client.get_metric_history(only.info.run_id, name)} for name in NAMES}


def trackio(run):
    titles = set()
    (file,) = [f for f in run.path.parent.glob("trackio/*.db") if f.stem == "test"]
    found = {name: {} for name in NAMES}
    with contextlib.closing(sqlite3.connect(file)) as database:
        for title, step, metrics in database.execute("SELECT run_name, step, metrics FROM metrics"):
            assert title.startswith(f"{run.path.name}-")
            titles.add(title)
            for name in NAMES:
                if name in (row := json.loads(metrics)):
                    found[name][step] = row[name]
    assert len(titles) == 1  # one run, also resumed
    return found


READERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "trackio": trackio}


@pytest.mark.filterwarnings("ignore:.*noload.*")  # mlflow's use of SQLAlchemy
@pytest.mark.parametrize("tracker", READERS)
def test_a_tracker_holds_what_metrics_csv_holds(tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(tracker)
    arguments = {"checkpoint_every": 4, "log_every": 2, "tracker": tracker, "project": "test"}
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "run", callbacks=[PowerCut()], **arguments)
    time.sleep(1.1 if tracker == "wandb" else 0)  # it names folders by the second
    train(tmp_path / "run", **arguments)
    run = RunFolder.open(tmp_path / "run")
    metrics = read_metrics(run.metrics_file)
    deadline = time.monotonic() + 30  # W&B's own process may still be writing
    while len((found := READERS[tracker](run))["loss"]) < 10 and time.monotonic() < deadline:
        time.sleep(0.2)
    for name in NAMES:
        assert len(metrics[name]) == 10
        assert found[name] == pytest.approx(dict(metrics[name]), rel=1e-6)


def in_tensorboard(path):
    """Return metric → [(step, value)], as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("before_first_checkpoint", [False, True])
def test_tensorboard_shows_metrics_csv_and_nothing_else(tmp_path, before_first_checkpoint):
    """No step twice, and none of a start that was cut off, which may have logged other steps."""
    held_out = torch.utils.data.DataLoader(samples(20), batch_size=20)
    arguments = {"checkpoint_every": 9 if before_first_checkpoint else 4, "samples_per_step": 8, "validate_every": 3}
    arguments |= {"validation_loader": held_out, "tracker": "tensorboard"}
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "run", callbacks=[PowerCut()], log_every=1, **arguments)
    assert max(step for step, _ in in_tensorboard(tmp_path / "run")["loss"]) == 6
    train(tmp_path / "run", log_every=5, **arguments)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {"loss", "samples_per_second", "val_loss/ratio_0.5"} <= set(metrics)
    assert in_tensorboard(tmp_path / "run") == {
        name: [(step, pytest.approx(value, rel=1e-6)) for step, value in points] for name, points in metrics.items()
    }


def test_tensorboard_knows_the_options_and_forgets_a_loop_that_begins_anew(tmp_path):
    for losses in ({3: 3.0, 6: 2.0}, {4: 1.0}):
        run = RunFolder(tmp_path / "run", {"lr": 0.5, "names": ["a"]})
        with logging_to(run, "tensorboard") as log:
            for step, loss in losses.items():
                log({"loss": loss, "epoch": 1}, step)
    assert in_tensorboard(run.path) == {"loss": [(4, 1.0)]} == read_metrics(run.metrics_file)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    kept = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"lr" in kept
    assert b"['a']" in kept


@pytest.mark.filterwarnings("ignore:.*noload.*")  # mlflow's use of SQLAlchemy
@pytest.mark.parametrize("tracker", READERS)
def test_a_resumed_run_may_have_other_options(tracker, tmp_path, monkeypatch):
    """Such as its device; MLflow alone refuses another value, so it keeps the first."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(tracker)
    for every in (1, 2):
        run = RunFolder(tmp_path / "run", {"log_every": every, "lr": 0.5})
        with logging_to(run, tracker, "test") as log:
            log({"loss": 1.0}, every)
    if tracker == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{run.path / 'mlflow' / 'mlflow.db'}")
        (only,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert only.data.params == {"log_every": "1", "lr": "0.5"}


def test_two_folders_of_one_name_are_two_runs(tmp_path):
    runs = [RunFolder(tmp_path / place / "run", {}) for place in ("a", "b", "a")]
    names = [_kept(run, "trackio", uuid4().hex) for run in runs]
    assert names[0] == names[2] != names[1]
    shutil.rmtree(runs[0].path)
    assert _kept(RunFolder(tmp_path / "a" / "run", {}), "trackio", uuid4().hex) != names[0]


def test_csv_alone_writes_nothing_else(tmp_path):
    train(tmp_path / "run", log_every=2)
    assert not {"tensorboard", "wandb", "mlflow"} & {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("tracker", _NEEDS)
def test_a_missing_package_is_named_before_anything_is_written(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"--logger {tracker} needs {tracker}; pip install 'r2mae-core\[{tracker}\]'"):
        check_tracker(tracker)
    assert not list(tmp_path.iterdir())


def test_a_loop_of_ones_own_is_logged_anew_and_its_failure_is_said(tmp_path, monkeypatch):
    run, told = RunFolder(tmp_path / "run", {}), []

    class Told(Logger):
        name, version = "told", ""

        def log_metrics(self, metrics, step=None):
            told.append((step, metrics))

        def log_hyperparams(self, *_): ...

        def finalize(self, status):
            told.append(status)

    monkeypatch.setattr("r2mae_core.train.trackers.tracker_loggers", lambda *_: [Told()])

    def cut_off():
        with logging_to(run) as log:
            log({"loss": 2.0}, 1)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut_off()
    with logging_to(run) as log:
        log({"loss": 1.0}, 1)
    assert told == [(1, {"loss": 2.0}), "failed", (1, {"loss": 1.0}), "success"]
    assert read_metrics(run.metrics_file) == {"loss": [(1, 1.0)]}


def test_trackers_are_closed_where_there_is_no_training(tmp_path, monkeypatch):
    """Else the next training of the process would go on in the run of the failed one."""
    opened, closed = [], []
    monkeypatch.setattr(training, "tracker_loggers", lambda *_: opened)
    monkeypatch.setattr(training, "close_trackers", closed.append)
    with pytest.raises(UserError, match="nonsense"):
        train(tmp_path / "run", strategy="nonsense")
    assert closed == [opened]
