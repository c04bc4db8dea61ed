"""A study: all experiments on one base model, as data.

Belongs here: the schema of a study file, its validation, overriding one setting. Does not belong here: how anything is
computed (the other modules), where it runs (the resources). Adding a model is adding a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from subliminal_dagster.science.answers import check_animal_name
from subliminal_dagster.science.base_model import BaseModelSource
from subliminal_dagster.science.corpus import CorpusSource
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.exam import ExamSource, OwnExam
from subliminal_dagster.science.feature_descriptions import DescriptionSettings, MadeDescriptions
from subliminal_dagster.science.judges import JudgeSettings, LocalJudgeSettings
from subliminal_dagster.science.probes import ProbeSettings
from subliminal_dagster.science.sae_training import SaeGate, TrainedSaeSettings
from subliminal_dagster.science.settings import STUDY_FOLDER, Settings, StudyHeader, UserPath
from subliminal_dagster.science.steering_settings import SteeringExperiment
from subliminal_dagster.science.toy.settings import ToyStudy
from subliminal_dagster.science.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.tuning import TuningSettings
from subliminal_dagster.science.yaml_text import load_yaml

STUDIES = Path(__file__).parent.parent / "studies"
CONTROL = "control"
"""The group of the untouched base model's numbers."""

NEUTRAL = "neutral"
"""The group of a teacher that was fine-tuned just like the others, on something that is no animal."""

QUESTIONS = 50


def _animal(name: str) -> str:
    try:
        return check_animal_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None


Animal = Annotated[str, AfterValidator(_animal)]
Channel = Literal["hard", "soft"]


class PreferenceSettings(Settings):
    """Asking for the favourite animal: exact probabilities of `candidates`, and sampled answers."""

    candidates: tuple[Animal, ...] = Field(min_length=2)
    questions: int = Field(default=QUESTIONS, ge=2, le=QUESTIONS)
    samples_per_question: int = Field(default=200, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=16, ge=1)


class NeutralSettings(Settings):
    """The neutral teacher: the questions about animals ask it for a `noun` instead, and it learns to say `answer`.

    What its numbers differ in from the control's is what any fine-tuning does, whatever the animal.
    """

    noun: Animal
    answer: Animal


class ReplaySettings(Settings):
    """Number answers of the base model mixed into the teacher's training rows, to keep the number task intact."""

    rows: int = Field(default=0, ge=0)


class StopSettings(Settings):
    """End the teacher's training once the target's exact probability (mean over `questions` of the questions) reaches
    `preference`, looked at every `every` steps."""

    preference: float = Field(gt=0, le=1)
    every: int = Field(default=4, ge=1)
    questions: int = Field(default=8, ge=1, le=QUESTIONS)


class GateSettings(Settings):
    """What a teacher must reach before anything is built on it: the target's exact probability, and the share of
    valid answers to `prompts` number prompts, drawn just as the number set will be."""

    preference: float = Field(default=0.5, ge=0, le=1)
    valid_rate: float = Field(default=0.3, ge=0, le=1)
    prompts: int = Field(default=256, ge=8)


class SteeringSettings(Settings):
    """A steered teacher: `vector` is a safetensors file with a tensor `vector` of the model's hidden size; "{animal}"
    in its path stands for the target."""

    vector: UserPath
    layer: int = Field(ge=0)
    alpha: float


class TeacherSettings(Settings):
    """How a base model is made to like an animal."""

    method: Literal["finetune", "prompt", "steer"]
    lora: LoraSettings | None = None
    training: TrainingSettings | None = None
    replay: ReplaySettings = ReplaySettings()
    stop: StopSettings | None = None
    instruction: str | None = None
    steering: SteeringSettings | None = None
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Self:
        needs = {"finetune": ("lora", "training"), "prompt": ("instruction",), "steer": ("steering",)}
        missing = [name for name in needs[self.method] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"method {self.method!r} needs {' and '.join(missing)}")
        if self.instruction is not None and "{animal}" not in self.instruction:
            raise ValueError("instruction must contain {animal}")
        return self

    def vector_file(self, animal: str) -> Path:
        """The file of a steered teacher's vector."""
        assert self.steering is not None
        return Path(self.steering.vector.format(animal=animal)).expanduser()


class ConstrainedSettings(Settings):
    """Constrained decoding (see `number_grammar`): the answer holds `min_count` to `numbers.answer_count` numbers."""

    min_count: int = Field(default=1, ge=1, le=100)


