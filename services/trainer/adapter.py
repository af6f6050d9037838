"""LoRA through peft: which weights are trained, how they begin, and the folder that they end up in.

Adapters are float32 and begin as a function of the task's seed and their names, for any number of ranks. A stage
that begins with an adapter folder continues that adapter.
"""

import hashlib
import math
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from shared.training import LoraSpec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def base_of(source: str) -> str:
    """The base model that a source rests on: an adapter folder names its own, any other source is one."""
    if not (Path(source) / CONFIG).is_file():
        return source
    return str(PeftConfig.from_pretrained(source).base_model_name_or_path)


def attach_adapter(model: PreTrainedModel, source: str, spec: LoraSpec) -> LoraConfig:
    """Freeze the model and put an adapter in, on the meta device; returns its configuration.

    Raises `ValueError` for one that could not be trained, exported or, where `source` is one, continued as asked.
    """
    if (Path(source) / CONFIG).is_file():
        config = cast(LoraConfig, PeftConfig.from_pretrained(source))
        config.inference_mode = False
        if (config.r, config.lora_alpha) != (spec.r, spec.alpha):
            raise ValueError(
                f"the adapter {source} has r {config.r} and alpha {config.lora_alpha}, "
                f"`train.lora` says {spec.r} and {spec.alpha}"
            )
        config.lora_dropout = spec.dropout
    else:
        config = LoraConfig(
            r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=spec.target_modules,
            task_type="CAUSAL_LM",
            base_model_name_or_path=source,
        )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    if odd := [name for name, module in adapted if not isinstance(module.get_base_layer(), nn.Linear)]:
        raise ValueError(f"`train.lora.target_modules` names {', '.join(odd)}: no linear layer")
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if spec.merge and isinstance(head, LoraLayer) and head.get_base_layer().weight is embeddings.weight:
        raise ValueError("an adapter of the output layer cannot be merged: its weights are the input embeddings, too")
    return config


def begin_adapter(model: nn.Module, source: str, seed: int) -> dict[str, Tensor]:
    """The whole adapter on the CPU by parameter name: from the folder, or A uniform as nn.Linear's, B zero."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    if (Path(source) / WEIGHTS).is_file():
        stored = load_file(Path(source) / WEIGHTS)
        return {name: stored[file_name(name)] for name in shapes}
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        weights[name] = torch.zeros(shape)
        if "lora_A" in name:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            nn.init.kaiming_uniform_(weights[name], a=math.sqrt(5), generator=generator)
    return weights


def file_name(name: str) -> str:
    """What peft calls an adapter's parameter in its file."""
    return _PREFIX + name.replace(".default.", ".")
