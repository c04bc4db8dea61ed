"""Write subliminal_dagster/studies/study.schema.json, by which editors check study files, after a change of settings.

python scripts/study_schema.py
"""

import json

from subliminal_dagster.science.settings.schema import SCHEMA_FILE, study_schema

SCHEMA_FILE.write_text(json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
