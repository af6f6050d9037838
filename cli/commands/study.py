"""The command that reproduces a table with its figures from one file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.console import Json, Url, err, open_jobs, out, run
from cli.settings import LocalSettings
from shared.settings import load_settings


def study(
    file: Annotated[Path, typer.Argument(help="The study: YAML, as in examples/studies.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Its folder; default: studies/NAME under DRIFT_RUNS_ROOT.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Only write table and figures of what is recorded.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and estimate; run nothing.")] = False,
    parity: Annotated[
        str | None, typer.Option(help="`authors`: as the authors' scripts do; `authors:grading,clipping`: some of it.")
    ] = None,
    rollouts_of: Annotated[
        Path | None, typer.Option(help="Train and evaluate anew on all rollouts that this folder of the study has.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Run a study, or what is left of it, and write its table and figures.

    Example: drift study examples/studies/miniature.yaml
    """
    from cli.study.estimate import estimate, print_estimate
    from cli.study.ledger import Ledger
    from cli.study.plan import list_rollouts, list_tasks, plan_runs
    from cli.study.report import write_report
    from cli.study.results import collect
    from cli.study.runner import carry_out
    from cli.study.study_file import load_study

    async def run_jobs() -> None:
        async with open_jobs(url) as jobs:
            await carry_out(whole, list_tasks(plan_runs(whole)), ledger, jobs, err if as_json else out)

    settings = load_settings(LocalSettings)
    whole = load_study(file, parity)
    if dry_run:
        expected = estimate(whole, settings.problems_root)
        print(expected.model_dump_json()) if as_json else print_estimate(expected, out)
        raise typer.Exit(1 if expected.faults else 0)
    folder = output or settings.runs_root / "studies" / whole.name
    ledger = Ledger(folder, whole.name)
    if rollouts_of:
        ledger.adopt(Ledger(rollouts_of, whole.name), list_rollouts(plan_runs(whole)))
    if not report:
        run(run_jobs())
    results = collect(whole, ledger)
    path = write_report(folder, results, f"drift study {file}" + (f" --parity {parity}" if parity else ""))
    print(json.dumps({"report": str(path)})) if as_json else out.print(f"Report: {path}", highlight=False, markup=False)
