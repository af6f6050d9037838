"""Examples of requests and answers, for the API's documentation; a test holds them to their schemas."""

from typing import Any

JOB = "20260101-120000-0123ab"

EVALUATION: dict[str, Any] = {
    "dataset": "arc_easy", "policy": "base", "stage": 0, "n": 256, "ungraded": 0,
    "multi_at": [0.254, 0.344, 0.375], "correction_rate": 0.162, "correction_rate_at": [0.254, 0.12, 0.048],
    "solved_rate_at": [0.677, 0.917, 1.0], "unique_answers": 0.57, "distinct_answers": 1.4,
    "distinct_answers_wrong": 1.5, "unparsable": 0.048, "interval": [[0.2, 0.31], [0.29, 0.4], [0.32, 0.43]],
    "correction_interval": [0.11, 0.22], "solved_interval_at": [[0.58, 0.77], [0.86, 0.97], [1.0, 1.0]],
}  # fmt: skip
ACCEPTED = {"id": JOB, "state": "queued"}
STATUS: dict[str, Any] = {
    "id": JOB, "name": "arc", "state": "running", "phase": "rollout", "created": 1767268800.0, "started": 1767268801.0,
    "progress": {"phase": "rollout", "label": "roll out base on arc_easy/train", "done": 300, "total": 1024,
                 "unit": "trajectories"},
    "model": "drift", "base": "/models/smollm2", "problems": [128, 256], "skipped_rows": [0, 0],
    "steps_done": 2, "steps_total": 5, "evaluations": [EVALUATION],
}  # fmt: skip
SPEC: dict[str, Any] = {
    "name": "arc",
    "dataset": {"preset": "arc_easy", "split": "train", "limit": 128, "shuffle_seed": 17},
    "sampling": {"trajectories": 8, "max_tokens": 8},
    "train": {"epochs": 1, "batch_size": 32, "learning_rate": 5e-5},
    "evaluate": [{"preset": "arc_easy", "limit": 256}],
}
SPECS: dict[str, Any] = {
    "whole": {"summary": "Evaluate, roll out, train, evaluate again", "value": SPEC},
    "inline": {
        "summary": "Only roll out, problems inline",
        "value": {
            "name": "capitals",
            "dataset": {
                "problems": [
                    {"id": "1", "kind": "choice", "problem": "What is the capital of France?", "answer": "B",
                     "choices": ["Lyon", "Paris", "Nice"]},
                ]
            },
            "protocol": {"max_turns": 3},
            "sampling": {"trajectories": 4, "max_tokens": 16},
        },
    },
    "file": {
        "summary": "A CSV file with columns of its own; bad rows are left out and counted",
        "value": {
            "dataset": {
                "path": "own.csv",
                "columns": {"problem": "question", "answer": "right", "choices": ["a", "b", "c", "d"]},
                "on_bad_row": "skip",
            }
        },
    },
    "reuse": {
        "summary": "Train with another objective on what a job has rolled out",
        "value": {"rollouts_of": JOB, "train": {"objective": "uniform"}, "evaluate": [{"preset": "math500"}]},
    },
    "evaluate": {
        "summary": "Evaluate the policy that a job has trained, on two sets",
        "value": {"start_from": {"job": JOB}, "evaluate": [{"preset": "math500"}, {"preset": "gsm8k"}]},
    },
}  # fmt: skip
TRAJECTORY: dict[str, Any] = {
    "id": f"{JOB}:rollout-0:0:0", "part": "rollout-0", "policy": "base", "group": 0, "k": 0,
    "problem": {"id": "1", "kind": "choice", "problem": "What is the capital of France?", "answer": "B",
                "choices": ["Lyon", "Paris", "Nice"]},
    "turns": [
        {"prompt_token_ids": [1, 42], "token_ids": [49, 2], "text": "A", "finish_reason": "stop",
         "verdict": "incorrect", "answer": "A", "normal_form": "A", "method": "choice"},
        {"prompt_token_ids": [1, 42, 49, 2, 77], "token_ids": [50, 2], "text": "B", "finish_reason": "stop",
         "verdict": "correct", "answer": "B", "normal_form": "B", "method": "choice"},
    ],
    "ending": "solved", "reason": None, "success": True, "return": 0.9,
    "return_terms": {"value": 0.9, "discounted_success": 0.9, "repeat": 0.0, "format": 0.0}, "weight": 1.4,
}  # fmt: skip
PAGE = {"trajectories": [TRAJECTORY], "next": "rollout-0:0:0"}
OUTCOMES: dict[str, Any] = {
    "job": JOB, "part": "rollout-0", "policy": "base", "group": [0, 0], "k": [0, 1], "group_size": [2, 2],
    "ending": ["solved", "max_turns"], "turns": [2, 5], "answered": [2, 4], "distinct": [2, 3],
}  # fmt: skip
COMPOSITION = {"complete": 128, "all_correct": 1, "all_wrong": 3, "mixed": 124, "spoiled": 0}
SIZE: dict[str, Any] = {"mean": 2.5, "min": 1.0, "histogram": {"edges": [1.0, 4.5, 8.0], "counts": [100, 28]}}
WEIGHTS: dict[str, Any] = {
    "part": "rollout-0", "policy": "base",
    "returns": {"gamma": 0.9, "beta": 0.2, "repeat_penalty": 0.5, "format_penalty": 0.1}, "objective": "drift",
    "trajectories": 1024, "weighted": 1024, "composition": COMPOSITION, "effective_sample_size": SIZE,
    "weights": {"edges": [0.0, 1.0, 8.0], "counts": [700, 324]},
    "returns_histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [500, 524]},
    "by_turn": [
        {"turn": 1, "trajectories": 225, "mean_return": 1.0, "weight_share": 0.6},
        {"turn": None, "trajectories": 540, "mean_return": -0.3, "weight_share": 0.02},
    ],
    "skipped": {"epsilon": 0.001, "trajectories": 551, "mass": 0.0002}, "gaining": 480, "losing": 544,
    "gains": [{"id": f"{JOB}:rollout-0:3:1", "group": 3, "k": 1, "turns": 3, "ending": "solved",
               "before": 0.4, "after": 0.9}],
    "losses": [],
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "part": "evaluate-0-0", "phase": "evaluate", "trajectories": 256, "total": 256, "turns": 640,
    "generated_tokens": 1900, "seconds": 60.1, "tokens_per_s": 31.6, "verdicts": {"correct": 96, "incorrect": 544},
    "endings": {"max_turns": 160, "solved": 96}, "measures": EVALUATION,
}  # fmt: skip
METRICS: dict[str, Any] = {
    "id": JOB, "state": "running", "phase": "rollout", "time": 1767268999.0, "parts": [FIGURES], "trainings": [],
}  # fmt: skip
REPORT: dict[str, Any] = {
    "id": JOB, "name": "arc", "state": "running", "error": None, "model": "drift", "base": "/models/smollm2",
    "checkpoint": None, "spec": SPEC, "problems": [128, 256], "skipped_rows": [0, 0], "skipped_reasons": [],
    "evaluations": [FIGURES],
    "rollouts": [{"figures": FIGURES | {"part": "rollout-0", "phase": "rollout"},
                  "composition": COMPOSITION, "effective_sample_size": SIZE,
                  "weights": {"edges": [0.0, 1.0, 8.0], "counts": [800, 224]},
                  "composition_at": [{"trajectories": 1, "all_correct": 0.25, "mixed": 0.0, "all_wrong": 0.75}],
                  "sweeps": [{"gamma": 0.9, "betas": [0.1, 1.0], "effective_sample_size": [2.5, 6.9]}]}],
    "trainings": [], "timings": [{"step": "prepare", "stage": 0, "dataset": 0, "seconds": 0.4}],
}  # fmt: skip
ENGINES: dict[str, Any] = {
    "engines": [
        {"url": "http://127.0.0.1:8100", "healthy": True, "serving": "/models/smollm2", "running": 64, "waiting": 8,
         "cache_usage": 0.31, "tokens_per_s": 1840.5, "in_flight": 72, "limit": 128, "circuit": "closed",
         "trouble": None},
    ]
}  # fmt: skip
PRESETS: dict[str, Any] = {
    "presets": [
        {"name": "gsm8k", "title": "GSM8K", "hub": "openai/gsm8k", "config": "main", "split": "test",
         "splits": ["train", "test"], "rows": 1319, "kind": "math", "template": "paper_math", "licence": "MIT",
         "gated": False, "note": None, "file": "gsm8k_test.jsonl.gz"},
    ]
}  # fmt: skip


def give(example: Any, status: int = 200, **others: Any) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers like this."""
    content: dict[str, Any] = {"application/json": {"example": example}} | others
    return {status: {"content": content}}
