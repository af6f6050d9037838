"""Before the first job: a file to begin with, and whether everything is there."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.console import Json, Url, out, run
from cli.job_file import write_job_file
from cli.settings import LocalSettings
from shared.settings import load_settings


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("job.yaml"), as_json: Json = False
) -> None:
    """Write a commented job file to begin with.

    Example: drift init my-job.yaml
    """
    write_job_file(path)
    if as_json:
        print(json.dumps({"path": str(path)}))
        return
    root = load_settings(LocalSettings).problems_root
    out.print(
        f"{path} is written. Put your questions into {root}, name the file in {path}, then `drift submit {path}`.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def doctor(as_json: Json = False, url: Url = None) -> None:
    """Look at versions, disk, problems, Redis, engines, verifier, trainer and the service; 0 when a job could run.

    Example: drift doctor
    """
    from cli.doctor import examine

    local = load_settings(LocalSettings)
    findings = run(examine(local.to_rollout_settings(), url or local.rollout_url))
    if as_json:
        print(json.dumps([finding.model_dump() for finding in findings]))
    else:
        table = Table("", "what", "seen", "what to do")
        for finding in findings:
            mark = {"good": "[green]✓", "doubtful": "[yellow]!", "bad": "[red]✗"}[finding.state]
            table.add_row(mark, finding.what, escape(finding.said), escape(finding.remedy or ""))
        out.print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)
