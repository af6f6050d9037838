"""What people get from a job: the table's figures, the files, and no surprise with a job that measured nothing."""

import json
from pathlib import Path

from matplotlib.image import imread
from rich.console import Console

from cli.report import build_table, compare, write_report
from shared.measures import Evaluation, RolloutSummary
from shared.status import JobStatus, State
from shared.training import TrainingState, TrainingStatus


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
    rollouts=[
        RolloutSummary(
            stage=0, policy="base", trajectories=1024, ungraded=0, failed=0, multi_at=[0.22, 0.34, 0.41, 0.45, 0.47],
            turns=3500, generated_tokens=20_000, verdicts={"correct": 480}, seconds=200.0,
        )
    ],
    trainings=[
        TrainingStatus(
            state=TrainingState.SUCCEEDED, stage=0, step=2, steps=2, losses=[1.5, 1.0], trajectories=1024, skipped=551,
            skipped_mass=1e-5, skipped_token_share=0.65, effective_sample_size=2.5,
        )
    ],
    checkpoint="/runs/x/export",
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


def test_the_report_is_the_apis_own_json_beside_a_readable_page_and_a_picture(tmp_path: Path) -> None:
    answer = STATUS.model_dump_json().encode()
    report = write_report(tmp_path / "run", STATUS, answer, {"train stage 0": 61.4})
    assert (tmp_path / "run" / "report.json").read_bytes() == answer
    assert JobStatus.model_validate(json.loads(answer)) == STATUS
    text = report.read_text()
    assert "| multi@5 | 63.3 % | 81.2 % | +17.9 |" in text
    assert "551 of 1024" in text
    assert "| train stage 0 | 61 |" in text
    height, width, _ = imread(tmp_path / "run" / "curves.png").shape
    assert width > height > 300


def test_evaluations_are_compared_within_their_dataset_base_first() -> None:
    other = [evaluation(policy, [0.5] * 5, 0.5, dataset="other.jsonl") for policy in ("base", "stage-1")]
    interleaved = [STATUS.evaluations[0], other[0], STATUS.evaluations[1], other[1]]
    comparisons = compare(STATUS.model_copy(update={"evaluations": interleaved}))
    assert [(each.dataset, [e.policy for e in each.evaluations]) for each in comparisons] == [
        ("test.jsonl", ["base", "stage-1"]),
        ("other.jsonl", ["base", "stage-1"]),
    ]


def test_a_job_that_failed_before_it_measured_anything_still_has_a_report(tmp_path: Path) -> None:
    failed = JobStatus(id="x", name="demo", state=State.FAILED, created=1.0, error="The engine refuses the request.")
    report = write_report(tmp_path, failed, failed.model_dump_json().encode(), {})
    assert "The engine refuses the request." in report.read_text()
    assert not (tmp_path / "curves.png").exists()
