"""The plan: every policy comes about as its method says, and what methods have in common is done once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cli.study.plan import Run, list_tasks, name_job, plan_runs
from cli.study.study_file import Overlay, Study, load_study, merge
from shared.errors import SpecError
from shared.job import JobSpec

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = {
    "dataset": {"path": "train.jsonl", "limit": 10},
    "sampling": {"trajectories": 4, "max_tokens": 8},
    "train": {"steps": 6, "batch_size": 8},
    "evaluate": [{"path": "test.jsonl"}, {"path": "other.jsonl"}],
}
METHODS: dict[str, Any] = {
    "base": None,
    "sft": {"train": {"objective": "single_turn"}},
    "sft_5turn": {"train": {"objective": "uniform"}},
    "drift": {},
    "drift_no_repeat_penalty": {"returns": {"repeat_penalty": 0}},
    "drift_refresh": {"refresh": {"stages": 2}},
}


def study(**change: Any) -> Study:
    whole = {"name": "test", "model": "tiny", "base": BASE, "methods": METHODS, "seeds": [1, 2]} | change
    return Study.model_validate(whole)


def find(runs: list[Run], method: str, seed: int | None = 1, **wanted: Any) -> Run:
    wanted = {"axis": None} | wanted
    (found,) = [
        run
        for run in runs
        if (run.method, run.seed) == (method, seed) and all(getattr(run, k) == v for k, v in wanted.items())
    ]
    return found


def test_methods_that_only_weigh_otherwise_share_their_rollouts() -> None:
    tasks = list_tasks(plan_runs(study()))
    kinds = [task.kind for task in tasks]
    # For each seed one rollout for all, and the refresh's second; a training a method and one more for the refresh.
    assert (kinds.count("rollout"), kinds.count("train"), kinds.count("evaluate")) == (4, 12, 11)
    runs = plan_runs(study())
    assert len({find(runs, method).rollouts[0].key for method in METHODS if method != "base"}) == 1
    assert find(runs, "drift", 1).rollouts[0].key != find(runs, "drift", 2).rollouts[0].key


def test_the_refresh_goes_on_from_its_own_policy_with_half_the_steps_each() -> None:
    runs = plan_runs(study())
    refresh, drift = find(runs, "drift_refresh"), find(runs, "drift")
    first, second = refresh.trainings
    assert [task.spec.train.steps for task in refresh.trainings if task.spec.train] == [3, 3]
    assert drift.trainings[0].spec.train and drift.trainings[0].spec.train.steps == 6
    assert refresh.rollouts[0].policy is None
    assert refresh.rollouts[1].policy is first
    assert second.rollouts is refresh.rollouts[1]
    assert refresh.evaluation and refresh.evaluation.policy is second
    jobs = {task.key: f"20260101-000000-{number:06x}" for number, task in enumerate(refresh.tasks())}
    job = refresh.rollouts[1].to_job(jobs)
    assert job.start_from and job.start_from.job == jobs[first.key]
    assert second.to_job(jobs).rollouts_of == jobs[refresh.rollouts[1].key]
    for task in refresh.tasks():
        JobSpec.model_validate(task.to_job(jobs).model_dump())


def test_every_method_takes_the_same_steps_batches_and_problems() -> None:
    runs = [run for run in plan_runs(study()) if run.trainings]
    for run in runs:
        assert sum(task.spec.train.steps or 0 for task in run.trainings if task.spec.train) == 6
        assert {task.spec.train.batch_size for task in run.trainings if task.spec.train} == {8}
        assert {task.spec.dataset.shuffle_seed for task in run.rollouts if task.spec.dataset} == {run.seed}
        assert {task.spec.train.seed for task in run.trainings if task.spec.train} == {run.seed}
    evaluations = [run.evaluation for run in plan_runs(study()) if run.evaluation]
    assert len({(str(task.spec.evaluate), str(task.spec.protocol)) for task in evaluations}) == 1


def test_a_sweep_measures_the_own_value_without_new_work_and_feedback_without_new_training() -> None:
    swept = study(sweep={"seeds": [1], "axes": {"beta": [0.5], "feedback": ["Wrong."], "trajectories": [2]}})
    runs = plan_runs(swept)
    own = find(runs, "drift")
    assert [run.value for run in runs if run.axis == "beta"] == [0.1, 0.5]
    assert find(runs, "drift", axis="beta", value=0.1).evaluation == own.evaluation
    assert find(runs, "drift", axis="beta", value=0.5).rollouts == own.rollouts
    other = find(runs, "drift", axis="feedback", value="Wrong.")
    assert other.trainings == own.trainings
    assert other.evaluation and other.evaluation.spec.protocol.feedback == "Wrong."
    fewer = find(runs, "drift", axis="trajectories", value=2)
    assert fewer.rollouts[0].spec.sampling.trajectories == 2
    new = len(list_tasks(runs)) - len(list_tasks(plan_runs(study())))
    assert new == 2 + 1 + 3


def test_timing_rolls_out_with_fewer_turns_and_evaluates_nothing() -> None:
    runs = plan_runs(study(timing={"methods": ["drift", "sft"], "max_turns": [1]}))
    timed = [run for run in runs if run.axis == "max_turns"]
    assert [run.method for run in timed] == ["drift", "sft"]
    assert timed[0].rollouts == timed[1].rollouts
    assert timed[0].rollouts[0].spec.protocol.max_turns == 1
    assert all(run.evaluation is None for run in timed)


@given(st.permutations(list(METHODS)), st.permutations([1, 2, 3]))
def test_what_a_task_needs_comes_before_it_in_any_order_of_the_file(methods: list[str], seeds: list[int]) -> None:
    tasks = list_tasks(plan_runs(study(methods={name: METHODS[name] for name in methods}, seeds=seeds)))
    seen: set[str] = set()
    for task in tasks:
        assert {needed.key for needed in task.needs} <= seen
        assert task.key not in seen
        seen.add(task.key)


def keys(**change: Any) -> set[str]:
    return {task.key for task in list_tasks(plan_runs(study(**change)))}


def test_a_changed_file_keeps_the_tasks_that_it_does_not_touch() -> None:
    whole = keys()
    assert keys() == whole
    assert keys(seeds=[1, 2, 3]) > whole
    assert whole > keys(methods={name: METHODS[name] for name in ("base", "drift")})
    assert not keys(model="another") & whole
    evaluated = keys(base=BASE | {"evaluate": [{"path": "test.jsonl"}]})
    assert {key for key in whole if not key.startswith("evaluate")} == {
        key for key in evaluated if not key.startswith("evaluate")
    }


leaves = st.integers(0, 3)
inner = st.dictionaries(st.sampled_from("ab"), leaves)
overlays = st.dictionaries(st.sampled_from("abc"), leaves | inner)


@given(overlays, overlays)
def test_an_overlay_replaces_what_it_names_and_nothing_else(whole: Overlay, overlay: Overlay) -> None:
    merged = merge(whole, overlay)
    assert merge(merged, overlay) == merged
    for name in whole.keys() | overlay.keys():
        if name not in overlay:
            assert merged[name] == whole[name]
        elif not isinstance(overlay[name], dict):
            assert merged[name] == overlay[name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": BASE | {"train": {"batch_size": 8}}}, "`steps`"),
        ({"base": BASE | {"evaluate": []}}, "`evaluate`"),
        ({"base": BASE | {"sampling": {"trajectories": 0}}}, "base.sampling.trajectories"),
        ({"methods": {"drift": {"train": {"objektive": "drift"}}}}, r"methods\.drift.*objektive"),
        ({"methods": {"Drift": {}}}, "methods.Drift"),
        ({"base": BASE | {"evaluate": [{"path": "test.jsonl"}] * 2}}, "two sets of the same name"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "twice"),
        ({"sweep": {"axes": {"gama": [1]}}}, "sweep.axes.gama"),
        ({"sweep": {"axes": {"gamma": [1.5]}}}, r"drift: returns\.gamma.*less than or equal to 1"),
        ({"sweep": {"method": "ppo", "axes": {"gamma": [1]}}}, "'ppo' is not a method"),
        ({"timing": {"methods": ["base"], "max_turns": [1]}}, "'base' is not a method"),
        ({"grid": {}}, "grid"),
    ],
)
def test_a_fault_is_named_by_its_place_in_the_file(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    whole = {"name": "test", "model": "tiny", "base": BASE, "methods": METHODS, "seeds": [1]} | change
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(SpecError, match=named) as raised:
        load_study(file)
    assert str(file) in str(raised.value) and raised.value.remedy


def test_parity_changes_the_base_and_each_deviation_can_be_taken_alone(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"name": "test", "model": "tiny", "base": BASE, "methods": METHODS, "seeds": [1]}))
    whole, some = load_study(file, "authors"), load_study(file, "authors:grading,clipping")
    assert whole.base.protocol.grading == some.base.protocol.grading == "string"
    assert whole.base.train and some.base.train
    assert (whole.base.train.epsilon, some.base.train.epsilon) == (0, 1e-3)
    assert (whole.base.train.steps, some.base.train.steps) == (200, 6)
    assert whole.base.train.max_grad_norm == some.base.train.max_grad_norm == 1 / 16
    assert len({load_study(file).name, whole.name, some.name}) == 3
    # A method's own setting stays.
    assert whole.spec("drift_no_repeat_penalty", 1).returns.repeat_penalty == 0
    with pytest.raises(SpecError, match="'luck'"):
        load_study(file, "authors:luck")
    with pytest.raises(SpecError, match="authors"):
        load_study(file, "nobody")


def test_a_deviation_is_traced_by_leaving_it_out_and_each_such_study_has_a_name_of_its_own() -> None:
    file = ROOT / "examples/studies/paper-llama-3.1-8b.yaml"
    every = ["grading", "format_term", "skipping", "clipping", "prompts", "hyper_parameters"]
    without = [load_study(file, "authors:" + ",".join(one for one in every if one != left)) for left in every]
    assert len({study.name for study in without}) == len(every)
    assert all(study.name.startswith("paper-llama-3.1-8b-authors-") for study in without)
    assert [study.base.protocol.grading for study in without] == ["own"] + ["string"] * 5


def test_a_job_name_is_one_that_the_service_takes() -> None:
    for task in list_tasks(plan_runs(study(sweep={"axes": {"feedback": ["No! Überhaupt nicht → again?" * 9]}}))):
        job = task.to_job({needed.key: "20260101-000000-abcdef" for needed in task.needs})
        JobSpec.model_validate(job.model_dump() | {"name": name_job(study(), task)})
