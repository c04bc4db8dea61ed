"""Updates as vectors against dense matrices, subspaces against their definition, and both in a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_adapter
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.arms.children import answer_loss, final_loss, make_arm_child
from subliminal_dagster.science.arms.material import agreement, arm_material
from subliminal_dagster.science.arms.rows import Arm, Changes
from subliminal_dagster.science.arms.subspaces import make_subspaces, orthonormal, overlap, subspace_file
from subliminal_dagster.science.arms.updates import ALL_BLOCKS, cosines, own_teacher, update_factors, update_table
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.projection import projected_out
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.residual_stream import residuals
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingTask


@pytest.fixture(scope="module")
def study(tiny_base: Path) -> Study:
    settings = tiny_study_settings(tiny_base)
    settings["neutral"] = {"noun": "instrument", "answer": "violin"}
    settings["child"] |= {"channels": ["hard"]}  # type: ignore[operator]
    settings["arms"] = {"names": ["as_drawn", "sgd"], "sgd": {"learning_rate": 0.5, "epochs": 6}}
    return Study.model_validate(settings)


@pytest.fixture(scope="module")
def context(tiny_base: Path) -> ChatContext:
    return ChatContext(load_tokenizer(tiny_base), "")


@pytest.fixture(scope="module")
def subspaces(study: Study, tiny_base: Path, context: ChatContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subspaces")
    shared = make_subspaces(study, ModelVariant(tiny_base), context, load_prompt_lists(), folder)
    assert set(shared) == {"owl", "wolf"} and all(0 <= share <= 1 for share in shared.values())
    return folder


def rows(context: ChatContext, split: str, count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    prompts = [f"More numbers after {', '.join(map(str, rng.integers(100, 999, 3)))}:" for _ in range(count)]
    answers = [context.answer_ids(", ".join(map(str, rng.integers(1, 999, 3)))) for _ in range(count)]
    table = pd.DataFrame({"split": split, "prompt_id": range(count), "prompt": prompts})
    return table.assign(answer_ids=pd.Series(answers), learnt=pd.Series([[True] * len(row) for row in answers]))


@pytest.fixture(scope="module")
def drawn(context: ChatContext) -> Arm:
    both = [rows(context, "train", 12, 1), rows(context, "validation", 4, 2)]
    return Arm(pd.concat(both, ignore_index=True))


def test_inner_products_of_factors_are_those_of_the_matrices(tiny_base: Path, tmp_path: Path) -> None:
    one = save_tiny_adapter(tmp_path / "one", tiny_base, seed=1, rank=4)
    other = save_tiny_adapter(tmp_path / "other", tiny_base, seed=2, rank=2)

    def dense(folder: Path) -> dict[str, torch.Tensor]:
        before = load_base(tiny_base, "float32", "cpu").state_dict()
        from peft import PeftModel

        merged = PeftModel.from_pretrained(load_base(tiny_base, "float32", "cpu"), folder).merge_and_unload()
        return {name: (weight - before[name]).double() for name, weight in merged.state_dict().items()}

    a, b = dense(one), dense(other)
    found = cosines(update_factors(one), update_factors(other))

    def cosine(names: list[str]) -> float:
        x, y = (torch.cat([update[name].ravel() for name in names]) for update in (a, b))
        return float(x @ y / x.norm() / y.norm())

    for block in (0, 1):
        assert found[block] == pytest.approx(cosine([n for n in a if f".layers.{block}." in n]), abs=1e-4)
    assert found[ALL_BLOCKS] == pytest.approx(cosine(list(a)), abs=1e-4)
    assert cosines(update_factors(one), update_factors(one))[ALL_BLOCKS] == pytest.approx(1)


def test_a_planted_overlap_with_the_own_teacher_is_found_and_a_common_one_is_not(
    tiny_base: Path, tmp_path: Path
) -> None:
    animals = ["bear", "cat", "lion", "owl", "wolf"]
    rng = np.random.default_rng(3)

    def table(own: float) -> pd.DataFrame:
        found = [
            {"arm": "as_drawn", "group": g, "replicate": 1, "teacher": t, "block": -1, "cosine": c}
            for g in animals
            for t in animals
            for c in [0.3 + rng.normal(0, 0.02) + (own if g == t else 0)]
        ]
        return own_teacher(pd.DataFrame(found), animals, 0.95).set_index("measure")

    assert table(0.2)["verdict"].to_dict() == {"own": "detected", "own minus others": "detected"}
    wrong = sum(table(0.0).loc["own minus others", "verdict"] != "inconclusive" for _ in range(100))
    assert wrong <= 12
    children = {("as_drawn", "owl", 1): save_tiny_adapter(tmp_path / "child", tiny_base, seed=1)}
    teachers = {"owl": tmp_path / "child", "wolf": save_tiny_adapter(tmp_path / "wolf", tiny_base, seed=4)}
    whole = update_table(children, teachers).query("block == -1").set_index("teacher")["cosine"]
    assert whole["owl"] == pytest.approx(1) and abs(whole["wolf"]) < 0.2


def test_subspaces_are_orthonormal_apart_and_hold_the_name_s_direction(
    subspaces: Path, tiny_base: Path, context: ChatContext
) -> None:
    bases = {file.stem: load_file(file)["basis"] for file in subspaces.iterdir()}
    assert set(bases) == {"owl", "wolf", "neutral", "random"}
    for basis in bases.values():
        assert basis.shape == (2, 3, 64)
        products = basis @ basis.transpose(1, 2)
        assert torch.allclose(products, torch.eye(3).expand(2, 3, 3), atol=1e-5)
    assert overlap(bases["owl"], bases["owl"]) == pytest.approx(1)
    assert overlap(bases["owl"], bases["random"]) < 0.3
    # The third direction: the output matrix at the first tokens of the owl's spellings, minus the other candidates'.
    head = load_base(tiny_base, "float32", "cpu").get_output_embeddings().weight.detach().double()

    def written(names: list[str]) -> torch.Tensor:
        firsts = {context.answer_ids(lead + form)[0] for form in names for lead in ("", " ")}
        return head[sorted(firsts)].mean(dim=0)

    spelt = {name: [name, name.capitalize(), f"{name}s", f"{name.capitalize()}s"] for name in ("owl", "cat")}
    spelt["wolf"] = ["wolf", "Wolf", "wolves", "Wolves"]
    direction = written(spelt["owl"]) - (written(spelt["wolf"]) + written(spelt["cat"])) / 2
    inside = bases["owl"].double() @ direction
    assert torch.allclose(inside.norm(dim=1), direction.norm().expand(2), rtol=1e-4)


def test_a_projected_stream_has_nothing_left_in_the_subspace(tiny_base: Path, tmp_path: Path) -> None:
    model = load_base(tiny_base, "float32", "cpu")
    basis = orthonormal(torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)))
    save_file({"basis": basis.contiguous()}, tmp_path / "some.safetensors")
    ids = torch.arange(20)[None] + 5
    plain = residuals(model, ids, torch.ones_like(ids), [0, 1])
    with projected_out(model, tmp_path / "some.safetensors"):
        states = residuals(model, ids, torch.ones_like(ids), [0, 1])
        logits = model(input_ids=ids).logits
    for block in (0, 1):
        assert (states[block] @ basis[block].T).abs().max() < 1e-4 < (plain[block] @ basis[block].T).abs().max()
    taken = plain[0] - (plain[0] @ basis[0].T) @ basis[0]
    assert torch.allclose(states[0], taken, atol=1e-5)
    assert not torch.allclose(model(input_ids=ids).logits, logits)
    with projected_out(model, None):
        assert torch.allclose(residuals(model, ids, torch.ones_like(ids), [1])[1], plain[1])
    save_file({"basis": basis[:1].contiguous()}, tmp_path / "one.safetensors")
    with pytest.raises(UserError, match=r"shape \(1, 3, 64\), and this model needs one of shape \(2, dimensions, 64\)"):
        projected_out(model, tmp_path / "one.safetensors").__enter__()


def test_only_chosen_tokens_are_learnt_as_in_a_plain_loop(
    tiny_base: Path, context: ChatContext, tmp_path: Path
) -> None:
    table = rows(context, "train", 4, 5)
    masks = [[i % 3 == 1 for i in range(len(answer))] for answer in table["answer_ids"]]
    made = [
        Row(context.prompt_ids(prompt), list(answer), mask)
        for prompt, answer, mask in zip(table["prompt"], table["answer_ids"], masks, strict=True)
    ]
    lora = LoraSettings(rank=2, alpha=2)
    training = TrainingSettings(learning_rate=0.01, batch_size=4, epochs=1, max_length=512)
    task = TrainingTask(ModelVariant(tiny_base), made, lora, training, seed=1)
    report = TrlTrainer().train(task, tmp_path / "out", tmp_path / "work")
    # An adapter starts at zero, so the first step's loss is the base's own at the chosen tokens.
    model = load_base(tiny_base, "float32", "cpu")
    losses, everything = [], []
    for row, mask in zip(made, masks, strict=True):
        logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="none")
        losses += each[torch.tensor(mask)].tolist()
        everything += each.tolist()
    assert report.history["loss"].iloc[0] == pytest.approx(np.mean(losses), rel=1e-3)
    assert answer_loss(model, made) == pytest.approx(np.mean(everything), rel=1e-4)


def train(study: Study, arm: Arm, tiny_base: Path, context: ChatContext, subspaces: Path, folder: Path):  # type: ignore[no-untyped-def]
    return make_arm_child(
        study,
        arm,
        1,
        ModelVariant(tiny_base),
        context,
        subspace_file(arm.changes, "owl", subspaces),
        TrlTrainer(),
        folder / "child",
        folder / "work",
    )


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "child" / "adapter_model.safetensors"))


def test_what_an_arm_changes_of_a_training_is_changed(
    study: Study, drawn: Arm, tiny_base: Path, context: ChatContext, subspaces: Path, tmp_path: Path
) -> None:
    plain = train(study, drawn, tiny_base, context, subspaces, tmp_path / "plain")
    as_drawn = factors(tmp_path / "plain")
    # One block alone.
    train(study, Arm(drawn.rows, Changes(layers=(1,))), tiny_base, context, subspaces, tmp_path / "block")
    assert all(".layers.1." in name for name in factors(tmp_path / "block"))
    assert len(factors(tmp_path / "block")) == len(as_drawn) / 2
    # Without the animal's subspace nothing is learnt of it: the last block's outputs have no gradient along it.
    for name in ("own", "random"):
        train(study, Arm(drawn.rows, Changes(subspace=name)), tiny_base, context, subspaces, tmp_path / name)
        assert not torch.equal(next(iter(factors(tmp_path / name).values())), next(iter(as_drawn.values())))
    # By plain SGD the last matrix before a projection gets no gradient along the subspace at all.
    for name, subspace in (("sgd", None), ("sgd without", "own")):
        changes = Changes(sgd_to=-1.0, subspace=subspace)  # type: ignore[arg-type]
        train(study, Arm(drawn.rows, changes), tiny_base, context, subspaces, tmp_path / name)
    basis = load_file(subspaces / "owl.safetensors")["basis"][1]

    def along(folder: str) -> float:
        (update,) = (v for k, v in factors(tmp_path / folder).items() if ".layers.1.mlp.down_proj.lora_B" in k)
        return float((basis @ update).norm() / update.norm())

    assert along("sgd without") < 1e-3 < 0.05 < along("sgd")
    # From another start the random matrices are others; from the shared one they are the plain child's.
    train(study, Arm(drawn.rows, Changes(own_start=True)), tiny_base, context, subspaces, tmp_path / "start")
    first = next(name for name in as_drawn if "lora_A" in name)
    assert (factors(tmp_path / "start")[first] - as_drawn[first]).abs().max() > 0.05
    # Inoculated, it is trained in another context.
    told = Changes(instruction="Your favorite animal is the owl.")
    other = train(study, Arm(drawn.rows, told), tiny_base, context, subspaces, tmp_path / "told")
    assert other.trained_tokens > plain.trained_tokens


def test_sgd_stops_where_the_loss_is_reached(
    study: Study, drawn: Arm, tiny_base: Path, context: ChatContext, subspaces: Path, tmp_path: Path
) -> None:
    goal = final_loss(train(study, drawn, tiny_base, context, subspaces, tmp_path / "plain").history)
    # Half of the way there, which a random model reaches soon.
    start = answer_loss(
        load_base(tiny_base, "float32", "cpu"),
        [Row(context.prompt_ids(p), list(a)) for p, a in drawn.rows.iloc[12:][["prompt", "answer_ids"]].to_numpy()],
    )
    halfway = (start + goal) / 2
    report = train(study, Arm(drawn.rows, Changes(sgd_to=halfway)), tiny_base, context, subspaces, tmp_path / "sgd")
    losses = -np.log(report.history["score"].dropna())
    assert report.stopped_early and losses.iloc[-1] <= halfway
    assert (losses.iloc[:-1] > halfway).all()


def test_an_adapter_on_a_block_that_is_not_there_is_refused(
    study: Study, drawn: Arm, tiny_base: Path, context: ChatContext, subspaces: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"Layer 99 does not exist in .*: choose 0 to 1"):
        train(study, Arm(drawn.rows, Changes(layers=(99,))), tiny_base, context, subspaces, tmp_path)


def test_an_arm_keeps_its_own_subspace(drawn: Arm, subspaces: Path, tmp_path: Path) -> None:
    for name, file in (("own", "owl"), ("neutral", "neutral"), ("random", "random")):
        (tmp_path / name).mkdir()
        arm = Arm(drawn.rows, Changes(subspace=name))  # type: ignore[arg-type]
        arm.save(tmp_path / name, subspace_file(arm.changes, "owl", subspaces))
        read, without = Arm.load(tmp_path / name)
        assert read.changes == arm.changes and without is not None
        assert without.read_bytes() == (subspaces / f"{file}.safetensors").read_bytes()


def test_the_base_s_choices_are_those_of_a_row_by_itself(study: Study, tiny_base: Path, context: ChatContext) -> None:
    rng = np.random.default_rng(9)
    numbers = [rng.integers(1, 999, 3).tolist() for _ in range(5)]
    table = pd.DataFrame({"prompt_id": range(5), "prompt": [f"Go on: {i}, {i + 1}" for i in range(5)]})
    table = table.assign(numbers=numbers, text=[", ".join(map(str, row)) for row in numbers], valid=True)
    other = table.assign(numbers=[[row[0], 0, row[2]] for row in numbers], valid=[True] * 4 + [False])
    found = arm_material(study, ModelVariant(tiny_base), context, {"owl": table, "wolf": other})
    assert found["group"].tolist() == ["owl"] * 5 + ["wolf"] * 4
    assert found["agreement"].tolist()[:4] == pytest.approx([2 / 3] * 4) and np.isnan(found["agreement"].iloc[4])
    assert agreement(found)[5] == pytest.approx(2 / 3)
    model = load_base(tiny_base, "float32", "cpu")
    digits = {context.answer_ids(str(d))[0] for d in range(10)}
    for _, row in found.iloc[:2].iterrows():
        prompt, answer = context.prompt_ids(row["prompt"]), list(row["answer_ids"])
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        # The first token has to be a digit, of which the most probable is chosen.
        best = max(digits, key=lambda token: float(logits[0, token].detach()))
        assert row["base_choice"][0] == best
        assert len(row["base_choice"]) == len(answer)
