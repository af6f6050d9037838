"""The model card of an export: what was trained on what, as far as the trainer knows it."""

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from yaml import YAMLError

from services.trainer.adapter import base_of
from services.trainer.weights import local_folder
from shared import __version__
from shared.training import TrainingStatus, TrainingTask

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - Markdown
)
_PACKAGES = ("torch", "transformers", "peft")


def write_card(task: TrainingTask, status: TrainingStatus) -> str:
    """The card as Markdown with the hub's metadata in front; `status` is that of the last step."""
    lora = task.train.lora
    adapter = lora is not None and not lora.merge
    base = task.tokenizer
    license = read_license(base_of(task.model)) or read_license(base)
    in_hub = not Path(base).is_dir()
    metadata = ModelCardData(
        base_model=base if in_hub else None,
        library_name="peft" if adapter else "transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["drift", "lora"] if adapter else ["drift"],
    )
    return _TEMPLATES.get_template("model_card.md.jinja").render(
        metadata=metadata.to_yaml(),
        name=f"{task.job}, stage {task.stage}",
        adapter=adapter,
        base=base if in_hub else Path(base).name,
        license=license,
        trained_from="the base" if task.stage == 0 else f"the policy of stage {task.stage - 1}",
        task=task,
        train=task.train,
        returns=task.returns,
        lora=lora,
        targets=_join(lora.target_modules) if lora else None,
        status=status,
        composition=status.composition,
        versions=", ".join([f"drift {__version__}", *(f"{package} {version(package)}" for package in _PACKAGES)]),
    )


def _join(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def read_license(source: str) -> str | None:
    """The licence that a model's own card states, where it can be read."""
    path = local_folder(source) / "README.md"
    if not path.is_file():
        return None
    try:
        stated = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict().get("license")
    except (ValueError, YAMLError):  # anybody may have written it: it must not cost a training that is done
        return None
    return str(stated) if stated else None
