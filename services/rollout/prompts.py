"""Prompt templates are data: Jinja2 files in `templates/`, those of the user's folder, or a job's own text.

A template has a block `user` and may have a block `system`; a text without blocks is the user's message.
It sees `problem`, `choices`, `letters` and `max_turns`. A job's text is rendered in Jinja2's sandbox and may use only
what cannot take long or grow: output, conditions, tests and loops that are not nested.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import SpecError
from shared.grading import Kind
from shared.job import MAX_TEMPLATE, DatasetSpec, JobSpec
from shared.trajectory import Problem

Message = dict[str, str]
"""`{"role": ..., "content": ...}` as the OpenAI protocol has it."""

Roles = tuple[str, ...]
"""Of the messages that open an episode: `system` and `user`, or `user` alone."""

_FOLDER = Path(__file__).with_name("templates")
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))
_FAMILIES = {
    "auto": {"choice": "choice_letter", "math": "paper_math", "string": "paper_math"},
    "paper": {"choice": "paper_choice", "math": "paper_math", "string": "paper_math"},
    "paper_evaluation": {
        "choice": "paper_choice_evaluation",
        "math": "paper_math_evaluation",
        "string": "paper_math_evaluation",
    },
}
"""Name -> the built-in template of each kind of problem; the paper's are those of its appendix D.7."""
_KINDS = tuple(_FAMILIES["auto"])
_ALLOWED: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Block, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.CondExpr),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Keyword),
)
_NAME = re.compile(r"[\w-]{1,64}")
_FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 without what can hang or fill the service: no calls, no arithmetic, no methods of strings."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True)
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in _FILTERS} | {"join": _join}

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return isinstance(obj, LoopContext) and super().is_safe_attribute(obj, attr, value)

    def compile_checked(self, text: str) -> Template:
        """Raises `TemplateError` where the text uses more than it may."""
        tree = self.parse(text)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, _ALLOWED):
                raise TemplateSyntaxError(f"{type(node).__name__} may not be used here", node.lineno)
            if isinstance(node, nodes.For) and (node.recursive or any(node.find_all(nodes.For))):
                raise TemplateSyntaxError("loops may not be nested", node.lineno)
        return self.from_string(text)


def _join(values: Sequence[str], separator: str = "") -> str:
    if isinstance(values, str):
        raise TypeError("join takes the choices, not a text")
    return separator.join(values)


@dataclass(frozen=True)
class Prompts:
    """The opening messages of episodes under one job's template."""

    templates: dict[str, Template]
    max_turns: int

    def roles(self, kind: Kind) -> Roles:
        """Of the messages that open an episode on a problem of this kind."""
        blocks = self.templates[kind].blocks
        return ("system", "user") if "user" in blocks and "system" in blocks else ("user",)

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
                for role in self.roles(problem.kind)
            ]
        except (TemplateError, ValueError, TypeError, ArithmeticError, IndexError) as error:
            raise SpecError(
                f"protocol.template fails on problem {problem.id}: {error}.",
                remedy="A template may use problem, choices, letters and max_turns.",
            ) from error


def find_template(template: str, folder: Path | None) -> str:
    """The text of `folder`/NAME.jinja where a job names such a template; else what the job gives, as it is.

    A built-in's name is the built-in's. Raises `SpecError` for a file that is larger than a job's text may be.
    """
    if folder is None or template in _FAMILIES or template in BUILT_IN or not _NAME.fullmatch(template):
        return template
    file = folder / f"{template}.jinja"
    if not file.is_file():
        raise SpecError(
            f"protocol.template {template!r} is neither a built-in template nor a file of DRIFT_TEMPLATES_ROOT.",
            remedy=f"Use {', '.join((*_FAMILIES, *BUILT_IN, *sorted(path.stem for path in folder.glob('*.jinja'))))}.",
        )
    text = file.read_text()
    if len(text) > MAX_TEMPLATE:
        raise SpecError(f"The template {file.name} has more than {MAX_TEMPLATE} characters.", remedy="Shorten it.")
    return text


def load_prompts(template: str, max_turns: int) -> Prompts:
    """A built-in's or a family's name, or Jinja2 text; raises `SpecError` for anything else."""
    environment = _Sandbox()
    if template in _FAMILIES or template in BUILT_IN:
        names = _FAMILIES.get(template) or dict.fromkeys(_KINDS, template)
        texts = {name: (_FOLDER / f"{name}.jinja").read_text() for name in set(names.values())}
        built_in = {name: environment.compile_checked(text) for name, text in texts.items()}
        return Prompts({kind: built_in[name] for kind, name in names.items()}, max_turns)
    if "{{" not in template and "{%" not in template:
        raise SpecError(
            f"protocol.template {template[:80]!r} is neither a built-in template nor Jinja2 text.",
            remedy=f"Use {', '.join((*_FAMILIES, *BUILT_IN))}, or a text with {{{{ problem }}}}.",
        )
    try:
        own = environment.compile_checked(template)
    except (TemplateError, RecursionError) as error:
        raise SpecError(
            f"protocol.template is not a valid template: {error}.",
            remedy=f"It may use variables, if, for, set and the filters {', '.join(_FILTERS)}.",
        ) from error
    return Prompts(dict.fromkeys(_KINDS, own), max_turns)


def pair_prompts(spec: JobSpec) -> list[tuple[DatasetSpec | None, Prompts]]:
    """A job's datasets, the one to roll out first, each with the prompts that open its episodes."""
    turns = spec.protocol.max_turns
    rollout, evaluation = (load_prompts(spec.protocol.template_for(phase), turns) for phase in ("rollout", "evaluate"))
    return [(spec.dataset, rollout), *((dataset, evaluation) for dataset in spec.evaluate)]
