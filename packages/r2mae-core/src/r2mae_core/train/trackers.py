"""Experiment trackers beside `metrics.csv`: `--logger tensorboard|wandb|mlflow|trackio`. None uses a network unasked.

Metrics have the same names everywhere. A resumed run goes on in the tracker's own run. What was logged after the last
checkpoint is logged again, with the same losses; TensorBoard drops the older lines, the others keep both.
"""

import importlib
import importlib.util
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from typing_extensions import override

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import read_text, write_text
from r2mae_core.lab.run_folder import RunFolder
from r2mae_core.lab.terminal import first_rank
from r2mae_core.train.metrics_csv import MetricsCSV
from r2mae_core.train.options import Tracker

_NEEDS = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}
"""Tracker → the modules without which it cannot be."""


def check_tracker(tracker: Tracker) -> None:
    """Refuse a tracker whose package is not installed, before anything is computed.

    Raises:
        UserError: it says what to install.
    """
    missing = [name for name in _NEEDS.get(tracker, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--logger {tracker} needs {missing[0]}; pip install 'r2mae-core[{tracker}]'")


def tracker_loggers(tracker: Tracker, run: RunFolder, project: str) -> list[Logger]:
    """Return the tracker as a logger of Lightning's; none for "csv", which every run has anyway.

    - tensorboard: event files in RUN/tensorboard.
    - wandb: offline, in RUN/wandb, to be sent by `wandb sync`; WANDB_MODE=online sends at once.
    - mlflow: a database in RUN/mlflow, or where MLFLOW_TRACKING_URI points.
    - trackio: where its dashboard finds it, or in TRACKIO_DIR; TRACKIO_SPACE_ID sends to a Space.

    Args:
        tracker: which.
        run: its name is the run's, its options are the parameters.
        project: what groups runs: the program.

    Raises:
        UserError: its package is not installed.
    """
    check_tracker(tracker)
    if tracker == "csv":
        return []
    logger = _LOGGERS[tracker](run, project)
    logger.log_hyperparams({name: _plain(value) for name, value in run.config.items()})
    return [logger]


def close_trackers(loggers: Sequence[Logger]) -> None:
    """End the trackers' runs, so that a further training in this process gets its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and first_rank():
            logger.experiment.finish()


@contextmanager
def logging_to(
    run: RunFolder, tracker: Tracker = "csv", project: str = "r2mae"
) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Log a training that is not Lightning's and begins anew: into `metrics.csv`, and to a tracker too.

    Args:
        run: where `metrics.csv` goes; what it held is lost.
        tracker: see `tracker_loggers`.
        project: what the tracker groups runs by.

    Yields:
        A function of (metric → value, step).

    Raises:
        UserError: the tracker's package is not installed.
    """
    metrics = MetricsCSV(run.metrics_file)
    metrics.go_back_to(None)
    trackers = tracker_loggers(tracker, run, project)
    forget_from(0, trackers)

    def log(values: Mapping[str, float], step: int) -> None:
        for logger in (metrics, *trackers):
            logger.log_metrics(dict(values), step)

    status = "failed"
    try:
        yield log
        status = "success"
    finally:
        for logger in trackers:
            logger.finalize(status)
        close_trackers(trackers)


def forget_from(step: int, loggers: Sequence[Logger]) -> None:
    """Let trackers that can do so forget a step and those after it, because a training begins or goes on there."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.forget_from(step)


def _tensorboard(run: RunFolder, project: str) -> Logger:
    return TensorBoard(run.path, name="tensorboard", version="")


def _wandb(run: RunFolder, project: str) -> Logger:
    offline = os.environ.get("WANDB_MODE", "offline") != "online"
    own = _kept(run, "wandb", uuid4().hex)
    return WandbLogger(run.path.name, save_dir=run.path, offline=offline, id=own, project=project, resume="allow")


def _mlflow(run: RunFolder, project: str) -> Logger:
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports every table that it creates
    database = run.path / "mlflow" / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        database.parent.mkdir(exist_ok=True)
        uri = f"sqlite:///{database.resolve()}"
    logger = MLflow(project, run.path.name, tracking_uri=uri, run_id=_kept(run, "mlflow"))
    if first_rank():  # the others have no run
        _kept(run, "mlflow", logger.run_id)
    return logger


def _trackio(run: RunFolder, project: str) -> Logger:
    # It knows runs by their names alone: two folders called "run" must not become one.
    own = _kept(run, "trackio", uuid4().hex) or ""
    return TrackioLogger(project, f"{run.path.name}-{own[:8]}")


_LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def _kept(run: RunFolder, tracker: str, new: str | None = None) -> str | None:
    """Return the tracker's own name of this run, which its folder keeps; a new one is kept if there is none.

    Not a function of the folder's place: a new run at an old one's place is another run.
    """
    file = run.path / tracker / "run-id"
    if file.exists():
        return read_text(file).strip()
    if new is not None and first_rank():
        file.parent.mkdir(exist_ok=True)
        write_text(file, f"{new}\n")
    return new


def _plain(value: Any) -> Any:
    """Return an option as every tracker can keep it."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, without what `metrics.csv` does not hold: epochs, an invented "hp_metric", older steps."""

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        from torch.utils.tensorboard.summary import hparams

        super().log_hyperparams(params, {})  # with no metric it writes nothing
        given = vars(params) if isinstance(params, Namespace) else params
        for part in hparams(given, {}):
            self._events.add_summary(part)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Let readers drop what an earlier start logged of this step and those after it."""
        events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        begin = events.SessionLog(status=events.SessionLog.START)
        self._events.add_event(events.Event(session_log=begin), step)

    @property
    def _events(self) -> Any:
        return self.experiment._get_file_writer()


class MLflow(MLFlowLogger):
    """Lightning's logger, for runs that are resumed with another value of an option: MLflow keeps the first."""

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        given = vars(params) if isinstance(params, Namespace) else params
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in given.items() if name not in known})


class TrackioLogger(Logger):
    """trackio as a logger of Lightning's, which has none.

    Args:
        project: what groups runs.
        title: of the run.
    """

    def __init__(self, project: str, title: str) -> None:
        super().__init__()
        self.project, self.title = project, title
        self._run: Any = None

    @property
    @override
    def name(self) -> str:
        return self.project

    @property
    @override
    def version(self) -> str:
        return self.title

    @property
    def run(self) -> Any:
        """The open run; opened when it is first needed."""
        if self._run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            space = os.environ.get("TRACKIO_SPACE_ID")
            self._run = trackio.init(self.project, self.title, space_id=space, resume="allow", embed=False)
        return self._run

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.run.config.update(vars(params) if isinstance(params, Namespace) else params)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.run.log({name: float(value) for name, value in metrics.items() if name != "epoch"}, step=step)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
