"""Promises of the export: a plain folder, in several files where it is large, with a card that states the facts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from services.trainer import export as export_module
from services.trainer.card import write_card
from services.trainer.executor import Executor
from services.trainer.orders import Begin, Export
from services.trainer.ranks import Ranks
from shared.measures import Composition
from shared.returns import ReturnSpec
from shared.training import TrainingState, TrainingStatus, TrainingTask, TrainSpec
from tests.trainer.tiny import VOCABULARY, save_model

STATUS = TrainingStatus(
    state=TrainingState.RUNNING, stage=1, step=2, steps=2, trajectories=96, skipped=7, skipped_mass=3.21e-4,
    skipped_token_share=0.25, effective_sample_size=2.75, losses=[1.5, 1.25], held_out_groups=3,
    held_out_losses=[(0, 1.75), (2, 1.125)], composition=Composition(complete=24, all_correct=2, all_wrong=5, mixed=17),
)  # fmt: skip


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TrainingTask:
    base = save_model(tmp_path_factory.mktemp("tiny-base"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# The base\n")
    GenerationConfig(bos_token_id=1, eos_token_id=[2, 9], pad_token_id=2, do_sample=True, top_k=20).save_pretrained(
        base
    )
    return TrainingTask(
        job="job-7", stage=1, model=str(base), tokenizer=str(base), groups=24, group_size=4,
        train=TrainSpec(steps=2, batch_size=8), returns=ReturnSpec(gamma=0.85),
    )  # fmt: skip


def export(ranks: Ranks, task: TrainingTask, folder: Path) -> Executor:
    executor = Executor(ranks, Begin(task=task, dtype="float32", checkpoint=None))
    executor.export(Export(folder=str(folder), card=write_card(task, STATUS)))
    return executor


def test_a_large_model_is_written_in_several_files_that_load_as_one(
    ranks: Ranks, task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "SHARD_SIZE", "30KB")
    executor = export(ranks, task, tmp_path / "export")
    assert len(list((tmp_path / "export").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "export" / "model.safetensors.index.json").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in executor.model.named_parameters())
    again = Executor(
        ranks, Begin(task=task.model_copy(update={"model": str(tmp_path / "export")}), dtype="float32", checkpoint=None)
    )
    wanted = dict(executor.model.named_parameters())
    assert all(torch.equal(wanted[name], value) for name, value in again.model.named_parameters())


def test_special_tokens_and_chat_template_are_kept_and_sampling_defaults_are_not(
    ranks: Ranks, task: TrainingTask, tmp_path: Path
) -> None:
    export(ranks, task, tmp_path / "export")
    generation = GenerationConfig.from_pretrained(tmp_path / "export")
    assert (generation.eos_token_id, generation.pad_token_id) == ([2, 9], 2)
    assert not generation.do_sample and generation.top_k != 20
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(task.tokenizer).chat_template


def test_an_export_that_a_crash_cut_short_is_no_export(
    ranks: Ranks, task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export_module, "publish_folder", crash)
    with pytest.raises(OSError, match="no space"):
        export(ranks, task, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    monkeypatch.undo()
    export(ranks, task, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_card_states_the_jobs_facts(task: TrainingTask) -> None:
    card = ModelCard(write_card(task, STATUS))
    metadata = card.data.to_dict()
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "transformers"
    assert "base_model" not in metadata, "a folder of this machine is no model of the hub"
    for fact in (
        Path(task.tokenizer).name, "job-7, 1", "the policy of stage 0", "24 complete groups of 4", "17 mixed",
        "96 trajectories", "objective `drift`", "3 groups held out", "0.85, 0.1", "0.5, 0.1", "2.75 of 4",
        "7 trajectories, 0.000321 of the weight, 0.25 of the tokens", "2, 8", "1.5 at the first step, 1.25 at the last",
        "1.75 before, 1.125 after", f"torch {torch.__version__}",
    ):  # fmt: skip
        assert fact in card.text, fact
    assert str(Path(task.tokenizer).parent) not in card.content, "no path of this machine"


@pytest.mark.parametrize("readme", [b"---\nlicense: [mit\n---\n", b"licence: M\xefT", b"---\njust words\n---\n"])
def test_a_base_whose_card_cannot_be_read_costs_the_licence_and_not_the_training(
    task: TrainingTask, tmp_path: Path, readme: bytes
) -> None:
    base = save_model(tmp_path)
    (base / "README.md").write_bytes(readme)
    card = ModelCard(write_card(task.model_copy(update={"model": str(base), "tokenizer": str(base)}), STATUS))
    assert "license" not in card.data.to_dict()


def test_buffers_that_belong_to_the_weights_are_loaded_and_exported_with_them(
    ranks: Ranks, task: TrainingTask, tmp_path: Path
) -> None:
    """As the bias by which some mixtures of experts route: from zeros another model would be trained."""
    config = AutoConfig.for_model(
        "glm4_moe", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, n_routed_experts=4,
        num_experts_per_tok=2, first_k_dense_replace=1, max_position_embeddings=512, pad_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    bias = torch.tensor([0.5, -0.25, 1.0, 0.125])
    model.get_buffer(name).copy_(bias)
    shutil.copytree(task.model, tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    executor = export(ranks, task.model_copy(update={"model": str(tmp_path / "base")}), tmp_path / "export")
    assert torch.equal(executor.model.get_buffer(name), bias)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "export").get_buffer(name), bias)


def test_a_base_without_a_card_has_no_licence_made_up(task: TrainingTask, tmp_path: Path) -> None:
    base = str(save_model(tmp_path))
    card = ModelCard(write_card(task.model_copy(update={"model": base, "tokenizer": base}), STATUS))
    assert "license" not in card.data.to_dict() and "not stated in its folder" in card.text
