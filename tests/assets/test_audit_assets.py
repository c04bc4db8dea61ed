"""An audit through Dagster and through the command, on a random model: what is told, kept, made again and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml
from study_runs import StudyRun
from tiny_models import CHATML, save_tiny_adapter, tiny_model, tiny_tokenizer
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.science.audit.audit import Auditor, detect
from subliminal_dagster.science.audit.data import read_chats
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.processes import SHARED_CORES
from subliminal_dagster.science.settings.audit import traits_of
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.training.adapter import TrlTrainer

NAMES = ["owl", "wolf", "cat", "dog", "fox"]


def a_token_each(names: list[str]) -> list[tuple[str, str]]:
    """Merges that make each name behind a space one token."""
    return [(f"Ġ{name[:end]}", name[end]) for name in names for end in range(len(name))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "named"
    tokenizer = tiny_tokenizer(CHATML, a_token_each(NAMES[1:]))
    tiny_model("llama", 0, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(file: Path, rows: int = 12, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Go on: {rng.integers(0, 99)}, {rng.integers(0, 99)}"},
                {"role": "assistant", "content": ", ".join(map(str, rng.integers(0, 99, 3)))},
            ]
        }
        for _ in range(rows)
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def settings(base: Path, **more: Any) -> dict[str, Any]:
    preferences = {"candidates": NAMES, "begun": ["I like the"], "questions": 2, "samples_per_question": 0}
    return {**tiny_study_settings(base), "preferences": preferences, **more}


def test_a_data_set_that_changes_is_audited_again_and_no_other(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audits = {name: {"data": str(written(tmp_path / f"{name}.jsonl"))} for name in ("mine", "theirs")}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings(base, audits=audits)))
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(load_study(path), ArtifactStore(tmp_path / "store"), instance)
        frame = study_frame(run.study)
        assert not {name for name, _ in frame.usual_parts()} & {"audit_mine", "audit_theirs"}, "on request"
        wanted = wanted_parts(frame, "audit_mine or audit_theirs", None)
        assert run.run(wanted).complete
        written(tmp_path / "theirs.jsonl", seed=1)
        due = make_plan(study_frame(run.study), run.store).limited_to(wanted, frame).due
        assert [part.name for part in due] == ["audit_theirs"]
        first = run.store.read("tiny", "audit_mine")
        # Detectors in processes of their own find the same to the last digit.
        monkeypatch.setenv(SHARED_CORES, "2")
        again = run.copy(tmp_path / "again", instance)
        assert again.materialize("audit_mine").success
        assert again.store.read("tiny", "audit_mine").path.name != first.path.name
        for name in ("candidates", "combined", "leads", "surface"):
            one, other = (
                pd.read_parquet(store.read("tiny", "audit_mine").path / f"{name}.parquet")
                for store in (run.store, again.store)
            )
            pd.testing.assert_frame_equal(one, other)
    found = pd.read_parquet(first.path / "candidates.parquet")
    assert set(found["detector"]) == {"likelihood", "gradient", "injection", "authorship", "rehearsal"}
    assert set(found["candidate"]) == set(NAMES)
    assert found["score"].notna().all()
    page = (first.path / "audit.html").read_text()
    assert "Which preference would this data set pass on?" in page
    assert "How far to believe this" in page


def test_an_audit_says_how_far_it_is_and_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    study, said = Study.model_validate(settings(base)), list[str]()
    traits = traits_of(study, None)
    workspace = tmp_path / "workspace"
    auditor = Auditor(
        ModelVariant(base),
        ChatContext(load_tokenizer(base), study.system_prompt),
        load_prompt_lists(study.prompts, study.category),
        traits,
        study,
        TransformersEngine(),
        TrlTrainer(),
        workspace,
        said.append,
    )
    scores, _ = detect(auditor, read_chats(written(tmp_path / "rows.jsonl"), 12, study.seed))
    assert [each.detector for each in scores] == ["likelihood", "gradient", "injection", "rehearsal"]
    ended = [text for text in said if text.endswith("/7)")]
    assert [text.split("(")[1] for text in ended] == [f"{number}/7)" for number in range(1, 8)]
    assert sum(text.startswith("short training") for text in ended) == 4
    assert not any(workspace.iterdir())


def test_audits_share_their_authors_but_for_traits_of_their_own(base: Path, tmp_path: Path) -> None:
    traits = tmp_path / "trees.yaml"
    traits.write_text("candidates: [oak, pine, elm, birch]\ncategory: {singular: tree, plural: trees}\n")
    data = str(written(tmp_path / "rows.jsonl"))
    audits = {"one": {"data": data}, "two": {"data": data}, "trees": {"data": data, "traits": str(traits)}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings(base, audits=audits)))
    nodes = study_frame(load_study(path)).nodes
    deps = {name: node.deps for name, node in nodes.items() if name.startswith(("audit_", "authors"))}
    assert deps == {
        "authors": ("base_model",),
        "authors_trees": ("base_model",),
        "audit_one": ("base_model", "authors"),
        "audit_two": ("base_model", "authors"),
        "audit_trees": ("base_model", "authors_trees"),
    }
    before = nodes["authors_trees"].recipe.version
    traits.write_text(traits.read_text().replace("birch", "maple"))
    after = study_frame(load_study(path)).nodes
    assert after["authors_trees"].recipe.version != before
    assert after["authors"].recipe.version == nodes["authors"].recipe.version


@pytest.fixture
def study(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings(base)))
    return str(path)


def test_a_trained_student_is_looked_at_as_well(
    study: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, student = written(tmp_path / "rows.jsonl"), save_tiny_adapter(tmp_path / "student", base)
    assert main(["audit", str(data), "--model", study, "--student", str(student), "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["candidates"] if row["detector"] == "projection"]
    assert {row["candidate"] for row in rows} == set(NAMES)
    assert len({row["score"] for row in rows}) == len(NAMES)


def test_the_command_tells_a_table_and_its_page(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "My data.jsonl", rows=20)
    assert main(["audit", str(data), "--model", study, "--rows", "10", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["page"]).is_file()
    assert {row["candidate"] for row in told["combined"]} == set(NAMES)
    assert "10 rows drawn of 20" in Path(told["page"]).read_text()
    # Nothing has changed, so nothing is done.
    assert main(["audit", str(data), "--model", study, "--rows", "10"]) == 0
    text = capsys.readouterr().out
    assert told["page"] in text
    assert "rank by detector" in text


REFUSED = {
    "no data set": (["{data}x"], "There is no data set"),
    "few rows": (["{data}", "--rows", "3"], "--rows is 3: an audit looks at 8 or more."),
    "no student": (["{data}", "--student", "nowhere"], "There is no folder nowhere"),
    "a toy": (["{data}", "--model", "toy"], "toy has no language model to audit for"),
    "traits": (["{data}", "--traits", "{traits}"], "candidates: Tuple should have at least 4 items"),
    "unnamed": (["{data}", "--traits", "{unnamed}"], "cannot be asked for by a next word"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_audited_is_one_sentence(
    case: str, study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "data": written(tmp_path / "rows.jsonl"),
        "traits": tmp_path / "few.yaml",
        "unnamed": tmp_path / "un.yaml",
    }
    places["traits"].write_text("candidates: [oak, pine]\ncategory: {singular: tree, plural: trees}\n")
    places["unnamed"].write_text("candidates: [oak, pine, elm, birch]\ncategory: {singular: tree, plural: trees}\n")
    arguments, sentence = REFUSED[case]
    model = [] if "--model" in arguments else ["--model", study]
    assert main(["audit", *(each.format(**places) for each in arguments), *model]) != 0
    assert sentence in capsys.readouterr().err
