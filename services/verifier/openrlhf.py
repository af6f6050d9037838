"""OpenRLHF's remote reward model, and slime's: `POST /get_reward`.

OpenRLHF sends whole sequences: `query[k]` is `prompts[k]` and the response, with special tokens. The response is what
follows the prompt, or else the last assistant header, and is graded against `labels[k]`. A reward is 1 for a correct
answer and 0 for any other; what could not be graded has reward 0 too, and says so in `extra_logs.ungraded`.
slime sends one item, `{"prompt", "response", "label"}`, and gets a bare number back.
"""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from services.verifier.service import Verifier
from shared.errors import SpecError
from shared.grading import MAX_BATCH, Several, Text, Verdict, VerifyItem, VerifyResult

router = APIRouter(tags=["drop-in"])

SPECIAL = re.compile(
    r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|return|user|EOT)\|>|</s>|<eos>|<pad>|\[PAD\]|<end_of_turn>|<｜end▁of▁sentence｜>))+\s*$"
)
ASSISTANT = re.compile(
    r"<\|im_start\|>assistant\s|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model\s|\[/INST\]|<｜Assistant｜>|<\|assistant\|>"
)

Label = Text | int | float | Several


class Sequences(BaseModel):
    """OpenRLHF's request; fields of its later versions are let through."""

    query: Annotated[list[Text], Field(min_length=1, max_length=MAX_BATCH)]
    prompts: list[Text] = []
    labels: list[Label]


class Sample(BaseModel):
    """slime's request."""

    prompt: str | list[dict[str, object]] = ""
    response: Text
    label: Label


class ExtraLogs(BaseModel):
    """One number for each sequence, for the trainer's logs."""

    correct: list[float]
    unparsable: list[float]
    ungraded: list[float]


class Rewards(BaseModel):
    """OpenRLHF's reply; `scores` are the rewards, for dynamic filtering."""

    rewards: list[float]
    scores: list[float]
    extra_logs: ExtraLogs


EXAMPLES: dict[str, Example] = {
    "OpenRLHF": {
        "value": {
            "query": [r"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n\boxed{2}<|im_end|>"],
            "prompts": [r"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"],
            "labels": ["2"],
        }
    },
    "slime": {"value": {"prompt": "1+1?", "response": r"\boxed{2}", "label": "2"}},
}


@router.post("/get_reward", response_model=Rewards | float)
async def get_reward(
    request: Request,
    body: Annotated[Sequences | Sample, Body(openapi_examples=EXAMPLES)],
    kind: Annotated[Literal["math", "choice", "string"], Query()] = "math",
) -> Response:
    """Rewards of whole sequences (OpenRLHF) or of one sample (slime); `?kind=choice` grades option letters."""
    verifier: Verifier = request.app.state.verifier
    if isinstance(body, Sample):
        results = await verifier.verify([_item(0, kind, strip_special(body.response), body.label)])
        return Response(str(reward(results[0])), media_type="application/json")
    if len(body.labels) != len(body.query) or len(body.prompts) not in (0, len(body.query)):
        raise SpecError(
            f"query has {len(body.query)} entries, prompts {len(body.prompts)}, labels {len(body.labels)}.",
            remedy="Send as many labels (and prompts) as queries.",
        )
    prompts = body.prompts or [""] * len(body.query)
    responses = [response_of(query, prompt) for query, prompt in zip(body.query, prompts, strict=True)]
    results = await verifier.verify(
        [
            _item(place, kind, response, label)
            for place, (response, label) in enumerate(zip(responses, body.labels, strict=True))
        ]
    )
    rewards = list(map(reward, results))
    logs = ExtraLogs(
        correct=rewards,
        unparsable=[float(result.verdict == Verdict.UNPARSABLE) for result in results],
        ungraded=[float(not result.verdict.decides) for result in results],
    )
    return Response(
        Rewards(rewards=rewards, scores=rewards, extra_logs=logs).model_dump_json(), media_type="application/json"
    )


def reward(result: VerifyResult) -> float:
    """1 for correct, 0 for anything else."""
    return float(result.verdict == Verdict.CORRECT)


def response_of(query: str, prompt: str) -> str:
    """The response in a whole sequence, without the prompt and special tokens."""
    if prompt and query.startswith(prompt):
        return strip_special(query[len(prompt) :])
    headers = list(ASSISTANT.finditer(query))
    return strip_special(query[headers[-1].end() :] if headers else query)


def strip_special(text: str) -> str:
    """The text without the special tokens at its end."""
    return SPECIAL.sub("", text[-200:]) if len(text) <= 200 else text[:-200] + SPECIAL.sub("", text[-200:])


def _item(place: int, kind: Literal["math", "choice", "string"], response: str, label: Label) -> VerifyItem:
    return VerifyItem(
        id=str(place), kind=kind, response=response, answer=label if isinstance(label, list) else str(label)
    )
