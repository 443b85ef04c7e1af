"""The search: which arm is trained next, how long and with which seed. Optuna decides; its storage is the memory."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import LostTrainingError, UserError
from r2mae_core.lab.locks import BusyError
from r2mae_core.ratio.randomness import uniform_draw
from r2mae_core.sweep.arms import Arm
from r2mae_core.sweep.curve import Point

SHARES = (0.2, 1.0)
"""Lengths of the trainings of one trial: what falls behind after one gets no longer one."""
SHORTEST = round(1 / SHARES[0])
"""Steps or epochs that a training of full length must have, so that the short ones have one."""
RUNGS = (1, 2)
"""The same, as Optuna counts the resource of successive halving."""
ARMS = 2**62
"""The stream of the draws of arms."""
ATTEMPTS = 5
"""To open a database."""
PATIENCE = 20.0
"""Seconds to wait for another process to say which arm it has taken."""

Measured = Callable[[Arm, int, float], float]
"""(arm, seed, share) → score, higher is better."""


@dataclass
class Budget:
    """What may be spent."""

    runs: float | None = None
    """Trainings of full length, of all processes together; a shorter one counts as its share."""
    minutes: float | None = None
    """Of this process."""
    start: float = field(default_factory=time.monotonic)

    def allows(self, share: float, spent: float, seconds_per_run: float | None) -> bool:
        """Return whether a training of this share fits in.

        Args:
            share: of the full length.
            spent: runs spent so far by all.
            seconds_per_run: what one of full length has taken so far; None: not known.
        """
        if self.runs is not None and spent + share > self.runs + 1e-9:
            return False
        if self.minutes is None:
            return True
        needed = 0.0 if seconds_per_run is None else share * seconds_per_run
        return time.monotonic() - self.start + needed <= 60 * self.minutes


def open_study(storage: str | Path, name: str, seed: int, settings: str, order: Sequence[str]) -> Any:
    """Return the Optuna study, new or going on.

    Args:
        storage: a journal file, or a database's URL.
        name: of the study within it.
        seed: of the sampler.
        settings: what the trials are made from, in words; trials of something else are refused.
        order: names of the arms, as they are tried first.

    Raises:
        UserError: the storage cannot be opened, or holds a sweep of other settings.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options: dict[str, Any] = {
        "study_name": name,
        "sampler": _sampler(order, seed),
        "pruner": optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=2),
        "direction": "maximize",
        "load_if_exists": True,
    }
    study: Any = None
    for attempt in range(ATTEMPTS):
        try:
            study = optuna.create_study(storage=_storage(storage), **options)
            break
        except Exception as error:  # a database's own exceptions are as many as there are databases
            # Of two processes that make a database's tables at the same moment, one fails.
            if attempt + 1 == ATTEMPTS or "://" not in str(storage):
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"--storage {storage} cannot be used: {reason}") from None
            time.sleep(0.5)
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
    elif known != settings:
        raise UserError(
            f"{storage} holds a sweep of other data or options; name another --storage (or --out), or give the same"
        )
    return study


