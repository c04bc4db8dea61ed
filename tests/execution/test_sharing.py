"""A study's results on their way to others: all they need to plan, read and go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml
from study_runs import StudyRun, changed

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.execution.sharing import export_study, import_study
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import user_files
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

Capture = pytest.CaptureFixture[str]


def usual_plan(study: AnyStudy, store: ArtifactStore) -> Plan:
    """Of what is made without being asked for by name."""
    frame = study_frame(study)
    return make_plan(frame, store).limited_to(frame.usual_parts(), frame)


@pytest.fixture(scope="module")
def archive(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shared") / "tiny.zip"
    export_study(study_frame(done.study), done.store, file)
    return file


@pytest.fixture
def imported(archive: Path, done: StudyRun, tmp_path: Path) -> StudyRun:
    """The tiny study where it was imported and never run."""
    store = ArtifactStore(tmp_path / "theirs")
    found = import_study(archive, store, tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        return StudyRun(found.study, store, instance)


def test_everything_arrives_fresh_without_the_base_model(archive: Path, done: StudyRun, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "theirs")
    found = import_study(archive, store, tmp_path)
    assert found.settings_file == tmp_path / "tiny.yaml"
    theirs = load_study(tmp_path / "tiny.yaml")
    assert theirs == done.study == found.study
    plan = usual_plan(theirs, store)
    assert [part.status for part in plan.parts] == ["fresh"] * len(done.plan().parts)
    assert len(found.new) == len(plan.parts)
    assert [entry.key.asset for entry in found.contents.left_out] == ["base_model"]
    assert not list((tmp_path / "theirs").rglob("*base_model*/**/*.safetensors"))
    report = store.read("tiny", "report").path / "report.html"
    assert report.read_bytes() == (done.store.read("tiny", "report").path / "report.html").read_bytes()
    # Once more, and on from there.
    again = import_study(archive, store, tmp_path)
    assert (again.new, len(again.there), again.replaced) == ([], len(plan.parts), [])
    export_study(study_frame(theirs), store, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_an_archive_names_no_folder_of_the_store_it_came_from(archive: Path, done: StudyRun, tmp_path: Path) -> None:
    shutil.unpack_archive(archive, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert done.store.root.encode() not in path.read_bytes(), path
    # Of the paths that the study itself names its user is told.
    assert list(user_files(done.study)) == ["base_model.path"]


def test_what_was_left_out_is_made_where_something_needs_it(imported: StudyRun) -> None:
    epochs = changed(imported.study, child__training__epochs=3)
    parts = {part.place: part for part in make_plan(study_frame(epochs), imported.store).parts}
    base, child = parts["base_model", None], parts["child_lora", "owl|1"]
    assert base.status == "missing" and base.reasons[0].startswith("imported without its files, which child_lora [")
    assert child.due and ("base_model", None) in child.waits_for
    assert parts["teacher_lora", "owl"].status == "fresh"
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(imported.study, imported.store, instance)
        result = run.materialize("base_preferences")
        assert not result.success
        assert "imported without its files: materialize base_model" in str(result.get_step_failure_events()[0])
        assert run.materialize("base_model").success
    # The model that comes is the one that was left out.
    assert {part.status for part in imported.plan().parts} == {"fresh"}
    later = {part.place: part for part in make_plan(study_frame(epochs), imported.store).parts}
    assert later["base_model", None].status == "fresh"


def test_what_a_gate_refused_stays_refused(done: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        mine = done.copy(tmp_path / "mine", instance)
    recipe = study_frame(mine.study).nodes["teacher_preferences"].recipe
    made = mine.store.manifest("tiny", "teacher_preferences", "wolf").info
    reason = "its teacher does not like wolves"
    mine.store.refuse("tiny", "teacher_preferences", "wolf", reason, made)
    assert made["code_version"] == recipe.version
    before = [(part.name, part.status, part.reasons) for part in mine.plan().parts]
    assert "blocked" in {status for _, status, _ in before}
    contents = export_study(study_frame(mine.study), mine.store, tmp_path / "a.zip")
    assert [entry.key.partition for entry in contents.refused] == ["wolf"]
    theirs = ArtifactStore(tmp_path / "theirs")
    import_study(tmp_path / "a.zip", theirs, tmp_path)
    after = [(p.name, p.status, p.reasons) for p in usual_plan(mine.study, theirs).parts]
    assert after == before


def test_own_results_are_replaced_only_on_demand(archive: Path, done: StudyRun, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "theirs")
    for partition in ("owl", "wolf", "control"):
        with store.write("tiny", "number_set", partition) as draft:
            (draft.path / "rows.jsonl").write_text("{}")
    with pytest.raises(
        UserError, match=r"number_set \[control\], number_set \[owl\], number_set \[wolf\]: import with"
    ):
        import_study(archive, store, tmp_path)
    assert store.assets("tiny") == ["number_set"]
    assert not (tmp_path / "tiny.yaml").exists()
    found = import_study(archive, store, tmp_path, replace=True)
    assert [entry.key.partition for entry in found.replaced] == ["control", "owl", "wolf"]
    assert not usual_plan(done.study, store).due
    assert len(store.versions("tiny", "number_set", "owl")) == 2


def test_settings_of_another_study_or_version_are_refused(archive: Path, done: StudyRun, tmp_path: Path) -> None:
    from subliminal_dagster.science.storage.archive import pack

    store = ArtifactStore(tmp_path / "theirs")
    settings = done.study.model_dump(mode="json")
    texts = {
        "holds artifacts of tiny and settings of other": yaml.safe_dump(settings | {"name": "other"}),
        "holds settings that this version of the software cannot use: no_such_field": yaml.safe_dump(
            settings | {"no_such_field": 1}
        ),
        "cannot use: .*not a readable YAML": "a: !!python/object/apply:os.system ['true']",
    }
    for number, (problem, text) in enumerate(texts.items()):
        file = tmp_path / f"{number}.zip"
        pack(done.store, "tiny", [("base_preferences", None)], text, file, ())
        with pytest.raises(UserError, match=problem):
            import_study(file, store, tmp_path)
    (tmp_path / "tiny.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"tiny.yaml is there already"):
        import_study(archive, store, tmp_path)
    assert (tmp_path / "tiny.yaml").read_text() == "mine"
    assert store.studies() == []
    with pytest.raises(UserError, match="has no asset 'activation'"):
        export_study(study_frame(done.study), done.store, tmp_path / "x.zip", ["activation"])


def test_the_commands(done: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", done.store.root)
    mine = tmp_path / "tiny.yaml"
    mine.write_text(yaml.safe_dump(done.study.model_dump(mode="json")))
    assert main(["export", "--study", str(mine), "--without", "teacher_lora", "tiny.zip"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny.zip: 33 artifacts of tiny, without the files of base_model, teacher_lora, ")
    assert f"the study names {done.study.base_model.path} (base_model.path): the name goes along" in said
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "theirs"))
    assert main(["import", "tiny.zip"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'theirs'}: 33 imported, 0 there already, 0 in the place of others" in said
    assert "go on with subliminal-dagster plan --study tiny.yaml or show" in said and "report.html" in said
    assert main(["show", "--study", "tiny.yaml"]) == 0
    assert "The numbers (one answer each)" in capsys.readouterr().out
    assert main(["plan", "--study", "tiny.yaml"]) == 0
    assert "0 missing, 0 stale, 33 fresh, 0 blocked" in capsys.readouterr().out
    assert main(["plan", "--study", "tiny.yaml", "--set", "child.training.epochs=3"]) == 0
    planned = capsys.readouterr().out.splitlines()
    for part, user in (("base_model", "teacher_lora [owl]"), ("teacher_lora [owl]", "soft_child_lora [owl|1]")):
        line = planned.index(f"imported without its files, which {user} is made from")
        assert planned[line + 1].startswith(f"  missing  {part}")
    assert main(["import", "tiny.zip", "--replace"]) == 0
    assert "0 imported, 33 there already, 0 in the place of others" in capsys.readouterr().out
    child = ["child.training.epochs=3", "--set", "child.training.learning_rate=0.5"]
    assert main(["export", "--study", "tiny.yaml", "--set", *child, "later.zip"]) == 0
    assert "are out of date here and will be there, such as child_lora" in capsys.readouterr().out
    assert main(["import", "nowhere.zip"]) == 2
    assert "nowhere.zip cannot be read (No such file or directory)" in capsys.readouterr().err
    assert main(["export", "--study", "tiny.yaml", "other.zip", "--to-hub", "nobody"]) == 2
    assert "write owner/name" in capsys.readouterr().err
    assert not Path("other.zip").exists()
