"""NeMo Gym's resources server: `POST /verify` grades the last assistant message of a Responses-API output."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict

from services.verifier.openrlhf import reward
from services.verifier.service import Verifier
from shared.errors import SpecError
from shared.grading import MAX_TEXT, Several, Text, VerifyItem

router = APIRouter(tags=["drop-in"])


class Open(BaseModel):
    """Gym passes a task's own fields along; they come back untouched."""

    model_config = ConfigDict(extra="allow")


class Content(Open):
    """A part of a message."""

    text: str = ""


class Output(Open):
    """A message, or a reasoning item or tool call, which is not graded."""

    type: str = "message"
    role: str = "assistant"
    content: str | list[Content] = ""

    def text(self) -> str:
        """The message's text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Completion(Open):
    """The Responses-API object."""

    output: list[Output]


class GymRequest(Open):
    """The rollout and the task's own answer; `options` (texts in order) make it multiple choice."""

    response: Completion
    expected_answer: Text | Several
    options: Several | None = None


class GymReply(GymRequest):
    """The request again, with its reward and the answer found."""

    reward: float
    extracted_answer: str | None
    verdict: str


EXAMPLES: dict[str, Example] = {
    "a rollout": {
        "value": {
            "response": {
                "output": [
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": r"So it is \boxed{2}."}],
                    }
                ]
            },
            "expected_answer": "2",
        }
    }
}


@router.post("/verify")
async def verify(request: Request, body: Annotated[GymRequest, Body(openapi_examples=EXAMPLES)]) -> GymReply:
    """Reward 1 for a correct answer, 0 for any other; `verdict` tells a wrong answer from an ungraded one."""
    verifier: Verifier = request.app.state.verifier
    said = [output.text() for output in body.response.output if output.type == "message" and output.role == "assistant"]
    if said and len(said[-1]) > MAX_TEXT:
        raise SpecError(f"The message has more than {MAX_TEXT} characters.", remedy="Send its end, with the answer.")
    item = VerifyItem(
        id="0",
        kind="choice" if body.options else "math",
        response=said[-1] if said else "",
        answer=body.expected_answer,
        choices=body.options,
    )
    result = (await verifier.verify([item]))[0]
    graded = {"reward": reward(result), "extracted_answer": result.extracted, "verdict": result.verdict}
    return GymReply.model_validate(body.model_dump() | graded)