def in_memory(order: Sequence[str], seed: int) -> Any:
    """Return a study that is kept nowhere: for simulations."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=2)
    return optuna.create_study(sampler=_sampler(order, seed), pruner=pruner, direction="maximize")


def _storage(storage: str | Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in str(storage):
        return str(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(storage)))


def _sampler(order: Sequence[str], seed: int) -> Any:
    from optuna.samplers import RandomSampler

    class EachOnceThenRandom(RandomSampler):
        """Every arm once, in the given order, then at random: a function of the trial's number alone.

        So processes that share a storage do not draw the same, and a sweep that goes on does not begin anew. Successive
        halving does the rest: which arms get long trainings, and again and again.
        """

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            number = trial.number
            return order[number if number < len(order) else int(uniform_draw(seed, number, ARMS) * len(order))]

    return EachOnceThenRandom(seed=seed)


@dataclass(frozen=True)
class Worker:
    """This process: where it trains, and which trials are its own."""

    measure: Measured
    """Trains and evaluates. It is called again for the same (arm, seed, share) after an interruption. A
    `LostTrainingError` ends the trial, any other error the search."""
    budget: Budget
    home: str = ""
    """Where the trainings of this process lie: a trial of the same place that nobody works on is gone on with."""
    claimed: Callable[[Arm, int], Any] = lambda arm, seed: contextlib.nullcontext(True)
    """Context manager that keeps other processes of the same place from a trial, and gives whether that succeeded."""
    say: Callable[[str], None] = print


def search(study: Any, arms: Sequence[Arm], worker: Worker, seed: int = 0) -> None:
    """Spend the budget: trials until it is used up, each an arm with a seed, over lengths until it falls behind.

    Trials that an earlier process of the same place left unfinished come first.

    Args:
        study: of `open_study`.
        arms: what is compared.
        worker: this process.
        seed: of the first training of each arm; the following ones have the next.
    """
    by_name, pace = {arm.name: arm for arm in arms}, Pace()
    for trial in _left_unfinished(study, worker.home):
        arm, number = by_name[trial.params["arm"]], trial.user_attrs["seed"]
        with worker.claimed(arm, number) as ours:
            if ours and not _is_finished(study, trial):  # whoever had it may just have ended it
                _climb(study, trial, arm, number, worker, pace, len(arms))
    while worker.budget.allows(SHARES[0], spent(study), pace.seconds_per_run):
        trial = study.ask()
        trial.set_user_attr("home", worker.home)
        name = trial.suggest_categorical("arm", list(by_name))
        number = seed + _repeat(study, trial.number, name)
        with worker.claimed(by_name[name], number) as ours:
            if not ours:  # another sweep works in this folder, with another storage
                raise BusyError(f"{name}, seed {number} is being trained by another sweep in the same folder")
            trial.set_user_attr("seed", number)
            _climb(study, trial, by_name[name], number, worker, pace, len(arms))


class Pace:
    """How long a training of full length takes this process."""

    def __init__(self) -> None:
        self.seconds, self.runs = 0.0, 0.0

    @property
    def seconds_per_run(self) -> float | None:
        """Seconds; None: nothing has been trained."""
        return self.seconds / self.runs if self.runs else None


def _climb(study: Any, trial: Any, arm: Arm, seed: int, worker: Worker, pace: Pace, n_first: int) -> None:
    """Train an arm for longer and longer until it falls behind, and tell the study."""
    from optuna.trial import TrialState

    for share, rung in zip(SHARES, RUNGS, strict=True):
        if f"score:{share:g}" in trial.user_attrs:
            continue  # before an interruption
        if f"cost:{share:g}" not in trial.user_attrs:
            if not worker.budget.allows(share, spent(study), pace.seconds_per_run):
                break
            trial.set_user_attr(f"cost:{share:g}", share)  # before it is spent, so that others know
        start = time.monotonic()
        try:
            score = worker.measure(arm, seed, share)
        except LostTrainingError as error:
            trial.set_user_attr("lost", str(error))
            worker.say(f"{arm.name}, seed {seed}, {share:.0%} of the length: lost ({error})")
            break
        seconds = time.monotonic() - start
        pace.seconds, pace.runs = pace.seconds + seconds, pace.runs + share
        trial.set_user_attr(f"seconds:{share:g}", seconds)
        trial.set_user_attr(f"score:{share:g}", score)
        trial.report(score, rung)
        worker.say(f"{arm.name}, seed {seed}, {share:.0%} of the length: {score:.4f} ({spent(study):.1f} runs spent)")
        if share == SHARES[-1]:
            study.tell(trial, score)
            return
        # The first trial of each arm is short: nothing can fall behind before there is something to compare with.
        if trial.number < n_first or trial.should_prune():
            break
    study.tell(trial, state=TrialState.PRUNED)


def _is_finished(study: Any, trial: Any) -> bool:
    return next(t for t in study.get_trials(deepcopy=False) if t.number == trial.number).state.is_finished()


def _left_unfinished(study: Any, home: str) -> list[Any]:
    """Return the trials that a process of this place began and did not end."""
    from optuna.trial import Trial, TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    own = (t for t in running if home and t.user_attrs.get("home") == home and "seed" in t.user_attrs)
    return [Trial(study, frozen._trial_id) for frozen in own]


def _repeat(study: Any, number: int, name: str) -> int:
    """Return how many earlier trials have this arm; waits for those that have not said yet."""
    end = time.monotonic() + PATIENCE
    while True:
        earlier = [t for t in study.get_trials(deepcopy=False) if t.number < number]
        # One that is silent for longer was killed before it could say.
        since = datetime.now() - timedelta(seconds=PATIENCE)
        silent = [t for t in earlier if "arm" not in t.params and t.datetime_start and t.datetime_start > since]
        silent = [t for t in silent if not t.state.is_finished()]
        if not silent or time.monotonic() > end:
            return sum(t.params.get("arm") == name for t in earlier)
        time.sleep(0.05)


def spent(study: Any, what: str = "cost") -> float:
    """Return the trainings of full length that all processes have spent, or their "seconds"."""
    trials = study.get_trials(deepcopy=False)
    return sum(v for t in trials for key, v in t.user_attrs.items() if key.startswith(f"{what}:"))


def lost(study: Any) -> dict[str, str]:
    """Return the arms of which a training was lost, and why."""
    trials = study.get_trials(deepcopy=False)
    return {trial.params["arm"]: trial.user_attrs["lost"] for trial in trials if "lost" in trial.user_attrs}


def points(study: Any, arms: Sequence[Arm]) -> list[tuple[Point, int]]:
    """Return every measurement with its seed, in the order of the trials."""
    by_name = {arm.name: arm for arm in arms}
    return [
        (Point(by_name[trial.params["arm"]], share, trial.user_attrs[f"score:{share:g}"]), trial.user_attrs["seed"])
        for trial in study.get_trials(deepcopy=False)
        for share in SHARES
        if f"score:{share:g}" in trial.user_attrs
    ]
