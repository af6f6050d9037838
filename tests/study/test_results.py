"""Results of a whole study: the sweep against the method's own values, times that a stop does not move, and groups."""

from pathlib import Path

import pytest

from cli.study.ledger import Ledger
from cli.study.plan import plan_runs
from cli.study.results import Results, collect
from cli.study.study_file import Study
from cli.study.times import take_medians
from tests.study.recorded import PROBLEMS, STOPPED_S, STUDY, record


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return collect_all(tmp_path_factory.mktemp("whole"), Study.model_validate(STUDY))


def collect_all(folder: Path, study: Study) -> Results:
    ledger = Ledger(folder, study.name)
    record(study, ledger)
    return collect(study, ledger)


def test_each_value_of_a_setting_is_compared_with_the_own_one_at_the_same_seeds(results: Results) -> None:
    assert not results.pending
    values = {axis: [(p.value, p.own) for p in results.sweep if p.axis == axis] for axis in ("steps", "trajectories")}
    assert values == {
        "steps": [(2, False), (4, False), (6, True)],
        "trajectories": [(2, False), (4, True), (8, False)],
    }
    for point in results.sweep:
        (own,) = [one for one in results.sweep if one.axis == point.axis and one.own]
        assert bool(point.minus_own) is not point.own
        for name, one in point.minus_own.items():
            assert one.seeds == own.measures[name].seeds == [1, 2]
            # On the same problems, whatever was ungraded, so that differences of means are means of differences.
            for k, estimate in enumerate(one.multi_at):
                wanted = point.measures[name].multi_at[k] - own.measures[name].multi_at[k]
                assert estimate.mean == pytest.approx(wanted)
                assert estimate.low < estimate.mean < estimate.high


def test_a_setting_of_which_only_the_own_value_is_measured_is_left_out(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    ledger = Ledger(tmp_path, study.name)
    record(study, ledger)
    for run in plan_runs(study):
        if run.axis == "gamma" and run.value == 0.5:
            assert run.evaluation
            (tmp_path / "records" / f"{run.evaluation.key}.json").unlink()
    results = collect(study, ledger)
    assert "gamma" not in {point.axis for point in results.sweep}
    assert {point.axis for point in results.sweep} >= {"beta", "steps"}


def test_a_run_that_was_stopped_keeps_its_time_and_moves_no_median(results: Results) -> None:
    drift = [one for one in results.times if (one.method, one.axis) == ("drift", None)]
    assert [one.rollout_s for one in drift] == [10, STOPPED_S, 10]
    (told,) = [one for one in take_medians(results.times) if (one.method, one.axis) == ("drift", None)]
    assert (told.rollout_s, told.train_s, told.evaluate_s, told.seeds) == (10, 20, 30, [1, 2, 3])
    assert (told.epsilon, told.skipped_token_share, told.generated_tokens) == (1e-3, 0.625, 100)


def test_what_is_the_methods_own_is_timed_once(results: Results) -> None:
    told = take_medians(results.times)
    budgets = [(one.method, one.max_turns, one.seeds) for one in told if one.axis in (None, "max_turns")]
    whole = [1, 2, 3]
    assert budgets == [
        ("base", 3, []), ("sft_5turn", 3, whole), ("drift", 3, whole), ("sft_5turn", 1, [1]), ("drift", 1, [1]),
    ]  # fmt: skip
    swept = [(one.axis, one.value) for one in told if one.axis not in (None, "max_turns")]
    assert swept == [(point.axis, point.value) for point in results.sweep if not point.own]


def test_groups_of_the_k_that_only_the_sweep_has_are_of_its_rollouts(results: Results) -> None:
    at_own_beta = [one for one in results.concentration if one.beta == 0.1]
    groups = [(one.k, one.composition.complete) for one in at_own_beta]
    # The own K is 4, three seeds; the sweep's 8 has two.
    assert groups == [(2, 3 * 2 * PROBLEMS), (4, 3 * PROBLEMS), (8, 2 * PROBLEMS)]


@pytest.mark.parametrize(("epsilon", "told"), [(0, 1e-3), (0.2, 0.2)])
def test_what_is_skipped_is_told_for_the_studys_own_epsilon(epsilon: float, told: float, tmp_path: Path) -> None:
    base = STUDY["base"] | {"train": {"steps": 6, "epsilon": epsilon}}
    study = Study.model_validate(STUDY | {"base": base, "sweep": None, "timing": None})
    assert {one.epsilon for one in collect_all(tmp_path, study).concentration} == {told}
