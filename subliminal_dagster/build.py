"""Assembly: studies and resources in, one `Definitions` out.

Belongs here: reading the environment, and putting the parts together. Does not belong here: the parts. Every part can
be given by the caller, so a test can swap any of them.
https://docs.dagster.io/api/dagster/definitions
"""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from subliminal_dagster.assets import (
    activation_assets,
    arm_assets,
    audit_assets,
    base_assets,
    capability_assets,
    checkpoint_assets,
    child_assets,
    comparison_asset,
    description_assets,
    dial_assets,
    entanglement_assets,
    feature_assets,
    interference_assets,
    liking_assets,
    null_cause_assets,
    number_assets,
    probe_assets,
    report_assets,
    steering_assets,
    superposition_asset,
    sweep_assets,
    teacher_assets,
    toy_assets,
    tuning_assets,
)
from subliminal_dagster.execution.carriers.choice import launch_tags
from subliminal_dagster.execution.freshness import check_job, fresh_checks
from subliminal_dagster.execution.jobs import comparison_job, make_job, study_jobs
from subliminal_dagster.execution.pages import PAGES, page_url
from subliminal_dagster.execution.schedules import nightly_cron, study_schedule, study_sensor
from subliminal_dagster.planning.frame import GPU_POOL, Frame
from subliminal_dagster.resources import EngineResource, GpuResource, JudgeResource, StoreResource, TrainerResource
from subliminal_dagster.science.descriptions.chat_api import Endpoint
from subliminal_dagster.science.errors import UserError, meant
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY, load_study, shipped_studies
from subliminal_dagster.science.settings.toy import ToyStudy


def build_defs(
    *,
    studies: Sequence[AnyStudy] | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition | None = None,
    gpu_pool: str | None = GPU_POOL,
    checked: bool = True,
) -> dg.Definitions:
    """The project's definitions.

    `studies` None takes those of the environment (see `studies_from_environment`); `resource_overrides` replaces
    resources by name (`store`, `engine`, `trainer`, `gpu`, `judge`); `executor` None is Dagster's own (a process a
    step); `gpu_pool` None leaves it to the caller how many steps that need a GPU there are at once; `checked` False
    leaves out the checks of what is fresh, for those who carry out a plan and have looked.
    """
    chosen = studies_from_environment() if studies is None else studies
    names = [study.name for study in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"Two studies are called {twice!r}: name each once in SUBLIMINAL_STUDIES, or rename one.")
    launching = launch_tags()
    frames = [Frame(study, gpu_pool, launching) for study in chosen]
    assets = [asset for frame in frames for asset in study_assets(frame)]
    owners, tags = owners_from_environment(), tags_from_environment()
    cron = nightly_cron()
    across = [comparison_asset(chosen), superposition_asset(chosen)]
    checks = {frame.study.name: fresh_checks(frame) for frame in frames} if checked else {}
    return dg.Definitions(
        assets=dg.map_asset_specs(lambda spec: _as_shown(spec, owners, tags), [*assets, *across]),
        asset_checks=[*checks.values()],
        jobs=[
            *(make_job(frame, definitions_apart) for frame in frames),
            *(job for frame in frames for job in study_jobs(frame, checks.get(frame.study.name))),
            *(check_job(study, each) for study, each in checks.items()),
            comparison_job([asset.key for asset in across]),
        ],
        schedules=[study_schedule(frame, cron) for frame in frames],
        sensors=[study_sensor(frame) for frame in frames],
        resources={**resources_from_environment(), **(resource_overrides or {})},
        executor=executor,
    )


def _as_shown(spec: dg.AssetSpec, owners: Sequence[str], tags: Mapping[str, str]) -> dg.AssetSpec:
    """An asset with what an organisation says of all of them, and with a link to its page, if it has one."""
    study, name = spec.key.path
    if name in PAGES:
        spec = spec.replace_attributes(description=f"{spec.description} [Open it]({page_url(study, name)})")
    return spec.merge_attributes(owners=owners, tags=tags)


def definitions_apart(study: AnyStudy) -> dg.Definitions:
    """Those of one study for a worker: without the pool, whose limit is for runs that do not know of each other, since
    a step that waits for it takes a core."""
    return build_defs(studies=[study], gpu_pool=None, checked=False)


def study_frame(study: AnyStudy) -> Frame:
    """A study with all its assets declared, for a plan."""
    frame = Frame(study)
    study_assets(frame)
    return frame


