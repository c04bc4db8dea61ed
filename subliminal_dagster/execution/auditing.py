"""The audit of one data set by the command: a study with that data set in it, and what was found.

Belongs here: from what is given to a study, and from its artifact to what is said. Does not belong here: the audit
(`science.audit`), how it is made (`runner`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from subliminal_dagster.science.audit.data import read_chats
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.audit import HUB, AuditSettings, traits_of
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.hub import download
from subliminal_dagster.science.storage.store import ArtifactStore


def audited_study(
    study: AnyStudy, data: str, traits: str | None, student: str | None, rows: int | None
) -> tuple[str, Study]:
    """The study with one more data set in `audits`, and the name it has there: that of its file.

    Raises UserError for what can be known before a model is loaded: a file that cannot be read, rows that are no chats,
    candidates that cannot be used.
    """
    if not isinstance(study, Study):
        raise UserError(f"{study.name} has no language model to audit for: name a study of one.")
    if rows is not None and rows < _least_rows():
        raise UserError(f"--rows is {rows}: an audit looks at {_least_rows()} or more.")
    places = {"data": data, "traits": traits, "student": student}
    here = {
        field: place if place is None or place.startswith(HUB) else str(Path(place).expanduser().absolute())
        for field, place in places.items()
    }
    if student is not None and not Path(student).is_dir():
        raise UserError(f"There is no folder {student}: give that of a model or adapter, or leave --student out.")
    given: dict[str, Any] = {**here, **({} if rows is None else {"rows": rows})}
    settings = AuditSettings.model_validate(given)
    read_chats(fetched(settings.data), settings.rows, study.seed)
    traits_of(study, settings.traits)
    name = re.sub(r"[^a-z0-9]+", "_", Path(data).stem.lower()).strip("_")[:40] or "data"
    return name, study.model_copy(update={"audits": {**study.audits, name: settings}})


def fetched(data: str) -> Path:
    """A data set's file, from the hub where its address is one of there. Raises UserError."""
    return download(data) if data.startswith(HUB) else Path(data).expanduser()


def _least_rows() -> int:
    return next(int(each.ge) for each in AuditSettings.model_fields["rows"].metadata if hasattr(each, "ge"))


def audited(store: ArtifactStore, study: Study, asset: str) -> tuple[dict[str, Any], list[str]]:
    """What was found: for programs, and as lines."""
    import pandas as pd

    folder = store.read(study.name, asset).path
    page = folder / "audit.html"
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("combined", "candidates", "surface")}
    content: dict[str, Any] = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    lines = [*(folder / "audit.md").read_text(encoding="utf-8").splitlines(), f"page: {page}"]
    return {"study": study.name, "page": str(page), **content}, lines
