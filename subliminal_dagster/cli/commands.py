"""What each command does and prints: lines for people, or with --json one document on stdout.

Belongs here: from the command's options to what is printed, and its exit code. Does not belong here: the options
(`arguments`), long texts (`plan_text`), what `run` shows while it goes on (`live`), anything a test or a notebook would
want to call. Heavy modules are imported by the command that needs them, so that the others answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies

if TYPE_CHECKING:
    from subliminal_dagster.execution.runner import Outcome
    from subliminal_dagster.planning.frame import Frame
    from subliminal_dagster.planning.recipe import Input
    from subliminal_dagster.science.preflight.finding import Finding
    from subliminal_dagster.science.storage.archive import Contents
    from subliminal_dagster.science.storage.store import ArtifactStore


def carry_out(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    return _COMMANDS[options.command](options)


def _tell(as_json: bool, content: Any, lines: Iterable[str]) -> None:
    """Print either; `content` is JSON-able."""
    print(json.dumps(content, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def _study(options: argparse.Namespace) -> AnyStudy:
    from subliminal_dagster.build import overrides_from_environment

    return load_study(options.study, [*overrides_from_environment(), *options.overrides], options.seed)


def _store() -> ArtifactStore:
    from subliminal_dagster.build import resources_from_environment

    store: ArtifactStore = resources_from_environment()["store"].create()
    return store


def _check_home(needs_history: bool) -> None:
    from subliminal_dagster.build import check_home

    check_home(needs_history)


def _studies(options: argparse.Namespace) -> int:
    studies = [load_study(name) for name in shipped_studies()]
    content = [
        {"name": study.name, "subjects": [*study.subjects], "description": study.description.strip()}
        for study in studies
    ]
    lines = [f"{each['name']:24} {', '.join(each['subjects'])}\n{'':24} {each['description']}" for each in content]
    _tell(options.json, content, lines)
    return 0


def _new_study(options: argparse.Namespace) -> int:
    from subliminal_dagster.new_study import new_study

    study = new_study(Path(options.file), options.model, options.animals, options.size, options.category)
    lines = [f"{options.file}: {study.description}", f"Go on with: subliminal-dagster plan --study {options.file}"]
    _tell(options.json, {"file": options.file, "study": study.name, "description": study.description}, lines)
    return 0


def _prompts(options: argparse.Namespace) -> int:
    from subliminal_dagster.science.preferences.published_prompts import differing, import_published
    from subliminal_dagster.science.settings.prompts import imported_file, published_record

    _check_home(needs_history=True)
    lists = import_published(options.place)
    others = differing(lists)
    lines = []
    for name, texts in lists.items():
        expected = published_record()["lists"][name]["texts"]
        verdict = f"not the published ones (there are {expected})" if name in others else "as published"
        lines.append(f"{name:36} {len(texts):3} texts, {verdict}")
    if others:
        lines.append(f"{len(others)} of {len(lists)} lists are not the published wording, which reports will say.")
    lines.append(f"Studies with `prompts: published` use these lists, kept in {imported_file()}.")
    found = {name: {"texts": len(texts), "as_published": name not in others} for name, texts in lists.items()}
    _tell(options.json, {"lists": found, "file": str(imported_file())}, lines)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from subliminal_dagster.assets.descriptions import expected_costs
    from subliminal_dagster.build import resources_from_environment, study_frame
    from subliminal_dagster.cli.plan_text import plan_lines, summary
    from subliminal_dagster.execution.carriers.local import worker_count
    from subliminal_dagster.execution.cost import card_here, cost_of, named_card
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.planning.selection import wanted_parts

    study = _study(options)
    _check_home(needs_history=False)
    frame = study_frame(study)
    wanted = wanted_parts(frame, options.select, options.partition)
    store = _store()
    plan = make_plan(frame, store).limited_to(wanted, frame)
    exit_code = 1 if options.check and (plan.due or plan.of("blocked")) else 0
    if options.check and not options.json:
        print(summary(plan))
        return exit_code
    card = named_card(options.card) if options.card else card_here()
    cost = cost_of(frame, plan, card, worker_count() if options.slots is None else options.slots)
    content = {"study": plan.study, "parts": [part.as_json() for part in plan.parts], "cost": cost.as_json()}
    costs = {} if options.json else expected_costs(study, plan.due, store, resources_from_environment()["judge"])
    _tell(options.json, content, plan_lines(plan, cost, costs))
    return exit_code


def _preflight(options: argparse.Namespace) -> int:
    from subliminal_dagster.build import study_frame
    from subliminal_dagster.planning.selection import wanted_parts

    study = _study(options)
    _check_home(needs_history=False)
    frame = study_frame(study)
    findings = _findings(frame, wanted_parts(frame, options.select, options.partition))
    width = max(len(finding.check) for finding in findings)
    lines = [f"{finding.state:8}{finding.check:{width}}  {finding.sentence}" for finding in findings]
    _tell(options.json, {"study": study.name, "findings": [asdict(finding) for finding in findings]}, lines)
    return 1 if any(finding.state == "failed" for finding in findings) else 0


def _findings(frame: Frame, wanted: Collection[Input]) -> list[Finding]:
    from subliminal_dagster.build import resources_from_environment
    from subliminal_dagster.execution.preflight import preflight

    resources = resources_from_environment()
    engine, trainer, judge = resources["engine"], resources["trainer"], resources["judge"]
    recomputes, reasoning = trainer.gradient_checkpointing, judge.reasoning_tokens
    return preflight(frame, resources["store"].create(), wanted, engine.engine, recomputes, reasoning)


def _run(options: argparse.Namespace) -> int:
    from subliminal_dagster.build import study_frame
    from subliminal_dagster.planning.selection import wanted_parts

    study = _study(options)
    _check_home(needs_history=True)
    frame = study_frame(study)
    wanted = wanted_parts(frame, options.select, options.partition)
    findings = _findings(frame, wanted)
    for finding in findings:
        if finding.state != "ok":
            print(f"{finding.state}: {finding.check}: {finding.sentence}", file=sys.stderr, flush=True)
    if any(finding.state == "failed" for finding in findings):
        print(f"{study.name}: nothing was begun", file=sys.stderr)
        return 1
    outcome, log = _made(frame, wanted, as_json=options.json)
    whole = outcome.complete and options.select is None and options.partition is None
    if options.json:
        result = _result(study) if whole else None
        _tell(True, {"study": study.name, **outcome.as_json(), "log": log, "result": result}, [])
    else:
        print(_outcome_line(study, outcome))
    for word, parts in (("failed", outcome.failed), ("blocked", outcome.blocked), ("waiting", outcome.waiting)):
        for place, sentence in parts.items():
            print(f"  {word}: {_shown(place)}: {sentence}", file=sys.stderr)
    if whole and not options.json:
        print("\n".join(_result_lines(study)))
    return 0 if outcome.complete else 1


def _made(frame: Frame, wanted: Collection[Input], as_json: bool) -> tuple[Outcome, str | None]:
    """Make what is due, showing how it goes on. Gives what became of it, and the path of the log, if there is one."""
    from subliminal_dagster.build import artifact_root, build_defs, definitions_apart
    from subliminal_dagster.cli.live import Board, display
    from subliminal_dagster.cli.log_file import printing_to_log, warnings_said
    from subliminal_dagster.execution.carriers.apart import RunsApart
    from subliminal_dagster.execution.carriers.choice import chosen_carrier
    from subliminal_dagster.execution.carriers.local import worker_count
    from subliminal_dagster.execution.cost import card_here
    from subliminal_dagster.execution.instance import open_instance
    from subliminal_dagster.execution.runner import execute, run_study

    study, shown = frame.study, sys.stderr if as_json else sys.stdout
    with open_instance() as instance, printing_to_log(shown) as (stream, log):
        definitions, store = build_defs(studies=[study], checked=False), _store()
        # Not the store's own name for a URL, which is without a password.
        root = store.root if store.opened.local else artifact_root()
        runs = RunsApart(study, definitions, instance, definitions_apart, execute, root)
        carrier = chosen_carrier(frame, runs)
        board = Board(frame, card_here(), worker_count())
        with display(board, stream, log, instance) as listener, warnings_said(listener.say):
            outcome = run_study(frame, definitions, store, instance, listener, wanted, carrier)
    return outcome, str(log.path) if log.path.exists() else None


def _shown(place: Input) -> str:
    from subliminal_dagster.planning.frame import shown

    return shown(*place)


def _outcome_line(study: AnyStudy, outcome: Outcome) -> str:
    from subliminal_dagster.execution.listening import duration

    return (
        f"{study.name}: {len(outcome.made)} made in {outcome.runs} runs and {duration(outcome.seconds)}; "
        f"{outcome.fresh} fresh, {len(outcome.failed)} failed, {len(outcome.blocked)} blocked, "
        f"{len(outcome.waiting)} waiting"
    )


def _show(options: argparse.Namespace) -> int:
    from subliminal_dagster.execution.results import no_result

    study = _study(options)
    _check_home(needs_history=False)
    if not _store().exists(study.name, _result_asset(study)):
        seed = f" --seed {options.seed}" if options.seed is not None else ""
        raise no_result(study, f"{options.study}{seed}")
    if options.json:
        _tell(True, _result(study), [])
    else:
        print("\n".join(_result_lines(study)))
    return 0


def _result(study: AnyStudy) -> dict[str, Any]:
    """What `show` says, for programs."""
    from subliminal_dagster.execution.results import verdicts
    from subliminal_dagster.science.settings.study import Study

    store = _store()
    found = {"study": study.name, "figure": str(_figure(store, study)), "report": _report(store, study)}
    return found | verdicts(store, study) if isinstance(study, Study) else found


def _result_lines(study: AnyStudy) -> list[str]:
    from subliminal_dagster.execution.results import evidence_lines, words_written
    from subliminal_dagster.science.settings.study import Study

    store = _store()
    figure, report = _figure(store, study), _report(store, study)
    where = [f"figure: {figure}", *([f"report: {report}"] if report else [])]
    if not isinstance(study, Study):
        return [(figure.parent / "report.md").read_text(encoding="utf-8"), *where]
    return ["", words_written(store, study), *evidence_lines(store, study), "", *where]


def _figure(store: ArtifactStore, study: AnyStudy) -> Path:
    """The picture of a study's result. Raises MissingArtifact where there is none yet."""
    asset = _result_asset(study)
    return store.read(study.name, asset).path / ("summary.png" if asset == "summary" else "animal_liking.png")


