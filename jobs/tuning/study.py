"""Optuna's study of a search: proposes trials by ask and tell, and decides which are stopped early.

Its journal in the job's folder is what the next attempt reads. What the journal lacks, since it was lost, damaged or
never written (by an older release, or for a search that repeats another), is taken from the folders of the trials.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from random import Random
from typing import cast

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from jobs.directory.layout import JobFolder
from jobs.directory.records import TrialState
from jobs.errors import FolderError
from jobs.preferences.answers import read_answers
from jobs.preferences.pairs import first_trials, missing_answers
from jobs.preferences.scores import bradley_terry
from jobs.search.settings import Sampler, Scheduler
from jobs.search.space import Params, Scalar, active, domains_of, grid
from jobs.specs import TrainSpec, TuneSpec
from jobs.tuning.distributions import distributions, fitting, suggest
from jobs.tuning.journal import open_study, step_of
from jobs.tuning.samplers import PARENT, make_sampler, perturbed
from jobs.tuning.trials import Evaluated, evaluations, params_in

__all__ = ["SearchStudy", "Verdict"]

_MOST_WARM = 1000
"""Trials of an earlier search that are taken, the newest first."""


class _Attr(StrEnum):
    """Attributes of Optuna's trials that are ours; its dashboard shows them."""

    WARM = "warm_start"
    """Search and number of the trial of an earlier search that this one is."""
    REASON = "why"
    """Why it ended."""
    STATE = "state"
    """Ours, with which it ended."""


class Verdict(StrEnum):
    """What a study says to an evaluation."""

    GO_ON = "go on"
    STOP = "stop"


