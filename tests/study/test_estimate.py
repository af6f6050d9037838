"""The dry run: what a study would do is counted from its rows, and what is wrong is told before anything runs."""

import io
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from cli.study.estimate import StudyEstimate, estimate, print_estimate
from cli.study.study_file import Study, load_study
from shared.errors import DatasetError, SpecError
from shared.job import DatasetSpec
from tests.study.test_plan import BASE, METHODS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples/studies").glob("*.yaml"))
COSTS: dict[str, Any] = {
    "source": "a test", "turns": 2, "turn_tokens": 10, "prompt_tokens": 80, "generated_per_s": 100,
    "trained_per_s": 50, "trained_share": 0.5, "parameters": 2**30, "trainer_gib": 3, "engine_gpus": 2,
    "trainer_gpus": 4,
}  # fmt: skip


def write(folder: Path, name: str, rows: int) -> None:
    row = {"kind": "choice", "problem": "?", "answer": "A", "choices": ["x", "y"]}
    (folder / name).write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(rows)))


def study(**change: Any) -> Study:
    methods = {name: METHODS[name] for name in ("base", "drift")}
    return Study.model_validate(
        {"name": "test", "model": "tiny", "base": BASE, "methods": methods, "seeds": [1], "costs": COSTS} | change
    )


def tell(expected: StudyEstimate) -> str:
    console = Console(file=io.StringIO(), width=400)
    print_estimate(expected, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in (("train.jsonl", 12), ("test.jsonl", 5), ("other.jsonl", 2)):
        write(tmp_path, name, rows)
    return tmp_path


def test_problems_trajectories_tokens_and_hours_are_counted_by_task(data: Path) -> None:
    expected = estimate(study(), data)
    assert expected.faults == []
    evaluated, rollout, train, again = expected.tasks
    assert (evaluated.problems, evaluated.trajectories) == (again.problems, again.trajectories) == (7, 7)
    assert (rollout.problems, rollout.trajectories, rollout.tokens) == (10, 40, 40 * 2 * 10)
    assert rollout.hours == pytest.approx(800 / 100 / 3600)
    assert (train.trajectories, train.tokens) == (48, 48 * 100)
    assert train.hours == pytest.approx(4800 * 0.5 / 50 / 3600)
    assert train.disk_gib == 2
    assert expected.tokens == sum(task.tokens or 0 for task in expected.tasks)
    assert expected.gpu_hours == pytest.approx(
        4 * (train.hours or 0) + 2 * sum(task.hours or 0 for task in (evaluated, rollout, again))
    )


def test_what_skips_nothing_trains_on_all_of_its_tokens(data: Path) -> None:
    methods = {"drift": {}, "exact": {"train": {"epsilon": 0}}, "sft_5turn": {"train": {"objective": "uniform"}}}
    tasks = [task for task in estimate(study(methods=methods), data).tasks if task.kind == "train"]
    drift, *others = [task.hours for task in tasks]
    assert drift and others == [drift / COSTS["trained_share"]] * 2


def test_gpus_are_held_while_others_compute(data: Path) -> None:
    expected = estimate(study(costs=COSTS | {"generated_per_s": 0.01, "trained_per_s": 0.02}), data)
    assert expected.hours and expected.gpu_hours and expected.held_gpu_hours
    assert expected.held_gpu_hours == pytest.approx(expected.hours * (2 + 4))
    said = tell(expected)
    assert f"{expected.held_gpu_hours:,.0f} GPU hours ({expected.gpu_hours:,.0f} of them computing)" in said
    without = estimate(study(costs=COSTS | {"engine_gpus": 0, "trainer_gpus": 0}), data)
    assert "GPU" not in tell(without)


def test_the_disk_holds_what_stays_and_once_the_checkpoints_of_the_running_training(data: Path) -> None:
    expected = estimate(study(methods={name: METHODS[name] for name in ("base", "sft_5turn", "drift")}), data)
    stays = sum(task.disk_gib or 0 for task in expected.tasks)
    assert stays == pytest.approx(2 * 2, abs=0.01)
    assert expected.disk_gib == pytest.approx(stays + (2 + 1) * 12)
    untrained = estimate(study(methods={"base": None}), data)
    assert untrained.disk_gib == pytest.approx(0, abs=0.01)


def test_without_costs_only_rows_are_counted(data: Path) -> None:
    expected = estimate(study(costs=None), data)
    assert (expected.hours, expected.disk_gib) == (None, None)
    assert [task.trajectories for task in expected.tasks] == [7, 40, 48, 7]


def test_a_bad_row_is_told_once_by_file_and_line(data: Path) -> None:
    with (data / "test.jsonl").open("a") as file:
        file.write('{"problem": "?", "choices": ["x", "y"]}\n')
    (fault,) = estimate(study(), data).faults
    assert "test.jsonl, line 6, field answer" in fault


def test_a_bad_template_is_refused(data: Path) -> None:
    with pytest.raises(SpecError, match=r"protocol\.template"):
        estimate(study(base=BASE | {"protocol": {"template": "{{ nothing }}"}}), data)


@pytest.mark.parametrize("model", [path.stem[6:] for path in EXAMPLES if path.stem.startswith("paper-")])
def test_the_memory_of_a_papers_trainer_is_that_of_its_recipe(model: str) -> None:
    costs = load_study(ROOT / f"examples/studies/paper-{model}.yaml").costs
    assert costs
    table = (ROOT / "examples/recipes/README.md").read_text().splitlines()
    (row,) = [line for line in table if line.startswith(f"| `{model}.yaml` | {costs.trainer_gpus} |")]
    assert float(row.split("|")[-2]) == costs.trainer_gib


def count_as_published(dataset: DatasetSpec, *_: object) -> NoReturn:
    raise DatasetError(f"{dataset.name} is not asked for.")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_is_expected_to_cost_is_written_down(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its sets, so that neither hub nor data is needed: counted as published."""
    monkeypatch.setattr("cli.study.estimate.count_problems", count_as_published)
    read = load_study(path)
    expected, costs = estimate(read, Path()), read.costs
    assert costs and None not in (expected.tokens, expected.hours, expected.disk_gib)
    trainings = sum(task.kind == "train" for task in expected.tasks)
    held = f"{expected.held_gpu_hours:.0f} | {expected.gpu_hours:.0f}" if expected.gpu_hours else " | "
    ranks = f"{costs.trainer_gib} GiB" + (f" on {costs.trainer_gpus} GPUs" if costs.trainer_gpus else ", no GPU")
    row = (
        f"| `{read.name}` | {len(expected.tasks)} | {trainings} | {(expected.tokens or 0) / 1e6:,.0f} million "
        f"| {expected.hours:.1f} | {held} | {expected.disk_gib:.0f} GiB | {ranks} |"
    )
    assert row in (ROOT / "docs/reproducing.md").read_text(), f"write this down:\n{row}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_study_with_the_papers_methods(path: Path) -> None:
    read = load_study(path)
    assert {"base", "sft", "sft_5turn", "star_2turn", "drift"} <= set(read.methods)
    assert len(read.seeds) == 3
    assert read.costs is not None
    if path.stem.startswith("paper"):
        train, sampling = read.base.train, read.base.sampling
        assert train is not None and read.base.dataset is not None
        assert (train.steps, train.batch_size, train.learning_rate) == (200, 128, 5e-6)
        assert (sampling.trajectories, read.base.dataset.limit, len(read.base.evaluate)) == (16, 1800, 6)
        load_study(path, "authors")
