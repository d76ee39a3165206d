"""Wire models of a search's trials."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.base import Schema

__all__ = ["Comparison", "PairPage", "PairTrialView", "PairView", "SearchView", "TrialPage", "TrialView"]


class TrialView(Schema):
    """One trial of a search."""

    number: int
    """Its number, counted from 0."""
    state: str
    """One of pending, running, stopped (early), succeeded (trained to the end) and failed."""
    params: dict[str, bool | int | float | str]
    """Its values of what the search varies, by the dotted path of the field."""
    metrics: dict[str, float]
    """Of its newest evaluation on `val`; of several seeds their means."""
    standard_errors: dict[str, float]
    """Of the means over several seeds."""
    epoch: float
    """Passes over the training images at that evaluation."""
    reason: str | None
    """Why it was stopped or failed, in words; None while it was neither."""
    parent: int | None
    """In population based training the trial whose model it went on from."""
    meets_constraints: bool
    """Whether it meets all constraints of the search."""
    updated_at: datetime | None
    """When this was written (UTC); None where an older release wrote it."""
    frames: tuple[int, ...] = ()
    """Iterations with a film strip; only where one trial is asked for."""


class SearchView(Schema):
    """What a search has found so far, or in the end."""

    best_trial: int | None
    """Number of the trial that wins, by the objective and the constraints; None before the first has ended."""
    front: tuple[int, ...]
    """Trials that none beats in all objectives; with one objective the best alone."""
    objectives: dict[str, str]
    """Metrics that the search improves, each with `minimize` or `maximize`."""
    trials: dict[str, int]
    """Trials counted by state; those that are not proposed yet are pending."""
    importances: dict[str, float]
    """Share of the differences between trials that each parameter explains; empty until the search has ended."""
    why: tuple[str, ...]
    """What the best trial has that the others have not, in sentences; empty until the search has ended."""
    retrained: bool
    """Whether the result was trained once more with the best trial's settings."""


class TrialPage(Schema):
    """Trials of a search, by number."""

    items: tuple[TrialView, ...]
    """At most `limit` of them."""
    next_after: int | None
    """Give it back as `after` for the next page; None at the end."""
    search: SearchView
    """The search as a whole."""


class PairTrialView(Schema):
    """One of the two trials of a pair. Its metrics are left out: people are to judge by what they see."""

    number: int
    """Its number."""
    params: dict[str, bool | int | float | str]
    """Its values of what the search varies, by the dotted path of the field."""
    picture: str | None
    """Path of its newest film strip here, of the same scenes as the other's; None where it has none."""


class PairView(Schema):
    """Two trials that people may compare."""

    number: int
    """Of the pair."""
    trials: tuple[PairTrialView, PairTrialView]
    """The two, the lower number first."""


class PairPage(Schema):
    """Pairs of trials that have no answer yet, those first that say most, and how far the comparisons are."""

    items: tuple[PairView, ...]
    """At most `limit` of them; none where no further answer is asked for."""
    answered: int
    """Pairs that people have compared."""
    comparisons: int
    """Pairs that they compare in all before the search ends, at most."""
    missing: int
    """Answers that the search needs before it proposes its next trial, or ends; 0 while it needs none."""


class Comparison(BaseModel):
    """What somebody says of a pair of trials."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    better: Annotated[int, Field(ge=0, le=100_000, strict=True)] | Literal["equal"]
    """Number of the better trial, or `equal`."""