def _result_asset(study: AnyStudy) -> str:
    from subliminal_dagster.planning.priority import VERDICT
    from subliminal_dagster.science.settings.study import Study

    return VERDICT if isinstance(study, Study) else "summary"


def _report(store: ArtifactStore, study: AnyStudy) -> str | None:
    """The path of a study's report, if there is one."""
    there = store.exists(study.name, "report")
    return str(store.read(study.name, "report").path / "report.html") if there else None


def _audit(options: argparse.Namespace) -> int:
    from subliminal_dagster.build import overrides_from_environment, study_frame
    from subliminal_dagster.execution.auditing import audited, audited_study
    from subliminal_dagster.planning.selection import wanted_parts

    _check_home(needs_history=True)
    study = load_study(options.model, overrides_from_environment())
    name, study = audited_study(study, options.data, options.traits, options.student, options.rows)
    asset = f"audit_{name}"
    frame = study_frame(study)
    outcome, _ = _made(frame, wanted_parts(frame, asset, None), as_json=options.json)
    for sentence in (*outcome.failed.values(), *outcome.blocked.values(), *outcome.waiting.values()):
        print(sentence, file=sys.stderr)
    if not outcome.complete:
        return 1
    content, lines = audited(_store(), study, asset)
    _tell(options.json, content, lines)
    return 0


