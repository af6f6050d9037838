"""What this trainer is compared with: Hugging Face's Trainer, weighted as is usual, and TRL's SFTTrainer.

Each is written as a competent user would: transformers' and TRL's own defaults wherever the comparison fixes nothing.
"""

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from services.trainer.population import Example

ROWS = 8
"""Rows of a micro-batch: transformers' default; 16 of them, which is what the authors accumulate, are their 128."""


class WeightedTrainer(Trainer):
    """Mean over rows of w_i mean_u -log p(u), with the full logits and a label of -100 for what is not supervised."""

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        logits = model(**inputs).logits
        nll = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
        supervised = labels[:, 1:] != -100
        return (weights * (nll * supervised).sum(1) / supervised.sum(1)).mean()


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Rows padded on the right, shape [rows, longest]."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    mask = torch.zeros_like(tokens)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        mask[row, : len(example.tokens)] = 1
        for span in example.spans:
            labels[row, slice(*span)] = tokens[row, slice(*span)]
    weights = [one.coefficient * sum(stop - start for start, stop in one.spans) for one in examples]
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels, "weights": torch.tensor(weights)}


def settings_of(batch_size: int, dtype: str, folder: str) -> dict[str, Any]:
    """What both of Hugging Face's trainers are told: one step of |B| rows, the optimiser as ours."""
    return {
        "output_dir": folder, "per_device_train_batch_size": ROWS, "max_steps": 1, "use_cpu": True,
        "gradient_accumulation_steps": batch_size // ROWS, "bf16": dtype == "bfloat16",
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "learning_rate": 5e-6, "weight_decay": 0.1,
        "max_grad_norm": 1.0, "train_sampling_strategy": "sequential", "logging_strategy": "no",
    }  # fmt: skip


def timed(trainer: Trainer, inputs: dict[str, Tensor]) -> float:
    """Seconds of one step of |B|, after one micro-batch of warm-up that changes nothing."""
    model: Any = trainer.model
    with trainer.compute_loss_context_manager():
        trainer.compute_loss(model, inputs).backward()  # pyright: ignore[reportAttributeAccessIssue]
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def measure_trainer(model: str, dtype: str, batch: Sequence[Example]) -> float:
    """The Trainer subclass: every trajectory, right-padded, the logits of all positions."""
    scaled = [one.times(len(batch)) for one in batch]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(remove_unused_columns=False, **settings_of(len(batch), dtype, folder))
        weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        trainer = WeightedTrainer(model=weights, args=settings, train_dataset=scaled, data_collator=collate)  # pyright: ignore[reportArgumentType]
        return timed(trainer, collate(scaled[:ROWS]))


def measure_trl(model: str, dtype: str, batch: Sequence[Example]) -> float:
    """TRL has no weights: every trajectory counts the same, its terminal response is the completion."""
    from trl import SFTConfig, SFTTrainer  # of the extra `bench`

    rows = [
        {
            "input_ids": one.tokens,
            "completion_mask": [int(place >= one.spans[0][0]) for place in range(len(one.tokens))],
        }
        for one in batch
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=SFTConfig(completion_only_loss=True, max_length=None, **settings_of(len(batch), dtype, folder)),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        inputs = trainer.data_collator(rows[:ROWS])
        return timed(trainer, inputs)
