"""What `mkdocs` is told beyond mkdocs.yml: the pages of deploy/ belong to the site, beside those of docs/.

In the repository the two folders are neighbours, and links say so (`../deploy/slurm.md`, `../docs/cluster.md`); in the
site deploy/ is within docs/.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def on_files(files: Files, config: Any) -> Files:
    for page in sorted(DEPLOY.glob("*.md")):
        files.append(File.generated(config, f"deploy/{page.name}", abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../deploy/", "](deploy/").replace("](../docs/", "](../")
