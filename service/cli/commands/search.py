"""Verbs of searches: `trials` lists them, `compare` judges them by eye, `search` says what was found and why."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    HomeOption,
    JobArgument,
    JsonOption,
    OwnerOption,
    UrlOption,
    connect,
    resolve_job,
    user_name,
)
from service.cli.output import print_model, print_table

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas.trials import PairPage, SearchView, TrialPage, TrialView

__all__ = ["compare", "search", "trials"]

_WATCH_SECONDS = 2.0
_PAIRS_SHOWN = 5


def trials(
    job: JobArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Print the table again when it changes, to the end.")] = False,
    spec: Annotated[int | None, typer.Option("--spec", min=0, help="Print the spec of this trial instead.")] = None,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a search's trials. `--spec N` prints trial N as a spec that `submit` takes."""
    with connect(home, url) as client:
        job_id = resolve_job(client, job)
        if spec is not None:
            _print_spec(client, job_id, spec)
        elif watch:
            _watch(client, job_id, as_json=as_json)
        else:
            _print_page(client.trials(job_id), as_json=as_json)


def _watch(client: "Client", job_id: str, *, as_json: bool) -> None:
    from service.cli.progress import detachable

    shown: TrialPage | None = None
    with detachable(job_id):
        while True:
            # In this order: what was written before the end is still shown.
            has_ended = client.get(job_id).state.is_terminal
            page = client.trials(job_id)
            if page != shown:
                _print_page(page, as_json=as_json)
                shown = page
            if has_ended:
                return
            time.sleep(_WATCH_SECONDS)


def _print_page(page: "TrialPage", *, as_json: bool) -> None:
    if as_json:
        print_model(page)
        return
    params = sorted({name for trial in page.items for name in trial.params})
    goals = list(page.search.objectives)
    header = ("trial", "state", "epoch", *goals, *(name.rpartition(".")[2] for name in params), "why it ended")
    print_table(header, [_row(trial, page.search, goals, params) for trial in page.items])
    typer.echo(", ".join(f"{count} {state}" for state, count in page.search.trials.items()))


def _row(trial: "TrialView", search: "SearchView", goals: list[str], params: list[str]) -> tuple[str, ...]:
    mark = "*" if trial.number in search.front else ""
    scores = [f"{trial.metrics[name]:.4g}" if name in trial.metrics else "-" for name in goals]
    values = [_shown(trial.params[name]) if name in trial.params else "-" for name in params]
    return f"{trial.number}{mark}", trial.state, f"{trial.epoch:.3g}", *scores, *values, trial.reason or ""


def _shown(value: bool | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_spec(client: "Client", job_id: str, number: int) -> None:
    import yaml

    from jobs.specs import TuneSpec
    from jobs.tuning.trials import trial_spec
    from seqae.errors import Error

    spec = client.get(job_id).spec
    if not isinstance(spec, TuneSpec):
        raise Error(f"job {job_id} is no search")
    train = trial_spec(spec, dict(client.trial(job_id, number).params))
    fields = train.model_dump(mode="json") | {"name": f"{spec.name[:80]} trial {number}"}
    if train.register_as is None:
        fields["register_as"] = spec.register_as
    typer.echo(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), nl=False)


def compare(
    job: JobArgument,
    pair: Annotated[
        int | None, typer.Option("--pair", min=0, help="Answer this pair, with --better or --equal.")
    ] = None,
    better: Annotated[int | None, typer.Option("--better", min=0, help="The trial that is better.")] = None,
    equal: Annotated[bool, typer.Option("--equal", help="Neither trial is better.")] = False,
    owner: OwnerOption = "",
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the pairs of trials that a search by eye wants compared, and where; or answer one of them."""
    from seqae.errors import Error

    is_answered = equal or better is not None
    if (pair is not None) != is_answered or (equal and better is not None):
        raise Error("an answer has --pair, and either --better or --equal")
    with connect(home, url) as client:
        job_id = resolve_job(client, job)
        if pair is not None:
            client.answer_pair(job_id, pair, better, owner=user_name(owner))
        page = client.pairs(job_id, _PAIRS_SHOWN)
        address = f"{client.url}/compare#{job_id}"
        _print_pairs(page, client.url, address, as_json=as_json)


def _print_pairs(page: "PairPage", url: str, address: str, *, as_json: bool) -> None:
    if as_json:
        print_model(page)
        return
    rows = []
    for pair in page.items:
        pictures = [f"{url}{trial.picture}" if trial.picture else "no film strip" for trial in pair.trials]
        rows.append((str(pair.number), *(str(trial.number) for trial in pair.trials), *pictures))
    if rows:
        print_table(("pair", "one", "other", "film strip of one", "of the other"), rows)
        typer.echo(f"side by side, with two keys: {address}")
    waits = f"; the search waits for {page.missing} more" if page.missing else ""
    typer.echo(f"{page.answered} of {page.comparisons} compared{waits}")


def search(
    job: JobArgument,
    why: Annotated[bool, typer.Option("--why", help="Say what the winner has that the others have not.")] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a search has found: its best trial or its front, and whether that was promoted."""
    with connect(home, url) as client:
        job_id = resolve_job(client, job)
        page, found = client.trials(job_id), client.get(job_id)
        best = page.search.best_trial
        winner = None if best is None else client.trial(job_id, best)
    if as_json:
        print_model(page.search)
        return
    typer.echo(", ".join(f"{count} {state}" for state, count in page.search.trials.items()))
    if winner is None:
        typer.echo("no trial has ended with a model yet")
        return
    if len(page.search.front) > 1:
        typer.echo(f"front: trials {', '.join(map(str, page.search.front))}; the knee is trial {winner.number}")
    rows = [(name, _shown(value)) for name, value in (winner.params | _scores(winner, page.search)).items()]
    print_table((f"trial {winner.number}", "value"), rows)
    if why:
        for line in page.search.why or ("It is said when the search has ended.",):
            typer.echo(line)
    if page.search.retrained:
        typer.echo("Its settings were trained once more; that is the result.")
    if found.promotion is not None:
        typer.echo(f"{'promoted' if found.promotion.promoted else 'not promoted'}: {found.promotion.reason}")


def _scores(trial: "TrialView", search: "SearchView") -> dict[str, bool | int | float | str]:
    return {name: trial.metrics[name] for name in search.objectives if name in trial.metrics}
