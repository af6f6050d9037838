"""`drift verify`: grade one response here, or by a running verifier."""

import asyncio
import sys
from typing import Annotated

import typer

from cli.console import Json
from services.verifier.grading.tiers import Decision, decide, extract
from services.verifier.metrics import Metrics
from services.verifier.pool import WorkerPool
from services.verifier.service import Verifier
from services.verifier.settings import VerifierSettings
from shared.grading import Verdict, VerifyItem, VerifyResult
from shared.settings import load_settings
from shared.verifier_client import VerifierClient


def verify(
    response: Annotated[str, typer.Argument(help="The response to grade; `-` reads it from standard input.")],
    answer: Annotated[list[str], typer.Option("--answer", "-a", help="The gold answer; repeat it for alternatives.")],
    kind: Annotated[str, typer.Option(help="math, choice or string.")] = "math",
    letters: Annotated[str | None, typer.Option(help="The option letters of a choice, e.g. ABCD.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="An option's text; repeat it in order.")] = None,
    url: Annotated[
        str | None, typer.Option(help="A running verifier; absent grades on this machine, without a server.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade RESPONSE against the gold answer; exit code 0: correct, 1: not correct, 3: could not be graded.

    Example: drift verify 'It is \\boxed{1/2}' --answer 0.5
    """
    item = VerifyItem.model_validate(
        {
            "id": "cli",
            "kind": kind,
            "response": sys.stdin.read() if response == "-" else response,
            "answer": answer,
            "letters": letters,
            "choices": choice,
        }
    )
    settings = load_settings(VerifierSettings)
    result = asyncio.run(_grade_remotely(item, url, settings) if url else _grade_locally(item, settings))
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        found = "no answer" if result.extracted is None else f"answer {result.extracted!r}"
        typer.echo(
            f"{result.verdict}: {found}"
            + (f", by the {result.method} tier" if result.method else "")
            + (f" ({result.detail})" if result.detail else "")
        )
    raise typer.Exit(0 if result.verdict == Verdict.CORRECT else 1 if result.verdict.decides else 3)


async def _grade_remotely(item: VerifyItem, url: str, settings: VerifierSettings) -> VerifyResult:
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    async with VerifierClient(url, key) as client:
        return (await client.verify([item]))[0]


async def _grade_locally(item: VerifyItem, settings: VerifierSettings) -> VerifyResult:
    """The server's tiers in this process; symbolic workers are started only where they are needed."""
    extracted = extract(item)
    decision = decide(item, extracted)
    if isinstance(decision, Decision):
        return VerifyResult(
            id=item.id,
            verdict=decision.verdict,
            extracted=extracted.answer,
            normal_form=extracted.normal_form,
            method=decision.method,
            ms=0.0,
            detail=decision.detail,
        )
    metrics = Metrics()
    async with WorkerPool(settings.model_copy(update={"verifier_workers": 1}), metrics) as pool:
        return (await Verifier(settings, pool, metrics).verify([item]))[0]
