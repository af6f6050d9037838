"""Export to a plain folder that vLLM, transformers and peft load, there whole or not at all.

Full weights: safetensors in the source's dtype (in files of at most `SHARD_SIZE`), configuration, and a generation
configuration that names the special tokens and leaves sampling to the caller. LoRA: a PEFT adapter folder, or full
weights with the adapter added in. Both: tokenizer with its chat template, and the model card.
"""

import os
import shutil
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from services.trainer.adapter import WEIGHTS, base_of, file_name
from services.trainer.checkpoint import publish_folder
from services.trainer.model import kept_buffers
from services.trainer.ranks import Ranks
from shared.training import TrainingTask

SHARD_SIZE = "5GB"


def export(model: PreTrainedModel, task: TrainingTask, folder: Path, card: str, ranks: Ranks) -> None:
    """Write the folder; all ranks give their share of the weights, rank 0 writes."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if ranks.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    if task.train.lora and not task.train.lora.merge:
        _write_adapter(model, temporary, ranks)
    else:
        _write_model(model, base_of(task.model), temporary, ranks)
    if ranks.rank == 0:
        AutoTokenizer.from_pretrained(task.tokenizer, trust_remote_code=False).save_pretrained(temporary)
        (temporary / "README.md").write_text(card)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        publish_folder(temporary, folder)
    ranks.barrier()


def _write_adapter(model: PreTrainedModel, folder: Path, ranks: Ranks) -> None:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = {file_name(name): whole for name, whole in _gather(trained, None, ranks).items()}
    if ranks.rank == 0:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = cast(dict[str, LoraConfig], model.peft_config)["default"]
        config.inference_mode = True
        config.save_pretrained(str(folder))


def _write_model(model: PreTrainedModel, base: str, folder: Path, ranks: Ranks) -> None:
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16
    config.dtype = dtype
    weights = _gather(dict(model.named_parameters()), dtype, ranks, _scales(model))
    if ranks.rank == 0:
        weights |= {name: buffer.cpu() for name, buffer in kept_buffers(model).items()}
        model.save_pretrained(folder, state_dict=weights, max_shard_size=SHARD_SIZE)
        config.architectures = [type(model).__name__.removeprefix("FSDP")]
        config.save_pretrained(str(folder))
        source = model.generation_config or GenerationConfig()
        GenerationConfig(
            bos_token_id=source.bos_token_id, eos_token_id=source.eos_token_id, pad_token_id=source.pad_token_id
        ).save_pretrained(folder)


def _scales(model: nn.Module) -> dict[str, float]:
    """By name of an adapted weight: what its adapter's product counts."""
    return {
        f"{name}.base_layer.weight": cast(dict[str, float], module.scaling)["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def _gather(
    parameters: dict[str, nn.Parameter], dtype: torch.dtype | None, ranks: Ranks, scales: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """Whole weights on the CPU of rank 0, one tensor at a time; other ranks keep nothing.

    With `scales` adapters are added to the weights that they belong to, in float32, and are gone by their own names.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if scales is not None and ".lora_" in name:
            continue
        whole = _whole(parameter)
        if scales and name in scales:
            down = _whole(parameters[name.replace("base_layer", "lora_A.default")])
            up = _whole(parameters[name.replace("base_layer", "lora_B.default")])
            whole = whole.float() + scales[name] * (up.float() @ down.float())
        if ranks.rank == 0:
            weights[name.replace(".base_layer.", ".")] = whole.to("cpu", dtype).contiguous()
    return weights


def _whole(parameter: nn.Parameter) -> Tensor:
    tensor = parameter.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
