"""The tables of `results.md`."""

from collections.abc import Mapping, Sequence

from cli.study.concentration import Concentration
from cli.study.measures import Average, DatasetResults, Difference, Measures
from cli.study.statistics import Estimate
from cli.study.study_file import Axis
from cli.study.sweep import SweepPoint
from cli.study.times import RunTime, take_medians
from services.rollout.report.markdown import escape, write_table

AXES: Mapping[Axis, str] = {
    "gamma": "gamma (figure 4, left)",
    "beta": "beta (figure 4, middle)",
    "lambda": "lambda",
    "trajectories": "K, trajectories a problem (accuracy of table 8)",
    "feedback": "Feedback wording at evaluation (figure 4, right)",
    "steps": "Optimiser steps (the own setting's curve in figures 7 to 9)",
    "epsilon": "Skipping",
}


def write_dataset(name: str, dataset: DatasetResults, turns: int) -> list[str]:
    """Every method on one dataset, and the paired differences."""
    left_out = f", {dataset.left_out} left out as ungraded" if dataset.left_out else ""
    lines = [f"## {name}", "", f"{dataset.problems} problems{left_out}; greedy.", ""]
    header = ["method", "seeds", *_name_turns(turns), "interval", f"multi@{turns} by seed", "correction rate", "U/A"]
    header += ["distinct answers", "of wrong ones"]
    lines += write_table(
        header,
        [
            [
                method, _list_seeds(one.seeds), *_write_shares(one),
                ", ".join(_percent(by_turn[-1]) for by_turn in one.multi_at_by_seed) if one.seeds else "-",
                _percent(one.correction_rate), f"{one.unique_answers:.3f}",
                f"{one.distinct_answers:.2f}", f"{one.distinct_answers_wrong:.2f}",
            ]
            for method, one in dataset.methods.items()
        ],
    )  # fmt: skip
    if dataset.differences:
        lines += ["Paired differences in points, by problem and seed:", ""]
        lines += write_table(
            ["", "seeds", "multi@1", f"multi@{turns}", f"multi@{turns} by seed"],
            [
                [
                    f"{one.method} - {one.other}", _list_seeds(one.seeds), points(one.multi_at[0]),
                    points(one.multi_at[-1]), ", ".join(_signed(by_turn[-1]) for by_turn in one.multi_at_by_seed),
                ]
                for one in dataset.differences
            ],
        )  # fmt: skip
    return lines


def write_average(average: Average, datasets: Mapping[str, DatasetResults], turns: int) -> list[str]:
    """The mean over several datasets."""
    rows = [
        [
            method, *(_percent(dataset.methods[method].multi_at[-1]) for dataset in datasets.values()),
            _percent(mean.mean), _write_interval(mean.low, mean.high),
            points(difference) if (difference := average.minus_sft_5turn.get(method)) else "",
        ]
        for method, mean in average.methods.items()
    ]  # fmt: skip
    header = ["method", *datasets, "mean", "interval", "paired difference to sft_5turn"]
    return [f"## multi@{turns} over all sets", "", *write_table(header, rows)]


def write_axis(swept: Sequence[SweepPoint], turns: int) -> list[str]:
    """The values of one setting."""
    rows = [
        [
            escape(str(point.value)) if not point.own else f"**{escape(str(point.value))}**", name,
            _list_seeds(one.seeds), *_write_shares(one),
            *(points(less.multi_at[place]) if (less := point.minus_own.get(name)) else "" for place in (0, -1)),
            _percent(one.solved_rate_at[0]),
        ]
        for point in swept
        for name, one in point.measures.items()
    ]  # fmt: skip
    axis = swept[0].axis
    header = [axis, "set", "seeds", *_name_turns(turns), "interval"]
    header += ["multi@1 less own", f"multi@{turns} less own", "solved at turn 1 of all"]
    return [
        f"## {AXES[axis]}",
        "",
        "The method's own value is bold; differences to it are paired by problem and seed.",
        "",
        *write_table(header, rows),
    ]


def write_concentration(rows: Sequence[Concentration]) -> list[str]:
    """Composition of groups and weights, by K and beta."""
    if not rows:
        return []
    header = ["K", "groups", "beta", "all correct", "all wrong", "mixed", "ESS / K", "largest weight"]
    header += [f"skipped at {rows[0].epsilon:g}", "their weight"]
    return [
        "## Groups and weights of the recorded rollouts (table 8, proposition 7)",
        "",
        *write_table(
            header,
            [
                [
                    str(one.k), str(one.composition.complete), f"{one.beta:g}",
                    *(
                        _percent(count / one.composition.complete if one.composition.complete else 0.0)
                        for count in (one.composition.all_correct, one.composition.all_wrong, one.composition.mixed)
                    ),
                    f"{one.effective_share:.2f}", _percent(one.top_share), _percent(one.skipped_share),
                    f"{100 * one.skipped_mass:.3f}",
                ]
                for one in rows
            ],
        ),
        "Shares in %; the largest weight is the share of its group's that one trajectory has; skipped is what a "
        f"training with epsilon {rows[0].epsilon:g} leaves out.",
        "",
    ]  # fmt: skip


def write_times(times: Sequence[RunTime]) -> list[str]:
    """Medians over seeds; every run's own times are in `results.json`."""
    if not times:
        return []
    header = ["method", "", "turns", "seeds", "rollout s", "training s", "tokens skipped", "evaluation s"]
    rows = [
        [
            one.method, escape(f"{one.axis} {one.value}") if one.axis not in (None, "max_turns") else "",
            str(one.max_turns), _list_seeds(one.seeds),
            f"{one.rollout_s:.0f}", f"{one.train_s:.0f}", f"{_percent(one.skipped_token_share)} %",
            "" if one.evaluate_s is None else f"{one.evaluate_s:.0f}", f"{one.generated_tokens:.0f}",
        ]
        for one in take_medians(times)
    ]  # fmt: skip
    return [
        "## Time on this hardware",
        "",
        "Wall time, stops included; medians over seeds. Rollouts that methods share count for each.",
        "",
        *write_table([*header, "generated tokens"], rows),
    ]


def points(one: Estimate) -> str:
    """A difference in percentage points with its interval."""
    return f"{_signed(one.mean)} ({_signed(one.low)} to {_signed(one.high)})"


def write_seeds(one: Difference) -> str:
    """The last turn's difference of each seed."""
    return ", ".join(
        f"{_signed(by_turn[-1])} (seed {seed})" for seed, by_turn in zip(one.seeds, one.multi_at_by_seed, strict=True)
    )


def _name_turns(turns: int) -> list[str]:
    return [f"multi@{k}" for k in range(1, turns + 1)]


def _write_shares(one: Measures) -> list[str]:
    return [*(_percent(share) for share in one.multi_at), _write_interval(*one.interval[-1])]


def _write_interval(low: float, high: float) -> str:
    return f"{_percent(low)} to {_percent(high)}"


def _list_seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "-"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
