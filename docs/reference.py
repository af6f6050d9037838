"""Reference pages, made from the code whenever the site is built, so that they cannot differ from it."""

import json
from collections.abc import Iterator
from typing import Any

import typer
from fastapi import FastAPI
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_settings import BaseSettings
from typer.cli import get_docs_for_click

from cli.main import app as command_line
from services.rollout.app import create_app as create_rollout
from services.rollout.settings import RolloutSettings
from services.trainer.settings import TrainerSettings
from services.verifier.app import create_app as create_verifier
from services.verifier.settings import VerifierSettings


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs asks for the list of pages."""
    pages = {
        "rollout-api": describe_api(create_rollout()),
        "verifier-api": describe_api(create_verifier()),
        "cli": describe_commands(),
        "settings": describe_settings(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def describe_api(app: FastAPI) -> str:
    """Every route with its parameters and examples."""
    lines = [f"# {app.title}", ""]
    for path, methods in app.openapi()["paths"].items():
        for method, route in methods.items():
            lines += [f"## `{method.upper()} {path}`", "", route.get("description", route.get("summary", "")), ""]
            lines += _describe_parameters(route.get("parameters", []))
            for example in _examples(route):
                lines += ["```json", json.dumps(example, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def describe_commands() -> str:
    """The help of every command."""
    command = typer.main.get_command(command_line)
    context = typer.Context(command, info_name="drift")
    return get_docs_for_click(obj=command, ctx=context, name="drift", title="Command line")


def describe_settings() -> str:
    """Every setting of every service."""
    lines = ["# Settings", "", "Read from the environment or from `.env`.", ""]
    for settings in (RolloutSettings, VerifierSettings, TrainerSettings):
        lines += [
            f"## {settings.__name__.removesuffix('Settings')}",
            "",
            "| variable | default | meaning |",
            "|---|---|---|",
        ]
        lines += [*_describe_fields(settings), ""]
    return "\n".join(lines)


def _describe_fields(settings: type[BaseSettings]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        default = "" if field.is_required() or field.default is None else str(field.default)
        meaning = (field.description or "").replace("|", "\\|").replace("\n", " ")
        yield f"| `DRIFT_{name.upper()}` | `{default or ' '}` | {meaning} |"


def _describe_parameters(parameters: list[dict[str, Any]]) -> list[str]:
    if not parameters:
        return []
    rows = [
        f"| `{each['name']}` | {each['in']} | {each.get('description', '')} |".replace("\n", " ") for each in parameters
    ]
    return ["| parameter | in | meaning |", "|---|---|---|", *rows, ""]


def _examples(route: dict[str, Any]) -> Iterator[object]:
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    for example in content.get("examples", {}).values():
        yield example["value"]
