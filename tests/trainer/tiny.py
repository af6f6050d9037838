"""A tiny random Llama with a tiny tokenizer, and made-up trajectories that fit it."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shared.grading import Verdict
from shared.trajectory import Ending, Problem, Trajectory, Turn

VOCABULARY = 64
END = 2


def make_model(seed: int = 0, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """Float32, random weights, two layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=END,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def save_model(folder: Path, seed: int = 0, vocabulary: int = VOCABULARY) -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    model = make_model(seed, vocabulary)
    model.generation_config.temperature = 0.3
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": END} | {f"w{index}": index for index in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} </s> {% endfor %}"
    fast.save_pretrained(folder)
    return folder


def make_trajectory(
    job: str = "job",
    group: int = 0,
    k: int = 0,
    group_size: int = 4,
    verdicts: Sequence[Verdict] = (Verdict.CORRECT,),
    *,
    ending: Ending | None = None,
    stage: int = 0,
    answers: Sequence[str] | None = None,
    seed: int | None = None,
) -> Trajectory:
    """An episode with random tokens; each turn's context is the one before, its answer and the feedback."""
    rng = random.Random(f"{seed}:{group}:{k}")
    prompt = [1, *(random.Random(f"{seed}:{group}").randrange(3, VOCABULARY) for _ in range(5 + group % 7))]
    turns: list[Turn] = []
    for place, verdict in enumerate(verdicts):
        stopped = rng.random() < 0.8
        tokens = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 6))] + [END] * stopped
        answer = None if verdict is Verdict.UNPARSABLE else answers[place] if answers else rng.choice("ABCD")
        turns.append(
            Turn(
                prompt_token_ids=list(prompt),
                token_ids=tokens,
                text=" ".join(f"w{token}" for token in tokens if token != END),
                finish_reason="stop" if stopped else "length",
                verdict=verdict,
                answer=answer,
                normal_form=answer,
                method="choice" if answer else None,
            )
        )
        prompt += [*tokens, *[END] * (not stopped), 5, 6, 7]
    solved = bool(turns) and turns[-1].verdict is Verdict.CORRECT
    return Trajectory(
        job=job,
        phase="rollout",
        stage=stage,
        policy="base",
        group=group,
        k=k,
        group_size=group_size,
        problem=Problem(id=f"p{group}", kind="choice", problem="?", answer="B", choices=["a", "b"]),
        turns=turns,
        ending=ending or ("solved" if solved else "max_turns"),
        engine="scripted",
        model="tiny",
    )


def make_groups(
    job: str = "job", groups: int = 6, group_size: int = 4, *, stage: int = 0, seed: int = 0
) -> list[Trajectory]:
    """Complete groups with a mix of outcomes over at most three turns."""
    made: list[Trajectory] = []
    for group in range(groups):
        for k in range(group_size):
            rng = random.Random(f"{seed}:{group}:{k}:outcome")
            solved_at = rng.choice([1, 2, 3, None])
            turns = solved_at or 3
            wrong = [rng.choice([Verdict.INCORRECT, Verdict.UNPARSABLE]) for _ in range(turns - bool(solved_at))]
            verdicts = [*wrong, *[Verdict.CORRECT] * bool(solved_at)]
            made.append(make_trajectory(job, group, k, group_size, verdicts, stage=stage, seed=seed))
    return made