def _export(options: argparse.Namespace) -> int:
    from subliminal_dagster.build import study_frame
    from subliminal_dagster.execution.sharing import export_study
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.science.settings.base import user_files
    from subliminal_dagster.science.storage import hub

    study, file, repo = _study(options), Path(options.file), options.to_hub
    _check_home(needs_history=False)
    if repo is not None:
        hub.check_upload(repo)
    store = _store()
    frame = study_frame(study)
    contents = export_study(frame, store, file, options.without)
    size = file.stat().st_size
    lines = [f"{file}: {_held(contents)}, {size / 1e6:.1f} MB"]
    stale = make_plan(frame, store).of("stale")
    if stale:
        such = f"such as {stale[0].name}: {stale[0].reasons[0]}"
        lines.append(f"{len(stale)} are out of date here and will be there, {such}")
    for field, path in user_files(study).items():
        lines.append(f"the study names {path} ({field}): the name goes along, what is there does not")
    uploaded = hub.upload(file, repo) if repo is not None else None
    lines += [f"uploaded: subliminal-dagster import {uploaded}"] if uploaded else []
    content = {"file": str(file), "bytes": size, **_held_as_json(contents), "uploaded": uploaded}
    _tell(options.json, content | {"stale": [part.name for part in stale]}, lines)
    return 0


