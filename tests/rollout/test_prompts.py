"""Templates are data: the paper's prompts to the letter, the item's own letters, and no text that can do harm."""

from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from services.rollout.intake import Intake
from services.rollout.jobs import Jobs
from services.rollout.prompts import BUILT_IN, find_template, load_prompts
from services.rollout.settings import RolloutSettings
from shared.errors import SpecError
from shared.job import JobSpec
from shared.trajectory import Problem
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit

MATH = Problem(id="1", kind="math", problem="What is 2+2?", answer="4")
CHOICE = Problem(id="2", kind="choice", problem="Which is red?", answer="B", choices=["sky", "blood", "grass"])
SYSTEM = {"role": "system", "content": "You're a helpful assistant."}
FORMAT = (
    "Always output: <think> [Your thoughts] </think> <answer> [your answer] </answer> with no extra text."
    " Strictly follow this format."
)


def test_the_papers_rollout_prompt() -> None:
    for name in ("auto", "paper", "paper_math"):
        assert load_prompts(name, 5).open(MATH) == [
            SYSTEM,
            {
                "role": "user",
                "content": "You are solving Math problems. Only give the final answer between <answer> and </answer>.\n"
                "Turn 1:\nState: What is 2+2?\n"
                f"You have 5 actions left. {FORMAT} Max response length: 400 words (tokens).",
            },
        ]


def test_the_papers_evaluation_prompts() -> None:
    prompts = load_prompts("paper_evaluation", 5)
    assert prompts.open(MATH) == [
        SYSTEM,
        {
            "role": "user",
            "content": "You are solving Math problems. Only give the final answer between <answer> and </answer>.\n"
            f"Problem: What is 2+2?\n{FORMAT}",
        },
    ]
    assert prompts.open(CHOICE) == [
        SYSTEM,
        {
            "role": "user",
            "content": "You are solving multiple-choice questions. Only give the final answer letter (A-C) between"
            f" <answer> and </answer>.\nProblem: Which is red?\nA. sky\nB. blood\nC. grass\n{FORMAT}",
        },
    ]


@pytest.mark.parametrize("name", ["choice_letter", "paper_choice", "paper_choice_evaluation", "plain"])
@pytest.mark.parametrize("count", [2, 4, 10, 26])
def test_a_choice_prompt_has_the_letters_of_its_item(name: str, count: int) -> None:
    last = chr(ord("A") + count - 1)
    item = CHOICE.model_copy(update={"choices": [f"option {n}" for n in range(count)]})
    text = load_prompts(name, 5).open(item)[-1]["content"]
    assert f"{last}. option {count - 1}" in text
    assert ("(A-" in text) == name.startswith("paper")
    if name.startswith("paper"):
        assert f"(A-{last})" in text


def test_every_built_in_opens_its_kind_of_problem() -> None:
    for name in BUILT_IN:
        assert "Which is red?" in load_prompts(name, 3).open(CHOICE)[-1]["content"]


def test_a_jobs_own_text_is_the_users_message() -> None:
    own = (
        "{% set n = choices|length %}{{ problem|trim|upper }}{% if n > 2 %}\n"
        "{% for c in choices %}{{ loop.index }}) {{ c }}{% if not loop.last %}, {% endif %}{% endfor %}{% endif %}"
        " of {{ choices|join('/') }}, {{ letters }}, {{ max_turns }}"
    )
    assert load_prompts(own, 3).open(CHOICE) == [
        {"role": "user", "content": "WHICH IS RED?\n1) sky, 2) blood, 3) grass of sky/blood/grass, ABC, 3"}
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ problem.format(1) }}",
        "{{ problem.center(10**10) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%10000000000d' % 1 }}",
        "{% for a in range(100000) %}{{ a }}{% endfor %}",
        "{% for a in problem %}{% for b in problem %}{{ a }}{% endfor %}{% endfor %}",
        "{% set a = problem ~ problem %}{{ a }}",
        "{% set a %}{{ problem }}{{ problem }}{% endset %}{{ a }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'paper_math.jinja' %}",
        "{{ problem|replace('', problem) }}",
        "{{ problem|join(problem) }}",
        "{{ lipsum(10000000) }}",
        "{{ answer }}",
        "{{ problem",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    ],
)
def test_a_text_that_could_hang_fill_or_leave_the_sandbox_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"protocol\.template"):
        load_prompts(text, 5).open(MATH)


async def test_evaluations_may_have_a_template_of_their_own(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    protocol = {"template": "R {{ problem }}", "evaluation_template": "E {{ problem }}"}
    await finish(service, await submit(service, protocol=protocol, evaluate=[{"problems": PROBLEMS}]))
    asked = [(body["temperature"], body["messages"][0]["content"][:3]) for body in engine.requests]  # pyright: ignore[reportIndexIssue]
    assert {(1.0, "R Q"), (0.0, "E Q")} < set(asked)
    assert not {(0.0, "R Q"), (1.0, "E Q")} & set(asked)


def test_a_file_of_the_users_folder_is_a_template_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "terse.jinja").write_text("Briefly: {{ problem }}")
    (tmp_path / "plain.jinja").write_text("never")
    assert find_template("terse", tmp_path) == "Briefly: {{ problem }}"
    assert find_template("plain", tmp_path) == "plain", "a built-in keeps its name"
    for text in ("{{ problem }}", "../terse", "auto"):
        assert find_template(text, tmp_path) == text
    with pytest.raises(SpecError, match="DRIFT_TEMPLATES_ROOT") as caught:
        find_template("verbose", tmp_path)
    assert "terse" in str(caught.value.remedy)
    assert find_template("terse", None) == "terse"


async def test_a_template_of_the_folder_becomes_part_of_the_job(
    settings: RolloutSettings, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "terse.jinja").write_text("Briefly: {{ problem }}")
    intake = Intake(Jobs(redis), settings.data_root, tmp_path)
    spec = JobSpec.model_validate({"dataset": {"problems": PROBLEMS}, "protocol": {"template": "terse"}})
    assert (await intake.check(spec)).protocol.template == "Briefly: {{ problem }}"