def study_assets(frame: Frame) -> list[dg.AssetsDefinition]:
    """All assets of a study, upstream first."""
    study = frame.study
    if isinstance(study, ToyStudy):
        return [*toy_assets(frame), *report_assets(frame)]
    if isinstance(study, DialStudy):
        return [*dial_assets(frame), *report_assets(frame)]
    assets = [
        *base_assets(frame),
        *teacher_assets(frame),
        *number_assets(frame),
        *child_assets(frame),
        *checkpoint_assets(frame),
        *liking_assets(frame),
        *null_cause_assets(frame),
    ]
    if study.capability:
        assets += capability_assets(frame, study.capability)
    if study.tuning:
        assets += tuning_assets(frame, study.tuning)
    if study.entanglement:
        assets += entanglement_assets(frame, study.entanglement)
    if study.grid:
        assets += sweep_assets(frame, study.grid)
    if study.arms and study.possible_arms:
        assets += arm_assets(frame, study.arms)
    if study.audits:
        assets += audit_assets(frame)
    if study.layers:
        assets += activation_assets(frame)
        if study.sae:
            assets += feature_assets(frame, study.sae)
        assets += probe_assets(frame)
        if study.steering:
            assets += steering_assets(frame, study.steering)
        if study.descriptions:
            assets += description_assets(frame, study.descriptions)
        if study.interference and study.sae and study.steering:
            assets += interference_assets(frame, study.interference)
    return [*assets, *report_assets(frame)]


def studies_from_environment() -> list[AnyStudy]:
    """The studies SUBLIMINAL_STUDIES names (shell words: names of shipped studies, paths of YAML files; unset: the
    bundled one), with the settings of SUBLIMINAL_SET ("field=value" as shell words) laid over them."""
    names = _words("SUBLIMINAL_STUDIES") or [DEFAULT_STUDY]
    return [load_study(name, overrides_from_environment()) for name in names]


def named_studies() -> list[str]:
    """What SUBLIMINAL_STUDIES names, or all shipped studies: for commands that go over what there is."""
    return _words("SUBLIMINAL_STUDIES") or shipped_studies()


def overrides_from_environment() -> list[str]:
    """The settings of SUBLIMINAL_SET, which count for every command and definition alike."""
    return _words("SUBLIMINAL_SET")


def owners_from_environment() -> list[str]:
    """SUBLIMINAL_OWNERS, whom Dagster shows as owners of every asset: e-mail addresses and team:NAME, as shell words.

    Raises UserError for anything else.
    """
    owners = _words("SUBLIMINAL_OWNERS")
    for owner in owners:
        try:
            dg.AssetSpec("any", owners=[owner])
        except dg.DagsterInvalidDefinitionError:
            raise UserError(
                f"SUBLIMINAL_OWNERS has {owner!r}: write an owner as an e-mail address, or as team:NAME."
            ) from None
    return owners


def tags_from_environment() -> dict[str, str]:
    """SUBLIMINAL_TAGS, which Dagster shows on every asset and finds assets by: KEY=VALUE, as shell words.

    Raises UserError for what Dagster does not take as a tag.
    """
    found = {}
    for word in _words("SUBLIMINAL_TAGS"):
        key, equals, value = word.partition("=")
        try:
            dg.AssetSpec("any", tags={key: value})
        except dg.DagsterInvalidDefinitionError:
            equals = ""
        if not equals:
            raise UserError(
                f"SUBLIMINAL_TAGS has {word!r}: write a tag as KEY=VALUE in letters, digits, '_', '-' and '.', such as "
                "project=subliminal."
            )
        found[key] = value
    return found


def _words(variable: str) -> list[str]:
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UserError(f"{variable} is {value!r} ({error}): write it as words for a shell, in quotes.") from None


