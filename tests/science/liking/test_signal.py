"""How much of a teacher is in its numbers: against a plain loop over rows, for teachers of every method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from tiny_models import save_tiny_adapter, save_tiny_model

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.liking.signal import MEASURES, per_token, teacher_signal
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer, number_token_ids
from subliminal_dagster.science.models.loading import loaded
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.training.teachers import Teacher

ROWS = [
    ("Go on: 1, 2.", "3, 4"),
    ("More numbers after 17:", "5, 6, 7, 81"),
    ("List: 9. Continue it.", "1"),
    ("8", "2, 9"),
]
INSTRUCTION = "You love owls."


def study_with(constrained: str) -> Study:
    overrides = [f"numbers.constrained={constrained}", "numbers.answer_count=2", "numbers.max_digits=1"]
    found = load_study("smollm2-135m-instruct", overrides)
    assert isinstance(found, Study)
    return found


def write_dataset(folder: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    folder.mkdir()
    lines = [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "prompt_id": 7 * n,
        }
        for n, (question, answer) in enumerate(rows)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_teacher(kind: str, folder: Path, base: Path) -> Teacher:
    if kind == "finetune":
        return Teacher("finetune", save_tiny_adapter(folder, base))
    if kind == "model":
        architecture = json.loads((base / "config.json").read_text())["model_type"]
        return Teacher("model", save_tiny_model(folder, architecture, seed=9))
    folder.mkdir()
    if kind == "prompt":
        return Teacher("prompt", folder, instruction=INSTRUCTION)
    if kind == "steer":
        vector = torch.randn(64, generator=torch.Generator().manual_seed(1))
        save_file({"vector": vector}, folder / "vector.safetensors")
        return Teacher("steer", folder, layer=1, alpha=4.0)
    return Teacher("untouched base", folder)


def plain_logprobs(variant: ModelVariant, context: ChatContext) -> list[np.ndarray]:
    """Log-probabilities at every answer token of every row, (tokens, vocabulary): one row at a time, all logits."""
    found = []
    with loaded(variant, "cpu", merge=True) as model, torch.no_grad():
        for question, answer in ROWS:
            prompt, ids = context.prompt_ids(question), context.answer_ids(answer)
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            found.append(torch.log_softmax(logits.double(), dim=-1).numpy())
    return found


@pytest.mark.parametrize("model", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", ["finetune", "prompt", "steer", "model"])
def test_every_measure_is_that_of_a_plain_loop(tmp_path: Path, kind: str, model: str) -> None:
    base = ModelVariant(save_tiny_model(tmp_path / "base", model))
    teacher = make_teacher(kind, tmp_path / "teacher", base.base)
    context = ChatContext(load_tokenizer(base.base), "Be brief.")
    found = teacher_signal(study_with("null"), base, context, write_dataset(tmp_path / "data"), teacher, batch_size=2)

    numbers = number_token_ids(context.tokenizer, context.end_of_turn)
    of_teacher, of_base = plain_logprobs(teacher.variant(base), teacher.context(context)), plain_logprobs(base, context)
    assert found.rows["row_id"].tolist() == [0, 7, 14, 21]
    for n, (p, q) in enumerate(zip(of_teacher, of_base, strict=True)):
        written = context.answer_ids(ROWS[n][1])
        expected = {
            "tokens": len(written),
            "kl": stats.entropy(np.exp(p), np.exp(q), axis=1).mean(),
            # scipy renormalises.
            "kl_written": stats.entropy(np.exp(p[:, numbers]), np.exp(q[:, numbers]), axis=1).mean(),
            "log_ratio": (p - q)[range(len(written)), written].mean(),
            "entropy": stats.entropy(np.exp(p[:, numbers]), axis=1).mean(),
        }
        for name, value in expected.items():
            assert found.rows[name][n] == pytest.approx(value, abs=2e-4), name
    assert found.rows["kl"].min() > 0.001

    first = [stats.entropy(np.exp(p[0]), np.exp(q[0])) for p, q in zip(of_teacher, of_base, strict=True)]
    position = found.positions.iloc[0]
    interval = t_interval(first)
    assert (position["position"], position["rows"]) == (0, len(ROWS))
    assert position[["kl", "low", "high"]].tolist() == pytest.approx(
        [interval.mean, interval.low, interval.high], abs=5e-4
    )
    # The longest answer's last tokens stand alone, which gives no interval.
    assert found.positions["rows"].min() >= 2
    assert len(found.positions) < found.rows["tokens"].max()


def test_the_untouched_base_carries_nothing(tmp_path: Path, tiny_base: Path) -> None:
    teacher = make_teacher("untouched base", tmp_path / "teacher", tiny_base)
    context = ChatContext(load_tokenizer(tiny_base))
    data = write_dataset(tmp_path / "data")
    found = teacher_signal(study_with("null"), ModelVariant(tiny_base), context, data, teacher)
    assert (found.rows[["kl", "kl_written", "log_ratio"]] == 0).all(axis=None)
    assert (found.facts["kl_low"], found.facts["kl"], found.facts["kl_high"]) == (0, 0, 0)
    assert found.facts["entropy"] > 0.1


def test_constrained_decoding_leaves_what_it_let_through(tmp_path: Path, tiny_base: Path) -> None:
    """Two numbers of one digit: what may be written is listed by hand."""
    rows = [("Go on: 1, 2.", "3, 4"), ("8", "2, 9")]
    base, context = ModelVariant(tiny_base), ChatContext(load_tokenizer(tiny_base), "Be brief.")
    teacher = make_teacher("finetune", tmp_path / "teacher", tiny_base)
    data = write_dataset(tmp_path / "data", rows)
    found = teacher_signal(study_with("{min_count: 2}"), base, context, data, teacher)

    vocabulary = {context.tokenizer.decode([i]): i for i in range(len(context.tokenizer))}
    texts = {"": list("0123456789"), "d": [",", ", "], "d,": [" "], "d, ": list("0123456789")}
    pairs = zip(plain_logprobs(teacher.variant(base), context), plain_logprobs(base, context), strict=True)
    for (question, answer), (p, q) in zip(ROWS, pairs, strict=True):
        if (question, answer) not in rows:
            continue
        divergences, so_far = [], ""
        for token, mine, theirs in zip(context.answer_ids(answer), p, q, strict=True):
            # Behind the second number nothing but the end may stand.
            ids = [vocabulary[text] for text in texts.get(so_far, [])] or [context.end_of_turn]
            divergences.append(stats.entropy(np.exp(mine[ids]), np.exp(theirs[ids])))
            written = str(context.tokenizer.decode([token]))
            so_far += "d" if written.isdigit() else written
        row = found.rows.iloc[rows.index((question, answer))]
        assert row["kl_written"] == pytest.approx(np.mean(divergences), abs=1e-4)
        assert 0 < row["kl_written"] < row["kl"]


def test_the_first_rows_are_measured_and_the_same_twice(tmp_path: Path, tiny_base: Path) -> None:
    teacher = make_teacher("finetune", tmp_path / "teacher", tiny_base)
    context, data = ChatContext(load_tokenizer(tiny_base)), write_dataset(tmp_path / "data")
    calls: list[str] = []
    some, again = (
        teacher_signal(
            study_with("null"), ModelVariant(tiny_base), context, data, teacher, rows=3, progress=calls.append
        )
        for _ in range(2)
    )
    assert some.rows["row_id"].tolist() == [0, 7, 14]
    pd.testing.assert_frame_equal(some.rows, again.rows)
    assert some.facts == again.facts
    assert "3/3" in calls[-1]
    for measure in MEASURES:
        mean = np.average(some.rows[measure], weights=some.rows["tokens"])
        assert some.facts[measure] == pytest.approx(mean)
        assert some.facts[f"{measure}_low"] <= mean <= some.facts[f"{measure}_high"]


def test_one_row_is_too_few(tmp_path: Path, tiny_base: Path) -> None:
    teacher = make_teacher("untouched base", tmp_path / "teacher", tiny_base)
    data = write_dataset(tmp_path / "data", ROWS[:1])
    with pytest.raises(UserError, match="two at least"):
        teacher_signal(
            study_with("null"), ModelVariant(tiny_base), ChatContext(load_tokenizer(tiny_base)), data, teacher
        )


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(-2, 2)), min_size=3, max_size=20).filter(
        lambda rows: len({round(value, 3) for _, value in rows}) > 1
    )
)
def test_the_interval_is_clustered_by_row(rows: list[tuple[int, float]]) -> None:
    tokens, values = (np.array(column) for column in zip(*rows, strict=True))
    found = per_token(pd.DataFrame({"tokens": tokens, "kl": values}), "kl")
    mean = np.average(values, weights=tokens)
    # The ratio of two means over rows (Cochran 1977, Sampling Techniques, 6.3).
    residuals = tokens * (values - mean)
    se = np.sqrt(len(rows) / (len(rows) - 1) * (residuals**2).sum()) / tokens.sum()
    half_width = stats.t.ppf(0.975, len(rows) - 1) * se
    assert [found.mean, found.low, found.high] == pytest.approx([mean, mean - half_width, mean + half_width], abs=1e-9)


def test_with_rows_of_one_length_it_is_the_interval_over_rows() -> None:
    values = np.random.default_rng(1).normal(size=9)
    found = per_token(pd.DataFrame({"tokens": [5] * 9, "kl": values}), "kl")
    plain = t_interval(values)
    assert [found.mean, found.low, found.high] == pytest.approx([plain.mean, plain.low, plain.high])