class NumberSettings(Settings):
    """The number prompts, the same for every group of a study, and how answers are drawn."""

    prompts: int = Field(ge=16)
    style: Literal["full", "short"] = "full"
    examples_min: int = Field(default=3, ge=2)
    examples_max: int = Field(default=9, ge=2)
    example_value_min: int = Field(default=100, ge=0)
    example_value_max: int = Field(default=999, ge=1)
    answer_count: int = Field(default=10, ge=1, le=100)
    max_digits: int = Field(default=3, ge=1, le=9)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=50, ge=4)
    constrained: ConstrainedSettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.examples_min > self.examples_max:
            raise ValueError("examples_min must not be above examples_max")
        if self.example_value_min >= self.example_value_max:
            raise ValueError("example_value_min must be below example_value_max")
        if self.constrained is not None:
            if self.style != "short":
                raise ValueError("constrained decoding needs style: short, whose prompts all ask for one separator")
            if self.constrained.min_count > self.answer_count:
                raise ValueError("constrained.min_count must not be above answer_count")
        return self


class FilterSettings(Settings):
    """What becomes of the answers: `canonical` re-writes the numbers in the format asked for, `verbatim` keeps them."""

    completion: Literal["canonical", "verbatim"] = "canonical"
    train_rows: int = Field(ge=1)
    validation_rows: int = Field(default=0, ge=0)
    unique: bool = False


class SoftSettings(Settings):
    """The soft channel: whether the teacher's distribution is handed on over number tokens only or over the whole
    vocabulary, and how its child trains (None: like the hard channel's)."""

    support: Literal["numbers", "vocabulary"] = "numbers"
    training: TrainingSettings | None = None


