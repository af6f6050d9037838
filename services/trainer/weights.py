"""Where a model's weights are read from: safetensors in a folder or from the hub, one tensor at a time.

Nobody holds more of a model than it keeps: what is read is copied to its place and let go.
"""

import hashlib
from pathlib import Path
from typing import cast

from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "README.md"]
_SAMPLE = 1 << 20


def local_folder(source: str) -> Path:
    """The folder of a model that is named by its folder or by its place in the hub, downloaded where it is not here."""
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, allow_patterns=_FILES, ignore_patterns=["*/*"]))


def list_files(folder: Path) -> list[Path]:
    """The folder's safetensors files; raises `FileNotFoundError` where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors files")
    return files


def identify(source: str) -> str:
    """A fingerprint of the weights that changes when they do: size, header and both ends of every file."""
    digest = hashlib.sha256()
    for path in list_files(local_folder(source)):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest.update(f"{path.name}:{size}:".encode())
            for place in (0, max(0, size - _SAMPLE)):
                file.seek(place)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


class Weights:
    """Reads tensors by the names that transformers gives the parameters of its own classes."""

    def __init__(self, source: str, wanted: set[str]) -> None:
        """`wanted`: the names that will be read. Raises `ValueError` for a parameter that the files do not hold."""
        folder = local_folder(source)
        self._files = {
            name: file
            for file in (safe_open(path, framework="pt") for path in list_files(folder))
            for name in file.keys()  # noqa: SIM118 - not a mapping
        }
        self._converted: dict[str, Tensor] = {}
        if not wanted <= self._files.keys():  # some architectures rename or join weights when they are loaded
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            model, loading = cast(tuple[PreTrainedModel, dict[str, list[str]]], loaded)
            if loading["missing_keys"]:
                raise ValueError(f"{folder} holds no weights for {', '.join(sorted(loading['missing_keys'])[:5])}")
            self._converted = model.state_dict()

    def __contains__(self, name: str) -> bool:
        return name in (self._converted or self._files)

    def read(self, name: str) -> Tensor:
        """The whole tensor, in the dtype that it is stored in."""
        return self._converted[name] if self._converted else self._files[name].get_tensor(name)
