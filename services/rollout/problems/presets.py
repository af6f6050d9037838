"""The paper's training and evaluation sets by name: where each lies on the hub, and how its rows are written.

A set that lies in the data root as `NAME_SPLIT` (or, for its usual split, `NAME`) with any known ending is read from
there; the file may hold this project's fields or the hub's. Column names were compared with public code that reads
these sets; `theoremqa`'s, and `svamp`'s `ID`, are unverified.
"""

from pathlib import Path

from services.rollout.problems.files import ENDINGS
from services.rollout.problems.layout import Layout
from shared.errors import DatasetError
from shared.schema import Schema


class Preset(Schema):
    """One named set."""

    name: str
    title: str
    hub: str
    """Hugging Face dataset."""
    config: str | None = None
    """Its configuration; absent takes all of them, one after the other."""
    split: str = "test"
    """The split that is taken where a job names none; `all` is every split."""
    splits: tuple[str, ...]
    rows: int
    """Problems of the usual split, as published; 0 where only a part of the rows is taken."""
    layout: Layout
    distinct: bool = False
    """Whether a problem whose text has been read before is left out."""
    template: str
    """The paper's prompt for it (D.7)."""
    licence: str
    gated: bool = False
    """The hub asks for consent first: accept the terms there and set HF_TOKEN, or put the file into the data root."""
    file: str | None = None
    """Name of its file in the data root; absent is the preset's own."""
    note: str | None = None

    def find_file(self, data_root: Path, split: str) -> str | None:
        """The set's file in the data root, if it is there."""
        stem = self.file or self.name
        stems = [f"{stem}_{split}", *([stem] if split == self.split else [])]
        names = (f"{stem}{ending}" for stem in stems for ending in ENDINGS)
        return next((name for name in names if (data_root / name).is_file()), None)


_ARC = Layout(kind="choice", problem=("question",), answer="answerKey", answer_form="label", choices="choices", id="id")
_REDUX = Layout(kind="choice", problem=("question",), answer="answer", answer_form="index", choices="choices")

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="metamath_math",
            title="MetaMathQA, the part that comes from MATH",
            hub="meta-math/MetaMathQA",
            split="train",
            splits=("train",),
            rows=0,
            layout=Layout(
                kind="math",
                problem=("query",),
                answer="response",
                answer_form="after_the_answer_is",
                where={"type": ("MATH_AnsAug", "MATH_Rephrased", "MATH_FOBAR", "MATH_SV")},
            ),
            distinct=True,
            template="paper_math",
            licence="MIT",
            note="The paper's training set. MATH_AnsAug repeats its questions; each question is taken once.",
        ),
        Preset(
            name="math",
            title="MATH, all seven subjects",
            hub="EleutherAI/hendrycks_math",
            splits=("train", "test"),
            rows=5000,
            layout=Layout(kind="math", problem=("problem",), answer="solution", answer_form="boxed"),
            template="paper_math",
            licence="MIT",
        ),
        Preset(
            name="math500",
            title="MATH500",
            hub="HuggingFaceH4/MATH-500",
            splits=("test",),
            rows=500,
            layout=Layout(kind="math", problem=("problem",), answer="answer", id="unique_id"),
            template="paper_math",
            licence="MIT (MATH)",
        ),
        Preset(
            name="theoremqa",
            title="TheoremQA",
            hub="TIGER-Lab/TheoremQA",
            splits=("test",),
            rows=800,
            layout=Layout(kind="math", problem=("Question",), answer="Answer"),
            template="paper_math",
            licence="MIT",
            note="53 of the 800 questions refer to a picture that a text model does not see; the paper counts all 800.",
        ),
        Preset(
            name="mmlu_redux",
            title="MMLU-Redux 2.0, all 57 subjects",
            hub="edinburgh-dawg/mmlu-redux-2.0",
            splits=("test",),
            rows=5700,
            layout=_REDUX,
            template="paper_choice",
            licence="CC BY 4.0",
            note="Every row with MMLU's own answer, as the paper counts; mmlu_redux_ok leaves out the faulty ones.",
        ),
        Preset(
            name="mmlu_redux_ok",
            title="MMLU-Redux 2.0, only the items found to be without fault",
            hub="edinburgh-dawg/mmlu-redux-2.0",
            splits=("test",),
            rows=0,
            layout=_REDUX.model_copy(update={"where": {"error_type": ("ok",)}}),
            template="paper_choice",
            licence="CC BY 4.0",
            file="mmlu_redux",
        ),
        Preset(
            name="mmlu_pro",
            title="MMLU-Pro",
            hub="TIGER-Lab/MMLU-Pro",
            splits=("validation", "test"),
            rows=12032,
            layout=Layout(
                kind="choice",
                problem=("question",),
                answer="answer_index",
                answer_form="index",
                choices="options",
                id="question_id",
            ),
            template="paper_choice",
            licence="MIT",
        ),
        Preset(
            name="gpqa_diamond",
            title="GPQA, the diamond set",
            hub="Idavidrein/gpqa",
            config="gpqa_diamond",
            split="train",
            splits=("train",),
            rows=198,
            layout=Layout(
                kind="choice",
                problem=("Question",),
                answer="Correct Answer",
                answer_form="first_option",
                choices=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
                id="Record ID",
            ),
            template="paper_choice",
            licence="CC BY 4.0; its authors ask not to publish the questions",
            gated=True,
            note="The order of the options is a function of the record's id.",
        ),
        Preset(
            name="arc_easy",
            title="ARC-Easy",
            hub="allenai/ai2_arc",
            config="ARC-Easy",
            splits=("train", "validation", "test"),
            rows=2376,
            layout=_ARC,
            template="paper_choice",
            licence="CC BY-SA 4.0",
        ),
        Preset(
            name="arc_challenge",
            title="ARC-Challenge",
            hub="allenai/ai2_arc",
            config="ARC-Challenge",
            splits=("train", "validation", "test"),
            rows=1172,
            layout=_ARC,
            template="paper_choice",
            licence="CC BY-SA 4.0",
        ),
        Preset(
            name="openbookqa",
            title="OpenBookQA",
            hub="allenai/openbookqa",
            config="main",
            splits=("train", "validation", "test"),
            rows=500,
            layout=_ARC.model_copy(update={"problem": ("question_stem",)}),
            template="paper_choice",
            licence="Apache-2.0 (its repository; the hub's card names none)",
        ),
        Preset(
            name="gsm8k",
            title="GSM8K",
            hub="openai/gsm8k",
            config="main",
            splits=("train", "test"),
            rows=1319,
            layout=Layout(kind="math", problem=("question",), answer="answer", answer_form="after_hashes"),
            template="paper_math",
            licence="MIT",
        ),
        Preset(
            name="svamp",
            title="SVAMP",
            hub="ChilleD/SVAMP",
            split="all",
            splits=("all", "train", "test"),
            rows=1000,
            layout=Layout(kind="math", problem=("Body", "Question"), answer="Answer", id="ID"),
            template="paper_math",
            licence="MIT",
        ),
    )
}
"""By name."""


def get_preset(name: str) -> Preset:
    """Raises `DatasetError` for a name that is not known."""
    if name not in PRESETS:
        raise DatasetError(f"There is no preset {name[:64]!r}.", remedy=f"Use {', '.join(PRESETS)}.")
    return PRESETS[name]


def layout_of(repo: str, config: str | None) -> Layout | None:
    """How the rows of a hub dataset are written, where it is one of the known sets."""
    known = [preset for preset in PRESETS.values() if preset.hub == repo and preset.config in (None, config)]
    return known[0].layout.model_copy(update={"where": {}}) if known else None