def resources_from_environment() -> dict[str, Any]:
    """The resources as SUBLIMINAL_ARTIFACTS, SUBLIMINAL_SCRATCH, SUBLIMINAL_ENGINE, SUBLIMINAL_BATCH,
    SUBLIMINAL_GPU_SHARE, SUBLIMINAL_GRADIENT_CHECKPOINTING, SUBLIMINAL_MICRO_BATCH and SUBLIMINAL_JUDGE_... say.

    Raises UserError where one of them, or SUBLIMINAL_GPU_LOCKS, has a value that cannot be used.
    """
    share = _count("SUBLIMINAL_GPU_SHARE", "1", "steps on one GPU")
    rows = "SUBLIMINAL_MICRO_BATCH"
    locks = os.environ.get("SUBLIMINAL_GPU_LOCKS")
    if locks and Path(locks).exists() and not Path(locks).is_dir():
        raise UserError(f"SUBLIMINAL_GPU_LOCKS is {locks!r}, which is a file: set it to a folder.")
    Endpoint.check_environment()
    return {
        "store": StoreResource(root=artifact_root(), scratch=_scratch()),
        "engine": EngineResource(
            engine=_choice("SUBLIMINAL_ENGINE", ("auto", "transformers", "vllm")),
            generate_batch=_count("SUBLIMINAL_BATCH", "64", "prompts"),
            gpu_memory_share=0.85 / share,
        ),
        "gpu": GpuResource(share=share),
        "judge": JudgeResource(
            cache=str(_home() / "judge-answers.sqlite"),
            requests_per_minute=_number("SUBLIMINAL_JUDGE_RPM"),
            reasoning_tokens=int(_number("SUBLIMINAL_JUDGE_REASONING_TOKENS") or 0),
            prompt_price=_number("SUBLIMINAL_JUDGE_PROMPT_PRICE"),
            answer_price=_number("SUBLIMINAL_JUDGE_ANSWER_PRICE"),
        ),
        "trainer": TrainerResource(
            gradient_checkpointing=_choice("SUBLIMINAL_GRADIENT_CHECKPOINTING", ("no", "yes")) == "yes",
            micro_batch=_count(rows, "8", "rows") if rows in os.environ else None,
        ),
    }


def _scratch() -> str | None:
    """SUBLIMINAL_SCRATCH, a folder that all machines see. Raises UserError where it is not an absolute folder."""
    folder = os.environ.get("SUBLIMINAL_SCRATCH")
    if folder and (not Path(folder).is_absolute() or Path(folder).is_file()):
        raise UserError(f"SUBLIMINAL_SCRATCH is {folder!r}: set it to an absolute folder that all machines see.")
    return folder or None


def _choice(variable: str, allowed: tuple[str, ...]) -> Any:
    """The variable's value, the first allowed one where it is unset."""
    value = os.environ.get(variable, allowed[0])
    if value not in allowed:
        raise UserError(f"{variable} is {value!r}: set it to {' or '.join(allowed)}.{meant(value, allowed)}")
    return value


def _count(variable: str, default: str, things: str) -> int:
    """The variable's value, a number from 1 on."""
    value = os.environ.get(variable, default)
    if not value.isdecimal() or int(value) == 0:
        raise UserError(f"{variable} is {value!r}: set it to a whole number of {things}, such as {default}.")
    return int(value)


def _number(variable: str) -> float | None:
    """The variable's value, a number above 0; None where it is unset."""
    value = os.environ.get(variable)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise UserError(f"{variable} is {value!r}: set it to a number above 0, or leave it unset.")
    return number


def artifact_root() -> str:
    """SUBLIMINAL_ARTIFACTS, else the folder `artifacts` in DAGSTER_HOME, else in the working folder.

    Raises UserError where a file is in the way.
    """
    named = os.environ.get("SUBLIMINAL_ARTIFACTS")
    root = named or str(_home() / "artifacts")
    file = next((place for place in (Path(root), *Path(root).parents) if place.is_file()), None)
    if file is not None:
        variable = "SUBLIMINAL_ARTIFACTS" if named else "DAGSTER_HOME"
        raise UserError(f"Artifacts cannot lie in {root}, since {file} is a file: set {variable} to a folder.")
    return root


def check_home(needs_history: bool) -> None:
    """Raise UserError where DAGSTER_HOME is not an absolute folder: results kept relative to the current folder would
    be lost. A command that `needs_history` does not do with SUBLIMINAL_ARTIFACTS alone."""
    home = os.environ.get("DAGSTER_HOME")
    if not home and not needs_history and os.environ.get("SUBLIMINAL_ARTIFACTS"):
        return
    if not home:
        raise UserError(
            "DAGSTER_HOME is not set, so no history would be kept: run 'source scripts/env.sh' first, or set it to an "
            "absolute folder."
        )
    if not Path(home).is_absolute():
        raise UserError(f"DAGSTER_HOME is {home!r}: set it to an absolute folder, such as {Path(home).absolute()}.")


def _home() -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or Path.cwd())
