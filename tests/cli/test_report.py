"""What the terminal shows of a job's evaluations."""

from rich.console import Console

from cli.report import build_table, compare, describe_rollouts
from shared.measures import Evaluation, RolloutSummary
from shared.status import JobStatus, State


def evaluation(policy: str, multi_at: list[float], unique: float, dataset: str = "test.jsonl") -> Evaluation:
    return Evaluation(
        dataset=dataset, policy=policy, stage=0 if policy == "base" else 1, n=256, ungraded=0,
        multi_at=multi_at, correction_rate=(multi_at[-1] - multi_at[0]) / (1 - multi_at[0]),
        correction_rate_at=multi_at, solved_rate_at=multi_at, unique_answers=unique, distinct_answers=2.0,
        distinct_answers_wrong=3.0, unparsable=0.02, interval=[[share - 0.05, share + 0.05] for share in multi_at],
    )  # fmt: skip


STATUS = JobStatus(
    id="20260101-000000-abcdef",
    name="demo",
    state=State.SUCCEEDED,
    created=1.0,
    model="drift",
    evaluations=[
        evaluation("base", [0.188, 0.430, 0.547, 0.625, 0.633], 0.79),
        evaluation("stage-1", [0.234, 0.508, 0.703, 0.812, 0.812], 0.91),
    ],
)  # fmt: skip


def test_the_table_has_every_policy_and_the_change_in_points() -> None:
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    (comparison,) = compare(STATUS)
    console.print(build_table(comparison))
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:-1] for line in console.export_text().splitlines() if "│" in line
    }
    assert [cell.strip() for cell in rows["multi@5"]] == ["63.3 %", "81.2 %", "+17.9"]
    assert [cell.strip() for cell in rows["unique answers (U/A)"]] == ["0.79", "0.91", "+0.12"]
    assert [cell.strip() for cell in rows["correction rate"]] == ["54.8 %", "75.5 %", "+20.7"]


def test_evaluations_are_compared_within_their_dataset_base_first() -> None:
    other = [evaluation(policy, [0.5] * 5, 0.5, dataset="other.jsonl") for policy in ("base", "stage-1")]
    interleaved = [STATUS.evaluations[0], other[0], STATUS.evaluations[1], other[1]]
    comparisons = compare(STATUS.model_copy(update={"evaluations": interleaved}))
    assert [(each.dataset, [e.policy for e in each.evaluations]) for each in comparisons] == [
        ("test.jsonl", ["base", "stage-1"]),
        ("other.jsonl", ["base", "stage-1"]),
    ]


def test_rollouts_are_told_in_a_line_with_what_was_lost() -> None:
    rollout = RolloutSummary(
        stage=0, policy="base", trajectories=16, ungraded=0, failed=0, multi_at=[0.25, 0.5], turns=30,
        generated_tokens=60, verdicts={}, seconds=2.4,
    )  # fmt: skip
    lossy = rollout.model_copy(update={"policy": "stage-1", "failed": 3})
    assert describe_rollouts(STATUS.model_copy(update={"rollouts": [rollout, lossy]})) == [
        "rollouts, base: 16 trajectories in 2 s, solved by turn 25.0 %, 50.0 %",
        "rollouts, stage-1: 16 trajectories in 2 s, solved by turn 25.0 %, 50.0 %; 0 ungraded, 3 failed",
    ]


def test_a_dataset_is_called_as_its_file_is() -> None:
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    named = STATUS.model_copy(update={"evaluations": [evaluation("base", [0.5, 0.6], 0.7, "sets[/a].jsonl")]})
    console.print(build_table(compare(named)[0]))
    assert "sets[/a].jsonl: 256 problems" in console.export_text()


def test_two_sets_of_one_name_are_two_tables() -> None:
    twice = [evaluation("base", [0.1], 0.5), evaluation("base", [0.5], 0.5), evaluation("stage-1", [0.2], 0.5), evaluation("stage-1", [0.7], 0.5)]  # fmt: skip # noqa: E501
    tables = compare(STATUS.model_copy(update={"evaluations": twice}))
    assert [[each.multi_at for each in table.evaluations] for table in tables] == [[[0.1], [0.2]], [[0.5], [0.7]]]
