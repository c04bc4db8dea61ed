"""Which artifact: its study, asset and partition, as they are named in calls, in paths and in messages.

Belongs here: which names can be folders, and how a key becomes a path and a path a key. Does not belong here: where
that path begins (`root`), what lies there (`records`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from subliminal_dagster.science.errors import UserError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
# A variant's key is made of settings and their values: `rank=2+replicate=1`.
_PARTITION = re.compile(r"[a-z0-9][a-z0-9._=+-]{0,127}")
_NO_PARTITION = "_"
# What stands between the parts of a partition's key (`owl|09`), and for it in paths, where a shell would see a pipe.
_AXES, _AXES_IN_PATHS = "|", "@"


@dataclass(frozen=True)
class Key:
    """Which artifact; `partition` is None for an asset without, and `owl|09` for one of two axes.

    Names become paths, so making one raises UserError where a name cannot be a folder's.
    """

    study: str
    asset: str
    partition: str | None

    def __post_init__(self) -> None:
        check_name("study", self.study)
        check_name("asset", self.asset)
        if self.partition is not None:
            for part in self.partition.split(_AXES):
                check_name("partition", part)

    @property
    def relative(self) -> str:
        """The path of the artifact's folder below a root."""
        return f"{self.study}/{self.asset}/{(self.partition or _NO_PARTITION).replace(_AXES, _AXES_IN_PATHS)}"

    @property
    def label(self) -> str:
        """What a message calls it."""
        return f"{self.study}/{self.asset}" + (f" [{self.partition}]" if self.partition else "")

    @property
    def materialize(self) -> str:
        """What a message asks for to have it made."""
        return f"materialize {self.asset}" + (f" for partition {self.partition}" if self.partition else "")


def key_at(relative: str) -> Key | None:
    """The key whose folder has this path below a root; None where no key's has."""
    study, _, rest = relative.partition("/")
    asset, _, folder = rest.partition("/")
    for partition in partitions_among([folder]):
        with suppress(UserError):
            return Key(study, asset, partition)
    return None


def check_name(kind: str, name: str) -> None:
    """Raises UserError where the name of a study, asset, ... (`kind`) cannot be a folder's."""
    partition = kind == "partition"
    if not (_is_partition(name) if partition else _is_name(name)):
        marks = "'.', '_', '=', '+' and '-'" if partition else "'.', '_' and '-'"
        raise UserError(
            f"The {kind} name {shown(name)!r} cannot be used: it needs 1 to 128 of a-z, 0-9, {marks}, starting with a "
            "letter or digit and without '..'."
        )


def names_among(folders: Iterable[str]) -> list[str]:
    """Those of some folders' names that a study or an asset can have."""
    return [name for name in folders if _is_name(name)]


def partitions_among(folders: Collection[str]) -> list[str | None]:
    """The partitions that some of the folders below an asset's stand for; None first, the others in the order given."""
    partitions = [folder for folder in folders if all(_is_partition(part) for part in folder.split(_AXES_IN_PATHS))]
    return [
        *([None] if _NO_PARTITION in folders else []),
        *(name.replace(_AXES_IN_PATHS, _AXES) for name in partitions),
    ]


def shown(name: str) -> str:
    """A name nobody vouches for, fit for a message in a terminal, a log or a web page."""
    return re.sub(r"[^A-Za-z0-9 ._/\\:-]", "?", name[:80])


def _is_partition(name: str) -> bool:
    return _PARTITION.fullmatch(name) is not None and ".." not in name


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name
