"""Prompt templates are data: Jinja2 files in `templates/`, or a job's own text.

A template has a block `user` and may have a block `system`; a text without blocks is the user's message.
It sees `problem`, `choices`, `letters` and `max_turns`. A job's text is rendered in Jinja2's sandbox.
"""

import string
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import SpecError
from shared.trajectory import Problem

Message = dict[str, str]
"""`{"role": ..., "content": ...}` as the OpenAI protocol has it."""

_FOLDER = Path(__file__).with_name("templates")
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))
_AUTO = {"choice": "choice_letter", "math": "paper_math", "string": "paper_math"}


@dataclass(frozen=True)
class Prompts:
    """The opening messages of episodes under one job's template."""

    templates: dict[str, Template]
    max_turns: int

    def open(self, problem: Problem) -> list[Message]:
        """s_1: the system message where the template has one, and the problem."""
        template = self.templates[problem.kind]
        choices = problem.choices or []
        context = template.new_context(
            {
                "problem": problem.problem,
                "choices": choices,
                "letters": string.ascii_uppercase[: len(choices)],
                "max_turns": self.max_turns,
            }
        )
        try:
            if "user" not in template.blocks:
                return [{"role": "user", "content": "".join(template.root_render_func(context)).strip()}]
            return [
                {"role": role, "content": "".join(template.blocks[role](context)).strip()}
                for role in ("system", "user")
                if role in template.blocks
            ]
        except (TemplateError, ValueError, TypeError, ArithmeticError, IndexError) as error:
            raise SpecError(
                f"protocol.template fails on problem {problem.id}: {error}.",
                remedy="A template may use problem, choices, letters and max_turns.",
            ) from error


def load_prompts(template: str, max_turns: int) -> Prompts:
    """`auto`, a built-in's name, or Jinja2 text; raises `SpecError` for anything else."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True
    )
    if template == "auto":
        names = _AUTO
    elif template in BUILT_IN:
        names = dict.fromkeys(_AUTO, template)
    elif "{{" in template or "{%" in template:
        try:
            own = environment.from_string(template)
        except TemplateError as error:
            raise SpecError(f"protocol.template is not valid Jinja2: {error}.", remedy="Mend the template.") from error
        return Prompts(dict.fromkeys(_AUTO, own), max_turns)
    else:
        raise SpecError(
            f"protocol.template {template[:80]!r} is neither a built-in template nor Jinja2 text.",
            remedy=f"Use auto, {', '.join(BUILT_IN)}, or a text with {{{{ problem }}}}.",
        )
    built_in = {name: environment.from_string((_FOLDER / f"{name}.jinja").read_text()) for name in set(names.values())}
    return Prompts({kind: built_in[name] for kind, name in names.items()}, max_turns)
