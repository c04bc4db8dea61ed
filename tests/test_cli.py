"""The command `subliminal-dagster`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from scipy import stats
from study_runs import StudyRun
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import build_defs
from subliminal_dagster.cli import main
from subliminal_dagster.execution import runner
from subliminal_dagster.execution.carriers.protocol import Carried
from subliminal_dagster.execution.runner import execute
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def study(done: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the tiny study's file, its artifacts made already, in the environment of a user."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "store"))
    with dg.DagsterInstance.ephemeral() as instance:
        done.copy(tmp_path / "store", instance)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(done.study.model_dump(mode="json")))
    return str(path)


def test_a_plan_says_what_changed_and_what_it_will_take(study: str, capsys: Capture) -> None:
    assert main(["plan", "--study", study]) == 0
    assert capsys.readouterr().out == "tiny: 0 missing, 0 stale, 33 fresh, 0 blocked\n"
    assert main(["plan", "--study", study, "--set", "child.training.epochs=5", "--partition", "owl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "setting child.training.epochs changed from 2 to 5"
    assert lines[1].startswith("  stale    child_lora [owl|1], ") and " s on cpu (" in lines[1]
    assert "soft_child_lora [owl|1]" in lines[2], "for the same reason"
    assert lines[3] == "child_lora is to be made: setting child.training.epochs changed from 2 to 5"
    assert lines[4] == "(only if that comes out different)" and "preference_scores [owl|1]" in lines[5]
    assert lines[-1].startswith("tiny: 0 missing, 4 stale, 8 fresh, 0 blocked; about ")


def test_a_plan_of_what_was_never_made_guesses_no_time(study: str, tmp_path: Path, capsys: Capture) -> None:
    shutil.rmtree(tmp_path / "store")
    assert main(["plan", "--study", study]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == ("tiny: 33 missing, 0 stale, 0 fresh, 0 blocked; none made before, so how long it takes is unknown")


def test_a_plan_for_programs(study: str, capsys: Capture) -> None:
    assert main(["plan", "--study", study, "--set", "child.training.epochs=5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["study"] == "tiny" and len(plan["parts"]) == 33
    (scores,) = [p for p in plan["parts"] if (p["asset"], p["partition"]) == ("preference_scores", "wolf|1")]
    assert (scores["status"], scores["sure"], scores["waits_for"]) == ("stale", False, ["child_lora/wolf|1"])
    assert scores["seconds"] > 0 and scores["device"].startswith("cpu")


def test_a_check_is_one_line_and_an_exit_code(study: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", "--study", study, "--check"]) == 0
    assert capsys.readouterr().out == "tiny: 0 missing, 0 stale, 33 fresh, 0 blocked\n"
    shutil.rmtree(tmp_path / "store" / "tiny" / "filtered_dataset" / "owl@1")
    assert main(["plan", "--study", study, "--check"]) == 1
    assert capsys.readouterr().out.startswith("tiny: 1 missing, 8 stale, 24 fresh, 0 blocked; about ")
    assert main(["plan", "--study", study, "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["study"] == "tiny"


def test_a_plan_of_a_large_study_fits_on_two_screens(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["never made, or deleted", "  missing  base_model"]
    assert "  missing  teacher_lora: 7 parts (dog, fox, lion, ...)" in lines
    assert len(lines) < 60


def test_a_run_makes_what_is_gone_and_ends_with_the_result(study: str, tmp_path: Path, capsys: Capture) -> None:
    shutil.rmtree(tmp_path / "store" / "tiny" / "filtered_dataset" / "owl@1")
    assert main(["run", "--study", study]) == 0
    out = capsys.readouterr().out
    assert "tiny: 1 to make" in out and "1/9 filtered_dataset [owl|1] " in out
    assert "tiny: 1 made in 1 runs" in out and "33 fresh, 0 failed, 0 blocked, 0 waiting" in out
    assert "\nHard channel: " in out and "\n  Own animal's numbers minus other animals' numbers: " in out
    assert "animal_liking.png" in out
    assert main(["run", "--study", study]) == 0
    assert "tiny: 0 made in 0 runs" in capsys.readouterr().out


def test_the_comparison_of_studies_is_one_line(
    study: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBLIMINAL_STUDIES", study)
    assert main(["compare"]) == 0
    captured = capfd.readouterr()
    (line,) = captured.out.splitlines()
    assert Path(line.removeprefix("page: ")).is_file()
    assert "DEBUG" not in captured.err


def test_a_seed_of_its_own_is_a_study_beside_the_study(study: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", "--study", study, "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith("tiny: 0 missing"), "it is the seed of the study itself"
    assert main(["plan", "--study", study, "--seed", "7"]) == 0
    by_option = capsys.readouterr().out.splitlines()[-1]
    assert by_option.startswith("tiny-seed7: 33 missing, 0 stale, 0 fresh")
    assert main(["plan", "--study", study.replace(".yaml", "-seed7.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == by_option
    shutil.rmtree(tmp_path / "store")
    assert main(["run", "--study", study, "--seed", "7", "--select", "base_model"]) == 0
    assert (tmp_path / "store" / "tiny-seed7" / "base_model").is_dir()
    assert not (tmp_path / "store" / "tiny").exists()


def write_gamma(root: Path, study: str, gamma: float, contrast: str = "others") -> None:
    """A comparison that says so, of both channels."""
    import pandas as pd

    rows = [
        {
            "channel": channel,
            "contrast": contrast,
            "outcome": outcome,
            "mean": mean,
            "se": 0.1,
            "low": -1.0,
            "high": 1.0,
        }
        for channel, mean in (("hard", gamma), ("soft", 0.1 * gamma - 0.1))
        for outcome, mean in (("log_share", mean), ("rate", 99.0))
    ]
    with ArtifactStore(root).write(study, "animal_liking", None) as draft:
        pd.DataFrame(rows).to_parquet(draft.path / "gamma.parquet")
        (draft.path / "left_out.json").write_text(json.dumps({"wolf": "a gate"} if study.endswith("8") else {}))


def test_seeds_are_combined(study: str, tmp_path: Path, capsys: Capture) -> None:
    names = [study, *(study.replace(".yaml", f"-seed{seed}.yaml") for seed in (7, 8))]
    assert main(["compare", "--seeds", *names]) == 2
    assert "tiny-seed7 has no result yet: make it with 'subliminal-dagster run" in capsys.readouterr().err
    gammas = [0.9, 1.0, 1.1]
    for name, gamma in zip(("tiny", "tiny-seed7", "tiny-seed8"), gammas, strict=True):
        write_gamma(tmp_path / "store", name, gamma)
    assert main(["compare", "--seeds", *names, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("is out of date: ") == 3, "nobody made these by the studies' settings"
    found = json.loads(captured.out)
    assert found["studies"] == ["tiny", "tiny-seed7", "tiny-seed8"]
    runs, combined = found["channels"]["hard"]["runs"], found["channels"]["hard"]["combined"]
    assert [(run["seed"], run["gamma"]) for run in runs] == [(3, 0.9), (7, 1.0), (8, 1.1)]
    assert [run["left_out"] for run in runs] == [[], [], ["wolf"]]
    low, high = stats.t.interval(0.95, 2, loc=1.0, scale=0.1 / 3**0.5)
    assert (combined["mean"], combined["low"], combined["high"]) == pytest.approx((1.0, low, high))
    assert combined["p"] == pytest.approx(stats.ttest_1samp(gammas, 0).pvalue)
    # Planted in the one channel, nothing but noise in the other.
    assert combined["verdict"] == "detected"
    assert found["channels"]["soft"]["combined"]["verdict"] == "inconclusive"
    assert main(["compare", "--seeds", *names]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("hard channel, gamma") and lines[2].split() == [
        "tiny",
        "3",
        "+0.900",
        "[-1.000,",
        "+1.000]",
    ]
    assert lines[4].endswith("without wolf")
    assert lines[5].startswith("  detected: mean over 3 seeds +1.000 [+0.752, +1.248], p 0.0033")


def test_what_is_no_other_seed_of_a_study_is_not_combined(study: str, tmp_path: Path, capsys: Capture) -> None:
    def said(*names: str) -> str:
        assert main(["compare", "--seeds", *names]) == 2
        return capsys.readouterr().err

    other = tmp_path / "other.yaml"
    content = yaml.safe_load(Path(study).read_text()) | {"name": "other", "seed": 4}
    content["child"]["training"]["epochs"] = 5
    other.write_text(yaml.safe_dump(content))
    assert "tiny and other differ in more than their seed: child.training.epochs is 2 and 5." in said(study, str(other))
    assert "Give two studies at least" in said(study)
    assert "The study toy has no animals" in said(study, "toy")
    assert "must differ in their seed" in said(study, study)
    another = study.replace(".yaml", "-seed7.yaml")
    write_gamma(tmp_path / "store", "tiny-seed7", 1.0, contrast="control")
    assert "Gamma of the hard channel is set against others in tiny and control in tiny-seed7" in said(study, another)


@pytest.mark.parametrize(
    ("arguments", "variable", "meant"),
    [
        (["--study", "smollm2"], "", "smollm2-135m-instruct"),
        (["--study", "tpy"], "", "toy"),
        (["--select", "techer_lora"], "", "teacher_lora"),
        (["--select", "group:teachr"], "", "teacher"),
        (["--partition", "olw"], "", "owl"),
        (["--set", "child.traning.epochs=5"], "", "training"),
        (["--card", "a600"], "", "A6000"),
        ([], "SUBLIMINAL_ENGINE=transformer", "transformers"),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_one_like_it(
    arguments: list[str], variable: str, meant: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    if variable:
        monkeypatch.setenv(*variable.split("="))
    assert main(["plan", *arguments]) == 2
    assert capsys.readouterr().err.endswith(f" Did you mean {meant}?\n")


def test_every_command_for_programs_prints_one_document(
    study: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    # An import writes the study's file where it is given.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("SUBLIMINAL_STUDIES", study)
    archive = str(tmp_path / "tiny.zip")
    assert "toy" in [each["name"] for each in told("studies")]
    shown = told("show", "--study", study)
    assert Path(shown["figure"]).is_file() and Path(shown["report"]).is_file()
    assert {each["state"] for each in told("preflight", "--study", study)["findings"]} <= {"ok", "warning"}
    exported = told("export", "--study", study, archive)
    assert (exported["file"], exported["study"], exported["stale"]) == (archive, "tiny", [])
    imported = told("import", archive)
    assert (imported["imported"], imported["there_already"]) == (0, exported["artifacts"])
    assert told("gc", "--study", study)["removed_bytes"] == 0
    assert Path(told("compare")["page"]).is_file()


def execute_and_tell(run: DueRun, definitions: dg.Definitions, instance: dg.DagsterInstance) -> Carried:
    carried = execute(run, definitions, instance)
    (Path(instance.root_directory) / "made by").write_text(str(os.getpid()))
    return carried


def test_on_a_node_with_gpus_the_command_itself_computes_on_none(
    study: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("SUBLIMINAL_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("SUBLIMINAL_WORKERS", raising=False)
    monkeypatch.setattr(runner, "execute", execute_and_tell)
    shutil.rmtree(tmp_path / "store" / "tiny" / "base_preferences")
    assert main(["run", "--study", study]) == 0
    assert "tiny: 1 made in 1 runs" in capsys.readouterr().out
    assert [lock.name for lock in (tmp_path / "locks").iterdir()] == ["4.0.lock"]
    # A process that has computed on a GPU holds it as long as it lives.
    assert (tmp_path / "home" / "made by").read_text() != str(os.getpid())


def test_a_run_that_a_gate_stops_says_so_and_exits_with_1(study: str, capsys: Capture) -> None:
    gate = ["--set", "teacher.gate.preference=1.0", "--partition", "owl"]
    assert main(["run", "--study", study, *gate]) == 1
    captured = capsys.readouterr()
    assert "blocked: teacher_preferences [owl]: the teacher answers 'owl' with probability" in captured.err
    assert "blocked: soft_preference_scores [owl|1]: teacher_preferences [owl] was refused" in captured.err
    assert main(["plan", "--study", study, *gate]) == 0
    assert "  blocked  number_set [owl]" in capsys.readouterr().out


def test_gc_lists_then_removes(study: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["gc", "--study", study]) == 0
    assert "0.0 MB to remove\n" in capsys.readouterr().out
    smaller = tmp_path / "smaller.yaml"
    content = yaml.safe_load(Path(study).read_text()) | {"animals": ["owl"]}
    smaller.write_text(yaml.safe_dump(content))
    assert main(["gc", "--study", str(smaller)]) == 0
    listed = capsys.readouterr().out
    assert "wolf" in listed and "--delete --outside removes them as well" in listed
    # Made with other settings, perhaps of somebody else: what runs by itself every week leaves it alone.
    assert main(["gc", "--study", str(smaller), "--delete"]) == 0
    assert capsys.readouterr().out == listed
    assert (tmp_path / "store" / "tiny" / "child_lora" / "wolf@1" / "current.json").exists()
    assert main(["gc", "--study", str(smaller), "--delete", "--outside"]) == 0
    assert "removed " in capsys.readouterr().out
    assert not (tmp_path / "store" / "tiny" / "child_lora" / "wolf@1" / "current.json").exists()
    assert (tmp_path / "store" / "tiny" / "child_lora" / "owl@1" / "current.json").exists()
    assert main(["gc", "--study", "gemma-2-9b-it"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_gc_removes_old_logs_of_runs(study: str, tmp_path: Path, capsys: Capture) -> None:
    """Of 60 logs of one per day the 30 of the last month stay; of 25 old ones the last 20."""
    logs, day = tmp_path / "home" / "logs", 24 * 3600

    def write(days: Iterable[int]) -> None:
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        for age in days:
            log = logs / f"run-{age:04}.log"
            log.write_text("made\n")
            os.utime(log, (time.time() - (age + 0.5) * day,) * 2)
        (logs / "of mine.log").write_text("kept")
        os.utime(logs / "of mine.log", (0, 0))

    for days, kept in ((range(60), 30), (range(100, 125), 20), (range(20), 20)):
        write(days)
        number = len(days) - kept
        assert main(["gc", "--study", study]) == 0
        assert (f"{number} logs of runs in {logs}" in capsys.readouterr().out) is (number > 0)
        assert main(["gc", "--study", study, "--delete", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert (len(content["logs"]), content["removed_bytes"]) == (number, 5 * number)
        assert sorted(logs.glob("run-*")) == [logs / f"run-{age:04}.log" for age in sorted(days)[:kept]]
        assert (logs / "of mine.log").exists()


def test_libraries_are_quiet_unless_a_user_says_otherwise(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")
    assert main(["studies"]) == 0
    assert (os.environ["TQDM_DISABLE"], os.environ["HF_HUB_VERBOSITY"]) == ("1", "debug")
    monkeypatch.delenv("HF_HUB_VERBOSITY")
    assert main(["studies"]) == 0
    assert os.environ["HF_HUB_VERBOSITY"] == "error"


def test_command_line_errors(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Path) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "artifacts"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_study_settings(tiny_base)))
    assert main(["run", "--study", "gnu"]) == 2
    assert "There is no study 'gnu'" in capsys.readouterr().err
    assert main(["run", "--study", str(path)]) == 2
    assert "DAGSTER_HOME" in capsys.readouterr().err
    assert main(["show", "--study", str(path)]) == 2
    assert f"tiny has no result yet: make it with 'subliminal-dagster run --study {path}'.\n" in capsys.readouterr().err
    assert main(["plan", "--study", str(path), "--select", "+chld_lora"]) == 2
    assert "The study tiny has no asset 'chld_lora'. Did you mean child_lora?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"subliminal-dagster {version('subliminal-dagster')}\n"
    assert main(["studies"]) == 0
    assert load_study("gemma-2-9b-it").description.strip() in capsys.readouterr().out


def test_settings_of_the_environment_count_for_every_command(
    study: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = tmp_path / "smaller.yaml"
    smaller.write_text(yaml.safe_dump(yaml.safe_load(Path(study).read_text()) | {"animals": ["owl"]}))
    both = "animals=[owl, wolf]"
    assert main(["plan", "--study", str(smaller), "--set", both]) == 0
    by_option = capsys.readouterr().out
    assert main(["gc", "--study", str(smaller), "--set", both]) == 0
    assert "wolf" not in capsys.readouterr().out
    monkeypatch.setenv("SUBLIMINAL_SET", f"'{both}'")
    assert main(["plan", "--study", str(smaller)]) == 0
    assert capsys.readouterr().out == by_option
    assert main(["gc", "--study", str(smaller), "--delete"]) == 0
    assert "wolf" not in capsys.readouterr().out
    monkeypatch.setenv("SUBLIMINAL_SET", "'animals=")
    assert main(["plan", "--study", str(smaller)]) == 2
    assert 'SUBLIMINAL_SET is "\'animals=" (No closing quotation)' in capsys.readouterr().err


@pytest.mark.parametrize("command", [["plan"], ["gc", "--delete"], ["show"], ["run"], ["compare"]])
def test_a_home_that_is_no_absolute_folder_is_one_sentence(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBLIMINAL_ARTIFACTS", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert main(command) == 2
    assert "DAGSTER_HOME is not set" in capsys.readouterr().err
    monkeypatch.setenv("DAGSTER_HOME", "relative/home")
    assert main(command) == 2
    assert "DAGSTER_HOME is 'relative/home': set it to an absolute folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUBLIMINAL_TIMEZONE", "Mars/Phobos"),
        ("SUBLIMINAL_NIGHTLY", "at night"),
        ("SUBLIMINAL_OWNERS", "ann"),
        ("SUBLIMINAL_TAGS", "project"),
        ("SUBLIMINAL_ENGINE", "steam"),
        ("SUBLIMINAL_BATCH", "0"),
        ("SUBLIMINAL_GPU_SHARE", "half"),
        ("SUBLIMINAL_WORKERS", "-1"),
        ("SUBLIMINAL_GRADIENT_CHECKPOINTING", "perhaps"),
        ("SUBLIMINAL_JUDGE_RPM", "fast"),
        ("SUBLIMINAL_JUDGE_REASONING_TOKENS", "many"),
        ("SUBLIMINAL_SET", "seed"),
    ],
)
def test_a_variable_with_a_bad_value_is_one_sentence(
    study: str, variable: str, value: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["run", "--study", study]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and (variable in said or repr(value) in said)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SUBLIMINAL_ARTIFACTS", "{file}", "Artifacts cannot lie in {file}, since {file} is a file"),
        ("SUBLIMINAL_GPU_LOCKS", "{file}", "SUBLIMINAL_GPU_LOCKS is '{file}', which is a file: set it to a folder"),
        ("SUBLIMINAL_JUDGE_URL", "example.org/v1", "begins with https:// or http://: correct SUBLIMINAL_JUDGE_URL"),
        ("SUBLIMINAL_JUDGE_RPM", "inf", "SUBLIMINAL_JUDGE_RPM is 'inf': set it to a number above 0"),
        ("DAGSTER_HOME", "{file}", "DAGSTER_HOME is '{file}' and cannot be made (File exists)"),
        ("DAGSTER_HOME", "{locked}", "DAGSTER_HOME is '{locked}' and cannot be opened ("),
        (
            "DAGSTER_HOME",
            "{broken}",
            "{broken}/dagster.yaml cannot be used; mend it or remove it: Errors whilst loading",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    study: str,
    tmp_path: Path,
    variable: str,
    value: str,
    sentence: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"file": study, "broken": str(tmp_path / "broken"), "locked": str(tmp_path / "locked")}
    (tmp_path / "locked" / ".opening.lock").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dagster.yaml").write_text("telemetrie: {}")
    monkeypatch.setenv(variable, value.format(**places))
    assert main(["run", "--study", study]) == 2
    said = capsys.readouterr().err
    assert sentence.format(**places) in said and said.count("\n") == 1


def test_a_run_with_nothing_to_make_loads_no_torch(study: str) -> None:
    script = (
        "import sys; from subliminal_dagster.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, "run", "--study", study], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0 and "tiny: 0 made in 0 runs" in said.stdout, said.stderr


def test_two_studies_of_one_name_are_one_sentence(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLIMINAL_STUDIES", f"{study} {study}")
    with pytest.raises(UserError, match="Two studies are called 'tiny'"):
        build_defs()


UPLOAD = """
import subliminal_dagster.definitions
from threading import Event
from dagster._core.telemetry_upload import upload_logs

class OneRound(Event):
    def wait(self, timeout=None):
        self.set()

upload_logs(OneRound(), raise_errors=True)
"""


@pytest.mark.parametrize("allowed", [False, True])
def test_nothing_is_told_to_those_who_made_dagster(allowed: bool, tmp_path: Path) -> None:
    """Whatever DAGSTER_HOME says: Dagster's own upload of what it noted finds the package's word against it."""
    told: list[str] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "event.log").write_text("{}")
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_DISABLE_TELEMETRY"}
    environment |= {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_TELEMETRY_URL": f"http://127.0.0.1:{server.server_port}/actions",
        "SUBLIMINAL_STUDIES": "toy",
    }
    script = UPLOAD.replace("import subliminal_dagster.definitions", "") if allowed else UPLOAD
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    server.shutdown()
    server.server_close()
    assert bool(told) == allowed