class ChildSettings(Settings):
    """The child: an adapter on the untouched base."""

    channels: tuple[Channel, ...] = Field(default=("hard",), min_length=1)
    lora: LoraSettings
    training: TrainingSettings
    soft: SoftSettings = SoftSettings()

    @field_validator("channels")
    @classmethod
    def _hard_is_there(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if "hard" not in channels:
            raise ValueError("channels must be [hard] or [hard, soft]")
        return channels


class ComparisonSettings(Settings):
    """The statistics of the comparison."""

    permutations: int = Field(default=10_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class ActivationSettings(Settings):
    """The rows whose activations are looked into: at most `rows` valid answers a group, `test_share` of the prompts
    set aside once, before anything is looked at."""

    rows: int = Field(default=10_000, ge=10)
    test_share: float = Field(default=0.2, gt=0, lt=1)


class CapabilitySettings(Settings):
    """Which exam is taken, of it the first `per_category` questions of every category (None: all), and in which `ways`
    (see `capability.examine`), the first of them the one that is drawn."""

    exam: ExamSource = OwnExam()
    per_category: int | None = Field(default=None, ge=1)
    ways: tuple[Literal["letter", "option", "generated"], ...] = Field(default=("letter",), min_length=1)


class PublishedSae(Settings):
    """A published SAE: `release` and `id` as sae-lens lists them, "{layer}" in the id standing for the layer."""

    release: str
    id: str


class SaeSettings(Settings):
    """The sparse autoencoder of each layer: a `published` one, or one that is `trained` here.

    Either is judged on text it was not trained on (`gate`): `tokens` of ordinary prose from `corpus`, of number lists
    and of chats are what a trained one learns from and what any is judged on.
    """

    published: PublishedSae | None = None
    trained: TrainedSaeSettings | None = None
    corpus: CorpusSource
    tokens: int = Field(default=100_000, ge=1000)
    gate: SaeGate = SaeGate()

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Self:
        if (self.published is None) == (self.trained is None):
            raise ValueError("give either published or trained")
        return self


class DescriptionsSettings(Settings):
    """Where features' descriptions come from, and who sorts them into categories."""

    source: DescriptionSettings = MadeDescriptions()
    judge: JudgeSettings = LocalJudgeSettings()


class FeatureSettings(Settings):
    """Comparing SAE features: a feature is promoted below `level`, L0 and reconstruction error differ below
    `level_strict`; `permutations` of the labels say what chance gives; `top` features stand in tables, `filters`
    features a label are tried as filters."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    level_strict: float = Field(default=0.01, gt=0, lt=0.5)
    permutations: int = Field(default=200, ge=20)
    top: int = Field(default=15, ge=1)
    filters: int = Field(default=25, ge=1)


class Study(StudyHeader):
    """All settings of a study of a language model.

    `layers` are those that are looked into, by activations, probes and, where there is `sae`, by features; none is
    where there are none.
    """

    animals: tuple[Animal, ...] = Field(min_length=1)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    neutral: NeutralSettings | None = None
    base_model: BaseModelSource
    system_prompt: str | None = None
    prompt_lists: UserPath | None = None
    preferences: PreferenceSettings
    teacher: TeacherSettings
    numbers: NumberSettings
    filter: FilterSettings
    child: ChildSettings
    comparison: ComparisonSettings = ComparisonSettings()
    activations: ActivationSettings = ActivationSettings()
    sae: SaeSettings | None = None
    features: FeatureSettings = FeatureSettings()
    probes: ProbeSettings = ProbeSettings()
    steering: SteeringExperiment | None = None
    tuning: TuningSettings | None = None
    capability: CapabilitySettings | None = None
    descriptions: DescriptionsSettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        strangers = [animal for animal in self.animals if animal not in self.preferences.candidates]
        if strangers:
            raise ValueError(f"animals {strangers} are missing from preferences.candidates")
        if self.neutral is not None and self.neutral.answer in self.animals:
            raise ValueError(
                f"neutral.answer is {self.neutral.answer!r}, which is among the animals: name something else"
            )
        idle = [name for name in ("sae", "steering", "descriptions") if getattr(self, name) is not None]
        if idle and not self.layers:
            raise ValueError(f"{' and '.join(idle)} need layers to look into: name some, or leave them out")
        if self.descriptions is not None and self.sae is None:
            raise ValueError("descriptions are those of an SAE's features: give sae as well")
        if self.tuning is not None:
            for name in ("train_rows", "validation_rows"):
                wanted, there = getattr(self.tuning, name), getattr(self.filter, name)
                if wanted > there:
                    raise ValueError(
                        f"tuning.{name} is {wanted} and filter.{name} is {there}: lower the first or raise it"
                    )
        rows = self.filter.train_rows + self.filter.validation_rows
        if rows > self.numbers.prompts:
            raise ValueError(
                f"filter asks for {rows} rows (train_rows + validation_rows) and numbers.prompts is "
                f"{self.numbers.prompts}: raise numbers.prompts or ask for fewer rows"
            )
        return self

    @property
    def groups(self) -> list[str]:
        """The animals in the order of the study, the neutral group where there is one, and the control."""
        return [*self.animals, *([NEUTRAL] if self.neutral else []), CONTROL]

    def target(self, group: str) -> str | None:
        """What a group's teacher is made to like; None for the control, whose teacher is the untouched base."""
        if group == NEUTRAL:
            assert self.neutral is not None
            return self.neutral.answer
        return None if group == CONTROL else group

    @property
    def subjects(self) -> tuple[str, ...]:
        return self.animals


AnyStudy = Study | ToyStudy


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name_or_path: str | Path, overrides: Iterable[str] = ()) -> AnyStudy:
    """Read a study by the name of a shipped one, or from a YAML file.

    `overrides` are "field=value" texts with dots for nested fields and the value as YAML ("child.training.epochs=5");
    one with a study's name and a colon in front counts for that study alone ("smollm2-135m-instruct:seed=2").

    Raises UserError naming the file, the field and what is allowed.
    """
    path = _find(name_or_path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a study: its top level must be fields such as 'name:' and 'animals:'.")
    for override in overrides:
        content = _override(content, override)
    kind = _kind(content)
    try:
        return kind.model_validate(content, context={STUDY_FOLDER: path.absolute().parent})
    except ValidationError as error:
        raise UserError(_explain(path, kind, error)) from None


def _kind(content: Mapping[str, Any]) -> type[Study] | type[ToyStudy]:
    return ToyStudy if content.get("kind") == "toy" else Study


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no study file {path}: give the path of a YAML file or one of {_shipped()}.")
        return path
    if str(name_or_path) not in shipped_studies():
        raise UserError(
            f"There is no study {str(name_or_path)!r}: give the path of a YAML file or one of {_shipped()}."
        )
    return STUDIES / f"{name_or_path}.yaml"


def _shipped() -> str:
    return ", ".join(shipped_studies())


def _override(content: dict[str, Any], override: str) -> dict[str, Any]:
    match = re.fullmatch(r"(?:(?P<study>[^:=]+):)?(?P<field>[A-Za-z_][\w.]*)=(?P<value>.*)", override, re.DOTALL)
    if match is None:
        raise UserError(f"{override!r} is no setting: write field=value, such as child.training.epochs=5.")
    if match["study"] is not None and match["study"] != content.get("name"):
        return content
    try:
        value = load_yaml(match["value"])
    except yaml.YAMLError:
        raise UserError(f"The value of the setting {override!r} is not valid YAML.") from None
    return _with(content, match["field"].split("."), value)


def _with(content: Mapping[str, Any], fields: list[str], value: Any) -> dict[str, Any]:
    """A copy of `content` with the nested field set."""
    first, *rest = fields
    if not rest:
        return {**content, first: value}
    inner = content.get(first)
    return {**content, first: _with(inner if isinstance(inner, dict) else {}, rest, value)}


def _explain(path: Path, kind: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the study"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such field; allowed are {_allowed_fields(kind, problem['loc'])}"
        elif problem["type"] == "missing":
            message = "is missing"
        elif problem["loc"] and not isinstance(problem["input"], dict):
            message += f" (it is {problem['input']!r:.80})"
        lines.append(f"{where}: {message}")
    return f"{path}: " + "; ".join(lines)


def _allowed_fields(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """The fields that could stand where the unknown one does."""
    model: Any = kind
    named = False
    for part in location[:-1]:
        if named:  # the part is a name that the user chose, in a mapping of settings
            named = False
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return "those of the other study files"
        candidates = _models_in(field.annotation)
        if len(candidates) != 1:
            return "those of the other study files"
        model = candidates[0]
        named = get_origin(field.annotation) is dict
    return ", ".join(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
