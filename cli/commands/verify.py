"""`drift verify`."""

import asyncio
import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from cli.console import Json
from shared.errors import SpecError
from shared.grading import Verdict, VerifyItem
from shared.schema import describe_faults


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
    from cli.grading import grade

    asked = {"kind": kind, "answer": answer, "letters": letters, "choices": choice}
    try:
        item = VerifyItem.model_validate(
            {"id": "cli", "response": sys.stdin.read() if response == "-" else response, **asked}
        )
    except ValidationError as error:
        raise SpecError(f"{describe_faults(error.errors())}.", remedy="See `drift verify --help`.") from None
    result = asyncio.run(grade(item, url))
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