class SearchStudy:
    """Proposes a search's trials, by number from 0 on, and keeps what is known of each.

    Args:
        spec: the search.
        folder: the search's.
        check_fence: raises FencedError when a newer attempt exists; called before anything is written.
    """

    def __init__(self, spec: TuneSpec, folder: JobFolder, check_fence: Callable[[], None] = lambda: None) -> None:
        check_fence()
        self._spec = spec
        self._folder = folder
        self._check_fence = check_fence
        self._domains = domains_of(spec.space)
        self._total = spec.most_trials
        self._grid = list(grid(self._domains, spec.grid_points))[: self._total] if spec.sampler is Sampler.GRID else []
        self.study = open_study(spec, folder)
        self._handles: dict[int, Trial] = {}
        self._ids = [trial._trial_id for trial in self._own()]
        if not self._ids:
            self._warm_start()
        self._adopt_folders()

    def __len__(self) -> int:
        return len(self._ids)

    def ask(self) -> int | None:
        """Proposes the next trial; None where there is none now, or all have been proposed.

        Raises:
            FencedError: a newer attempt exists.
        """
        if self.ask_is_done():
            return None
        number = len(self._ids)
        if self._spec.is_by_eye and not self._grid:
            return self._ask_by_eye(number)
        return self._ask(self._grid[number] if self._grid else None)

    def missing_answers(self) -> int:
        """Answers of people that a search by eye waits for before it proposes a trial, or ends; 0 of any other."""
        if not self._spec.is_by_eye:
            return 0
        with_model = [number for number in range(len(self)) if self._has_model(number)]
        answered = read_answers(self._folder)
        return missing_answers(self._spec, len(self), len(with_model), len(answered))

    def ask_is_done(self) -> bool:
        """Whether no further trial will be proposed, once none runs."""
        return len(self._ids) >= self._total or (self._waits_for_copies() and not self._queued())

    def params(self, number: int) -> Params:
        """Parameters of a trial, by dotted path. Of one that was cut short while it was proposed the rest is drawn."""
        trial = self._frozen(number)
        if not trial.state.is_finished():
            return suggest(self._handle(number), self._domains)
        return cast("Params", dict(trial.params))

    def parent(self, number: int) -> int | None:
        """The trial whose model a trial goes on from, in population based training."""
        found = self._frozen(number).user_attrs.get(PARENT)
        return found if isinstance(found, int) else None

    def ended(self, number: int) -> tuple[TrialState, str | None] | None:
        """State and reason of a trial that has ended; None while it has not."""
        trial = self._frozen(number)
        if not trial.state.is_finished() and not (self._spec.is_by_eye and _Attr.STATE in trial.user_attrs):
            return None
        usual = {OptunaState.COMPLETE: TrialState.SUCCEEDED, OptunaState.PRUNED: TrialState.STOPPED}
        given = trial.user_attrs.get(_Attr.STATE)
        state = TrialState(given) if given in tuple(TrialState) else usual.get(trial.state, TrialState.FAILED)
        reason = trial.user_attrs.get(_Attr.REASON)
        return state, None if reason is None else str(reason)

    def curve(self, number: int) -> dict[int, float]:
        """The objective of a trial at each step that was reported."""
        return dict(self._frozen(number).intermediate_values)

    def report(self, number: int, evaluated: Mapping[float, Evaluated], *, decides: bool = True) -> Verdict:
        """Takes the evaluations of a trial; a verdict to stop is in the journal when this returns.

        Args:
            number: of the trial.
            evaluated: all metrics so far, by epoch; those that are known already are left out.
            decides: whether the trial may be stopped; one that has ended by itself is only compared with.

        Raises:
            FencedError: a newer attempt exists.
        """
        if self.ended(number) is not None:
            return Verdict.STOP
        if len(self._spec.goals) > 1:
            return Verdict.GO_ON
        self._check_fence()
        (metric,) = self._spec.goals
        handle = self._handle(number)
        for epoch, metrics in evaluated.items():
            known = self._frozen(number).intermediate_values
            if metric not in metrics or step_of(epoch) in known:
                continue
            handle.report(metrics[metric], step_of(epoch))
            reason = self._reason_to_stop(number, epoch, metrics[metric], decides=decides)
            if reason is not None and decides:
                self.tell(number, TrialState.STOPPED, metrics, reason)
                return Verdict.STOP
        return Verdict.GO_ON

    def tell(
        self, number: int, state: TrialState, metrics: Mapping[str, float], reason: str | None, *, bad: bool = False
    ) -> None:
        """Ends a trial; one that has ended stays as it is.

        In a search by eye a trial with a model stays open in the journal, which says that it has ended: its objective
        is not known before people have compared it. `score` adds that.

        Args:
            number: of the trial.
            state: with which it ended.
            metrics: its last ones.
            reason: why it ended, in words.
            bad: it failed because of its parameters: the sampler is to keep away from them.

        Raises:
            FencedError: a newer attempt exists.
        """
        if self.ended(number) is not None:
            return
        self._check_fence()
        handle = self._handle(number)
        values = [metrics[name] for name in self._spec.goals if name in metrics]
        for text, (metric, is_upper, bound) in self._spec.bounds.items():
            if metric in metrics:
                handle.set_constraint(text, metrics[metric] - bound if is_upper else bound - metrics[metric])
        if reason is not None:
            handle.set_user_attr(_Attr.REASON, reason[:1000])
        # In a search by eye this is what ends a trial.
        handle.set_user_attr(_Attr.STATE, state.value)
        if self._spec.is_by_eye and state.has_model:
            return
        if state is TrialState.SUCCEEDED and len(values) == len(self._spec.goals):
            self.study.tell(handle, values, OptunaState.COMPLETE)
        elif state is TrialState.STOPPED or bad:
            if bad:
                handle.set_constraint("ends with a model", 1e9)
            self.study.tell(handle, state=OptunaState.PRUNED)
        else:
            self.study.tell(handle, state=OptunaState.FAIL)
        del self._handles[number]

    def score(self, number: int, value: float | None) -> None:
        """Gives a trial of a search by eye its score, with which it ends in the journal as well.

        Args:
            number: of the trial.
            value: None where it was never compared.

        Raises:
            FencedError: a newer attempt exists.
        """
        if self._frozen(number).state.is_finished():
            return
        self._check_fence()
        if value is None:
            self.study.tell(self._handle(number), state=OptunaState.FAIL)
        else:
            self.study.tell(self._handle(number), value, OptunaState.COMPLETE)
        del self._handles[number]

    # Proposing

    def _has_model(self, number: int) -> bool:
        ended = self.ended(number)
        return ended is not None and ended[0].has_model

    def _ask_by_eye(self, number: int) -> int | None:
        """Proposes by the answers so far; None while too few are there."""
        if self.missing_answers() > 0:
            return None
        if self._spec.sampler is not Sampler.TPE or number < first_trials(self._spec):
            return self._ask(None)
        usable = [other for other in range(number) if self._has_model(other)]
        scores = bradley_terry(usable, read_answers(self._folder).values())
        # The scores of all trials change with each answer, which Optuna's journal can't say: a trial has one value for
        # good. So the sampler sees them in a study of its own.
        known = optuna.create_study(direction=StudyDirection.MAXIMIZE, sampler=make_sampler(self._spec, number))
        for other, score in scores.items():
            params = self.params(other)
            known.add_trial(
                optuna.trial.create_trial(
                    state=OptunaState.COMPLETE,
                    value=score,
                    params=dict(params),
                    distributions=distributions(params, self._domains),
                )
            )
        return self._ask(suggest(known.ask(), self._domains))

    def _ask(self, fixed: Params | None) -> int:
        self._check_fence()
        number = len(self._ids)
        # A sampler of its own for each trial: one that a restart makes anew would draw the first numbers again.
        self.study.sampler = make_sampler(self._spec, number)
        if fixed is not None and not self._queued():
            self.study.enqueue_trial(dict(fixed))
        handle = self.study.ask()
        self._ids.append(handle._trial_id)
        self._handles[number] = handle
        suggest(handle, self._domains)
        return number

    def _adopt_folders(self) -> None:
        """Takes up trials that have a folder and are not in the journal."""
        rows = self._folder.trials()
        while (number := len(self._ids)) < self._total:
            spec = _trial_spec(self._folder.trial(number))
            if spec is not None:
                params = params_in(spec, self._domains)
            elif number in rows and rows[number].is_over:
                params = rows[number].params
            else:
                return
            self._ask(fitting(params, self._domains))

    def _warm_start(self) -> None:
        """Adds the trials of an earlier search. A crash in between only makes them fewer."""
        if self._spec.warm_start is None or any(self.study.get_trials(deepcopy=False)):
            return
        earlier = JobFolder(self._folder.path.parent / self._spec.warm_start)
        self._check_fence()
        for trial in list(self._of_earlier(earlier))[-_MOST_WARM:]:
            self.study.add_trial(trial)

    def _of_earlier(self, earlier: JobFolder) -> Iterator[FrozenTrial]:
        for number, row in earlier.trials().items():
            spec = _trial_spec(earlier.trial(number))
            values = [row.metrics[name] for name in self._spec.goals if name in row.metrics]
            if spec is None or not row.state.has_model or len(values) < len(self._spec.goals):
                continue
            params = fitting(params_in(spec, self._domains), self._domains)
            if any(active(domain, params) and path not in params for path, domain in self._domains.items()):
                continue  # outside of this search's space
            is_whole = row.state is TrialState.SUCCEEDED
            if not is_whole and len(values) > 1:
                continue
            steps = {step_of(epoch): metrics for epoch, metrics in evaluations(earlier.trial(number)).items()}
            (name, *others) = self._spec.goals
            yield optuna.trial.create_trial(
                state=OptunaState.COMPLETE if is_whole else OptunaState.PRUNED,
                values=values,
                params=dict(params),
                distributions=distributions(params, self._domains),
                user_attrs={_Attr.WARM: f"{earlier.path.name}/{number}"},
                intermediate_values=(
                    {} if others else {step: metrics[name] for step, metrics in steps.items() if name in metrics}
                ),
            )

    # Stopping

    def _reason_to_stop(self, number: int, epoch: float, value: float, *, decides: bool) -> str | None:
        if epoch >= self._spec.base.schedule.epochs:
            return None  # it has come to its end
        name = self._spec.stops_by
        (metric,) = self._spec.goals
        if name is Scheduler.PBT:
            return self._replacement(number, epoch) if decides else None
        # Asked also where nothing is decided: the pruner writes down what others are compared with.
        if self._handle(number).should_prune():
            return f"stopped by {name.value} at epoch {epoch:.3g} with {metric} {value:.4g}"
        return None

    def _replacement(self, number: int, epoch: float) -> str | None:
        """Population based training: the worst quarter gives way to copies of the best quarter."""
        steps = sorted(self._frozen(number).intermediate_values)
        every = step_of(self._spec.grace_epochs)
        if len(self._ids) + len(self._queue()) >= self._total:
            return None
        before = steps[-2] if len(steps) > 1 else 0
        if steps[-1] // max(1, every) == before // max(1, every):
            return None
        higher = next(iter(self._spec.goals.values()))
        living = {
            other: trial.intermediate_values[trial.last_step]
            for other, trial in enumerate(self._own())
            if not trial.state.is_finished() and trial.last_step is not None
        }
        ranked = sorted(living, key=lambda other: living[other], reverse=higher)
        quarter = max(1, len(ranked) // 4)
        if len(ranked) < 2 or number not in ranked[-quarter:]:
            return None
        random = Random(f"{self._spec.seed} {number} {steps[-1]}")
        parent = random.choice(ranked[:quarter])
        params = perturbed(cast("dict[str, Scalar]", self._frozen(parent).params), self._domains, random)
        self.study.enqueue_trial(dict(params), user_attrs={PARENT: parent})
        return f"replaced at epoch {epoch:.3g} by a copy of trial {parent} with other values"

    def _waits_for_copies(self) -> bool:
        return self._spec.stops_by is Scheduler.PBT and len(self._ids) >= self._spec.population

    # Optuna's trials

    def _own(self) -> list[FrozenTrial]:
        """The search's own trials in order; a trial's place is its number."""
        trials = self.study.get_trials(deepcopy=False)
        return [one for one in trials if one.state is not OptunaState.WAITING and _Attr.WARM not in one.user_attrs]

    def _queue(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))

    def _queued(self) -> bool:
        return bool(self._queue())

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study._storage.get_trial(self._ids[number])

    def _handle(self, number: int) -> Trial:
        """Optuna has no public way to a trial that another process had begun; this is what its own does inside."""
        if number not in self._handles:
            self._handles[number] = Trial(self.study, self._ids[number])
        return self._handles[number]


def _trial_spec(folder: JobFolder) -> TrainSpec | None:
    """The spec of a trial; None where it has none that can be read."""
    try:
        spec = folder.read_spec()
    except FolderError:
        return None
    return spec if isinstance(spec, TrainSpec) else None
