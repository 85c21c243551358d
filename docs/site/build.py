"""Build the documentation as a site: `make docs`. Strict: a broken link fails it.

Copies the documents of the repository to build/site/docs, with their links changed to the site's
pages, adds a reference page for each of openapi.yaml and asyncapi.yaml, and runs zensical.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from reference import http_reference, websocket_reference

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build/site"
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = ("```", "~~~")


def documents() -> dict[Path, Path]:
    """Every document of the repository, and its page of the site."""
    pages = {ROOT / name: Path(page) for name, page in PAGES.items()}
    return pages | {path: Path(path.name) for path in (ROOT / "docs").glob("*.md")}


def rewritten(source: Path, pages: dict[Path, Path], docs: Path) -> Iterator[str]:
    """The lines of a document with links that lead inside the site."""
    inside_code = False
    for line in source.read_text().splitlines():
        inside_code ^= line.lstrip().startswith(FENCE)
        yield line if inside_code else LINK.sub(lambda link: _link(link, source, pages, docs), line)


def _link(link: re.Match[str], source: Path, pages: dict[Path, Path], docs: Path) -> str:
    target = (source.parent / link[1]).resolve()
    anchor = link[2] or ""
    if target in pages:
        return f"]({pages[target]}{anchor})"
    if target.is_dir():  # a folder has no page: its documents are the nearest thing
        readme = target / "README.md"
        return f"]({_copy(readme if readme.is_file() else _first(target), docs)})"
    return f"]({_copy(target, docs)}{anchor})"


def _first(folder: Path) -> Path:
    return min(path for path in folder.iterdir() if path.is_file())


def _copy(target: Path, docs: Path) -> str:
    """A file of the repository that a document links to: pictures as they are, the rest as text."""
    name = str(target.relative_to(ROOT)).removeprefix("docs/")
    if target.parent.name != "images":
        name = f"source/{name.lstrip('.')}.txt"
    (docs / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target, docs / name)
    return name


def main() -> None:
    """Write the pages and build the site. Exits with zensical's warnings where there are any."""
    shutil.rmtree(WORK, ignore_errors=True)
    docs = WORK / "docs"
    docs.mkdir(parents=True)
    pages = documents()
    for source, page in pages.items():
        (docs / page).write_text("\n".join(rewritten(source, pages, docs)) + "\n")
    openapi = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    asyncapi = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text())
    (docs / "http-reference.md").write_text(http_reference(openapi))
    (docs / "websocket-reference.md").write_text(websocket_reference(asyncapi, openapi))
    shutil.copy(Path(__file__).with_name("zensical.toml"), WORK)
    zensical = Path(sys.executable).with_name("zensical")
    build = [str(zensical), "build", "--strict"]
    done = subprocess.run(
        build, cwd=WORK, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout.partition("Traceback")[0]))
    print(f"The site: {(WORK / 'site/index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