def _import(options: argparse.Namespace) -> int:
    from subliminal_dagster.execution.sharing import import_study
    from subliminal_dagster.science.settings.base import user_files
    from subliminal_dagster.science.storage import hub

    _check_home(needs_history=False)
    store, given = _store(), options.file
    file = hub.download(given) if given.startswith("hf://") else Path(given)
    found = import_study(file, store, Path.cwd(), options.replace)
    lines = [
        f"{file}: {_held(found.contents)}, {found.contents.size / 1e6:.1f} MB unpacked",
        f"{store.root}: {len(found.new)} imported, {len(found.there)} there already, {len(found.replaced)} in the "
        "place of others",
    ]
    for field, path in user_files(found.study).items():
        unless = "unless the same is there, what is made from it counts as out of date"
        lines.append(f"the study names {path} ({field}): {unless}")
    where = found.settings_file or "come with the package"
    name = found.settings_file.name if found.settings_file else found.study.name
    lines.append(f"its settings: {where}; go on with subliminal-dagster plan --study {name} or show --study {name}")
    report = _report(store, found.study)
    lines += [f"report: {report}"] if report else []
    counts = {"imported": len(found.new), "there_already": len(found.there), "replaced": len(found.replaced)}
    settings = str(found.settings_file) if found.settings_file else None
    content = {"file": str(file), **_held_as_json(found.contents), **counts, "settings": settings, "report": report}
    _tell(options.json, content, lines)
    return 0


def _held(contents: Contents) -> str:
    """What an archive holds, in words."""
    without = ", ".join(dict.fromkeys(entry.key.asset for entry in contents.left_out))
    parts = [f"{len(contents.entries)} artifacts of {contents.study}"]
    parts += [f"{len(contents.refused)} of them refused by a gate"] if contents.refused else []
    parts += [f"without the files of {without}"] if without else []
    return ", ".join(parts)


def _held_as_json(contents: Contents) -> dict[str, Any]:
    return {
        "study": contents.study,
        "artifacts": len(contents.entries),
        "refused": len(contents.refused),
        "without_files": [*dict.fromkeys(entry.key.asset for entry in contents.left_out)],
    }


def _compare(options: argparse.Namespace) -> int:
    _check_home(needs_history=options.seeds is None)
    if options.seeds is not None:
        return _combine(options.seeds, options.json)
    page = _compared()
    _tell(options.json, {"page": page}, [f"page: {page}"])
    return 0


def _compared() -> str:
    """The path of the page of all studies, which is made."""
    from subliminal_dagster.assets import COMPARISON, SUPERPOSITION
    from subliminal_dagster.build import build_defs
    from subliminal_dagster.cli.log_file import printing_to_log
    from subliminal_dagster.execution.instance import open_instance
    from subliminal_dagster.execution.runner import execute_here, failed_steps

    with open_instance() as instance, printing_to_log(sys.stdout):
        events, run_id = execute_here(build_defs(), instance, [COMPARISON, SUPERPOSITION])
        failed = failed_steps(events, run_id)
        if failed:
            raise UserError(failed[0][1])
        made = instance.get_latest_materialization_event(COMPARISON)
    assert made is not None and made.asset_materialization is not None
    return str(made.asset_materialization.metadata["page"].value)


