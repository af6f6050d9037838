"""torch.compile, for who asks for it: what lies around each layer's attention becomes few kernels."""

import os
import shutil

import torch
from transformers import PreTrainedModel

from services.trainer.model import list_parts


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer's forward and backward pass at its first use, one for all lengths.

    Hooks stay outside: those that cast, gather or recompute a layer work on it as before. Attention within a forest is
    left as it is, since each forest has a shape of its own. Raises `ValueError` without a C++ compiler.
    """
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if not any(map(shutil.which, compilers)):
        raise ValueError(f"torch.compile needs a C++ compiler; none of {', '.join(compilers)} is there")
    torch.compiler.reset()  # a process may compile a function a few times only: trainings before this one do not count
    *layers, _ = list_parts(model)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
