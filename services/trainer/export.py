"""Export to a plain Hugging Face folder that vLLM and transformers load: safetensors in the source's dtype,
tokenizer, chat template, configuration, and a neutral generation configuration (sampling is the caller's business).
The folder is there whole or not at all.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from services.trainer.checkpoint import publish_folder
from services.trainer.ranks import Ranks
from shared.job import TrainingTask


def export(model: PreTrainedModel, task: TrainingTask, folder: Path, ranks: Ranks) -> None:
    """Write the model; all ranks give their share of the weights, rank 0 writes."""
    config = AutoConfig.from_pretrained(task.model, trust_remote_code=False)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16
    config.dtype = dtype
    weights = _gather(model, dtype, ranks)
    if ranks.rank == 0:
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, state_dict=weights)
        config.architectures = [type(model).__name__.removeprefix("FSDP")]
        config.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(task.tokenizer, trust_remote_code=False).save_pretrained(temporary)
        source = model.generation_config or GenerationConfig()
        GenerationConfig(
            bos_token_id=source.bos_token_id, eos_token_id=source.eos_token_id, pad_token_id=source.pad_token_id
        ).save_pretrained(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        publish_folder(temporary, folder)
    ranks.barrier()


def _gather(model: nn.Module, dtype: torch.dtype, ranks: Ranks) -> dict[str, Tensor]:
    """The whole weights on the CPU of rank 0, one tensor at a time; other ranks keep nothing."""
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        whole = parameter.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if ranks.rank == 0:
            weights[name] = whole.to("cpu", dtype)
    return weights