def _combine(names: list[str], as_json: bool) -> int:
    from subliminal_dagster.build import overrides_from_environment, study_frame
    from subliminal_dagster.execution.results import combine_studies, combined_lines
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.planning.priority import VERDICT

    studies = [load_study(name, overrides_from_environment()) for name in names]
    store = _store()
    found = combine_studies(store, studies)
    for frame in map(study_frame, studies):
        due = make_plan(frame, store).limited_to({(VERDICT, None)}, frame).due
        if due:
            print(f"{frame.study.name} is out of date: {due[0].name}: {due[0].reasons[0]}", file=sys.stderr)
    _tell(as_json, found, combined_lines(found))
    return 0


def _gc(options: argparse.Namespace) -> int:
    from subliminal_dagster.build import named_studies, overrides_from_environment, study_frame
    from subliminal_dagster.cli.log_file import LOGS_KEPT, LOGS_KEPT_FOR, old_logs
    from subliminal_dagster.science.storage.retention import Garbage, find_garbage, remove

    def megabytes(items: Iterable[Garbage]) -> float:
        return sum(item.size for item in items) / 1e6

    _check_home(needs_history=False)
    # Whatever a setting from the environment or --set made is not garbage.
    overrides = [*overrides_from_environment(), *options.overrides]
    studies = [load_study(name, overrides) for name in options.study or named_studies()]
    store = _store()
    frames = [study_frame(study) for study in studies]
    expected = {frame.study.name: {name: frame.partitions(name) for name in frame.nodes} for frame in frames}
    garbage = find_garbage(store, expected)
    lines = [f"{item.size / 1e6:10.1f} MB  {item.what}: {item.path}" for item in garbage]
    going = [item for item in garbage if options.outside or not item.outside]
    home = os.environ.get("DAGSTER_HOME")
    logs = {log: log.stat().st_size for log in (old_logs(home) if home else [])}
    if logs:
        lines.append(
            f"{sum(logs.values()) / 1e6:10.1f} MB  {len(logs)} logs of runs in {next(iter(logs)).parent}, older than "
            f"{LOGS_KEPT_FOR.days} days and not among the last {LOGS_KEPT}"
        )
    removed = remove(store, going) if options.delete and going else 0
    if options.delete:
        for log, size in logs.items():
            log.unlink(missing_ok=True)
            removed += size
    if options.delete and (going or logs):
        lines.append(f"removed {removed / 1e6:.1f} MB")
    else:
        total = megabytes(going) + sum(logs.values()) / 1e6
        lines.append(f"{total:.1f} MB to remove" + ("; --delete removes them" if going or logs else ""))
    if len(going) < len(garbage):
        kept = megabytes(item for item in garbage if item.outside)
        lines.append(
            f"{kept:.1f} MB outside the studies' settings, which --set may have made; --delete --outside removes "
            "them as well"
        )
    unknown = sorted(set(store.studies()) - set(expected))
    if unknown:
        lines.append(f"not looked at, since no such study is given: {', '.join(unknown)}")
    found = [{"what": i.what, "path": i.path, "bytes": i.size, "outside": i.outside} for i in garbage]
    content = {"garbage": found, "logs": [*map(str, logs)], "removed_bytes": removed, "not_looked_at": unknown}
    _tell(options.json, content, lines)
    return 0


def _pages(options: argparse.Namespace) -> int:
    from subliminal_dagster.execution.pages import page_server

    _check_home(needs_history=False)
    with page_server(_store(), options.port) as server:
        print(f"reports: http://127.0.0.1:{server.server_port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "studies": _studies,
    "new-study": _new_study,
    "prompts": _prompts,
    "plan": _plan,
    "preflight": _preflight,
    "run": _run,
    "show": _show,
    "audit": _audit,
    "export": _export,
    "import": _import,
    "compare": _compare,
    "pages": _pages,
    "gc": _gc,
}
