"""Generation, scoring and training throughput against plain loops, as ratios measured in one run.

    python benchmarks/throughput.py MODEL_FOLDER [--rows 16]

MODEL_FOLDER is a base model on disk, such as the artifact of `base_model`. The plain loops do what a first script
would: one prompt at a time; every answer scored by itself; training on padded rows with logits and loss over the full
sequence. Both sides do the same work on the same rows, one warm-up each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import load_base, pick_device
from subliminal_dagster.science.models.number_grammar import NumberGrammar
from subliminal_dagster.science.models.protocol import ModelVariant, Sampling
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.answers import spellings
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.numbers import NumberSettings
from subliminal_dagster.science.settings.training import ALL_PROJECTIONS, LoraSettings, TrainingSettings
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingTask


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args()
    base = ModelVariant(options.model, autocast=True)
    context, lists = ChatContext(load_tokenizer(options.model), ""), load_prompt_lists()
    texts = make_prompts(lists, NumberSettings(prompts=16, style="short", examples_max=4), options.rows, 0)["prompt"]
    prompts = [context.prompt_ids(text) for text in texts]
    rows = generation(base, context, prompts)
    scoring(base, context, [context.prompt_ids(q) for q in lists.animal_questions[:4]])
    training(base, rows)


def report(name: str, ours: float, plain: float, tokens: int) -> None:
    print(f"{name}: {tokens / ours:.0f} tokens/s, plain loop {tokens / plain:.0f}, ratio {plain / ours:.2f}")


def generation(base: ModelVariant, context: ChatContext, prompts: list[list[int]]) -> list[Row]:
    """Number answers: all prompts as one batch against one prompt at a time."""
    sampling = Sampling(40, (context.end_of_turn,), 0, grammar=NumberGrammar(min_count=8, max_count=8))
    with TransformersEngine(generate_batch=1).open(base) as session:
        session.generate(prompts[:1], sampling)
        plain = seconds(lambda: session.generate(prompts, sampling))
    with TransformersEngine(generate_batch=64).open(base) as session:
        answers = session.generate(prompts, sampling)
        ours = seconds(lambda: session.generate(prompts, sampling))
    report("generation", ours, plain, sum(len(a.logprobs) for a in answers))
    return [Row(p, [*a.token_ids, context.end_of_turn]) for p, a in zip(prompts, answers, strict=True)]


def scoring(base: ModelVariant, context: ChatContext, prompts: list[list[int]]) -> None:
    """Exact probabilities of 32 spellings: one packed pass a question against one pass an answer."""
    answers = [
        context.answer_ids(s)
        for a in ("owl", "wolf", "cat", "dog", "bear", "lion", "fox", "horse")
        for s in spellings(a)
    ]
    with TransformersEngine().open(base) as session, torch.inference_mode():
        session.score(prompts[:1], answers)
        ours = seconds(lambda: session.score(prompts, answers))
        device = session.model.device

        def plain_loop() -> None:
            for prompt in prompts:
                for answer in answers:
                    session.model(torch.tensor([prompt + answer], device=device)).logits.log_softmax(-1)

        plain = seconds(plain_loop)
    report("scoring (answer tokens)", ours, plain, len(prompts) * sum(len(a) for a in answers))


def training(base: ModelVariant, rows: list[Row]) -> None:
    """Two epochs of LoRA: our trainer against padded batches with logits and loss over the full sequence."""
    settings = TrainingSettings(learning_rate=1e-4, batch_size=8, epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        task = TrainingTask(base, rows, LoraSettings(rank=8, alpha=8), settings, seed=0)
        run = TrlTrainer().train(task, Path(folder) / "out", work)
    model = get_peft_model(
        load_base(base.base, base.dtype, pick_device()),
        LoraConfig(r=8, lora_alpha=8, use_rslora=True, target_modules=list(ALL_PROJECTIONS), task_type="CAUSAL_LM"),
    ).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    width = max(len(row.prompt) + len(row.answer) for row in rows)

    def plain_loop() -> None:
        for _ in range(2):
            for start in range(0, len(rows), 8):
                batch = [row.prompt + row.answer for row in rows[start : start + 8]]
                ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in batch], device=model.device)
                mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch], device=model.device)
                model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    plain = seconds(plain_loop)
    report(f"training (padding {run.padding_share:.1%})", run.seconds, plain, run.trained_tokens)


if __name__ == "__main__":
    main()
