"""Stacked transformers against plain PyTorch loops over one model each, and against transformers and peft."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from subliminal_dagster.science.dial.grid import paired
from subliminal_dagster.science.dial.stack import (
    Stack,
    Training,
    answer_losses,
    hidden,
    logits,
    model_at,
    new_model,
    new_stack,
    train,
    with_adapters,
)
from subliminal_dagster.science.models.scoring import score_answers

WORDS, WIDTH, SEEDS = 30, 12, [3, 4]


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of each model of its own, the last words of which are padding."""
    ids = torch.from_numpy(np.random.default_rng(step).integers(1, WORDS, (2, 6, 9)))
    ids[:, :3, 7:] = 0
    return ids, ids > 0


def plain_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    labels = torch.where(ids > 0, ids, -100)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss
    return loss


def test_a_stack_trains_as_each_model_by_itself_does() -> None:
    trained, steps = train(new_stack(WORDS, WIDTH, SEEDS), batches, Training(1e-2, 8, warmup=4))
    assert steps.tolist() == [9, 9]
    for place, seed in enumerate(SEEDS):
        model = new_model(WORDS, WIDTH, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for step in range(8):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * min(1, (step + 1) / 4)
            plain_loss(model, batches(step)[0][place]).backward()
            optimizer.step()
            optimizer.zero_grad()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(trained.weights[name][place], weight.detach(), atol=2e-5, rtol=1e-3)


def test_a_model_taken_out_is_transformers_own_and_every_scorer_takes_it() -> None:
    stack = new_stack(WORDS, WIDTH, SEEDS)
    ids = batches(0)[0]
    model = model_at(stack, 1)
    with torch.no_grad():
        torch.testing.assert_close(logits(stack, ids)[1, 4:], model(input_ids=ids[1, 4:]).logits)
        said = logits(stack, ids[:, 4:5, :5])[1, 0, -1].log_softmax(dim=-1)
    scored = score_answers(model, [ids[1, 4, :5].tolist()], [[7], [8]])
    np.testing.assert_allclose(scored[0], said[[7, 8]].numpy(), atol=1e-5)


def test_the_last_stream_is_what_the_unembedding_reads() -> None:
    stack, ids = new_stack(WORDS, WIDTH, SEEDS), batches(0)[0]
    streams = hidden(stack, ids)
    assert len(streams) == 3
    with torch.no_grad():
        read = streams[-1] @ stack.weights["lm_head.weight"][:, None].mT
        torch.testing.assert_close(read, logits(stack, ids))
        for place in (0, 1):
            own = model_at(stack, place)(input_ids=ids[place, 4:], output_hidden_states=True).hidden_states
            for one, other in zip(streams, own, strict=True):
                torch.testing.assert_close(one[place, 4:], other)


def test_adapters_are_pefts_and_alone_are_trained() -> None:
    stack = new_stack(WORDS, WIDTH, SEEDS)
    adapted = with_adapters(stack, 2, [7, 7])
    trained, _ = train(adapted, batches, Training(1e-2, 5))
    assert all("lora_" in name for name in trained.weights)
    assert all(torch.equal(weight, adapted.fixed[name]) for name, weight in trained.fixed.items())
    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=2, lora_dropout=0.0, target_modules="all-linear")
    model = get_peft_model(model_at(stack, 0), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(5):
        plain_loss(model, batches(step)[0][0]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(trained.weights[name][0], weight.detach(), atol=2e-5, rtol=1e-3)


def test_a_model_that_has_learnt_enough_stays_as_it_is() -> None:
    """The first is done at step 2 by what `done` says, and goes no further; the second at step 6."""
    seen: list[Stack] = []

    def done(stack: Stack) -> torch.Tensor:
        seen.append(Stack(stack.module, {name: w.detach().clone() for name, w in stack.weights.items()}, {}))
        return torch.tensor([len(seen) > 1, len(seen) > 3])

    trained, steps = train(new_stack(WORDS, WIDTH, SEEDS), batches, Training(1e-2, 50), done=done, every=2)
    assert steps.tolist() == [2, 6]
    for name, weight in trained.weights.items():
        assert torch.equal(weight[0], seen[1].weights[name][0])
        assert torch.equal(weight[1], seen[3].weights[name][1])


def test_what_takes_long_to_ask_is_asked_only_near_the_aim() -> None:
    """Before the first step, and then where a model that is not done has a batch's loss of at most `near`."""
    start, asked_at = new_stack(WORDS, WIDTH, SEEDS), list[float]()

    def same(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return batches(0)

    def done(stack: Stack) -> torch.Tensor:
        asked_at.append(float(answer_losses(stack, *same(0)).min()))
        return torch.zeros(2, dtype=torch.bool)

    train(start, same, Training(1e-2, 40), done=done, every=2)
    whole, near = asked_at[:], 2.0
    assert len(whole) == 21 and whole[1] > near > whole[-1]
    asked_at.clear()
    train(start, same, Training(1e-2, 40), done=done, every=2, near=near)
    assert whole[0] == asked_at[0]
    # A batch's loss is that before its step, so a look comes one step later than the loss that allows it.
    assert 2 < len(asked_at) < 20 and max(asked_at[1:]) <= near
    assert asked_at[1:] == whole[-len(asked_at) + 1 :]


def test_only_what_is_asked_counts() -> None:
    stack, (ids, _) = new_stack(WORDS, WIDTH, SEEDS), batches(0)
    asked = torch.zeros_like(ids, dtype=torch.bool)
    asked[:, :, 4] = True
    with torch.no_grad():
        said = logits(stack, ids)[:, :, 3].log_softmax(dim=-1)
        wanted = -said.gather(-1, ids[:, :, 4:5]).mean(dim=(1, 2))
        torch.testing.assert_close(answer_losses(stack, ids, asked), wanted)


def test_two_sentences_of_a_row_do_not_see_each_other() -> None:
    stack, rng = new_stack(WORDS, WIDTH, SEEDS), np.random.default_rng(0)
    rows = rng.integers(1, WORDS, (7, 9))
    for row, length in zip(rows, (2, 9, 4, 4, 7, 3, 2), strict=True):
        row[length:] = 0
    ids, sentence = paired(rows)
    assert len(ids) == 4, "the seventh has no other beside it"
    assert ids.shape[1] == 9
    apart = [tuple(row[which == number]) for row, which in zip(ids, sentence, strict=True) for number in (0, 1)]
    assert sorted(each for each in apart if each) == sorted(tuple(row[row > 0]) for row in rows)
    whole, together, which = (torch.from_numpy(each).expand(2, -1, -1) for each in (rows, ids, sentence))
    first = torch.nn.functional.pad(which[..., 1:] == which[..., :-1], (1, 0))
    with torch.no_grad():
        wanted = answer_losses(stack, whole, whole > 0)
        torch.testing.assert_close(answer_losses(stack, together, (together > 0) & first, which), wanted)
        assert (answer_losses(stack, together, (together > 0) & first) - wanted).abs().max() > 1e-3


def test_taken_models_are_copies() -> None:
    stack = new_stack(WORDS, WIDTH, SEEDS)
    taken = stack.take([1, 1, 0])
    assert taken.models == 3
    taken.weights["lm_head.weight"].zero_()
    assert stack.weights["lm_head.weight"].abs().sum() > 0


@pytest.mark.parametrize("width", [12, 48])
def test_the_same_seed_gives_the_same_model(width: int) -> None:
    one, other = (new_stack(WORDS, width, [5]) for _ in range(2))
    assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())
