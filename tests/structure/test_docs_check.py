"""Checks links, pictures, code blocks and commands of the documents. `make docs-check` runs it."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from paidup import client
from paidup.cli import app
from tests.documents.commands import ELSEWHERE, HERE, OUTSIDE
from tests.structure.pages import Block, Page, pages
from tests.structure.sources import ROOT
from tests.support.node import ENVIRONMENT, MODULES, NODE

LANGUAGES = {
    *("sh", "json", "js", "ts", "jsx", "tsx", "html", "css", "python", "sql"),
    *("yaml", "toml", "ini", "nginx", "dockerfile", "text"),
}
DRAWING = set("─│┌└►▼")
MOST_BYTES = 200_000
MOST_BYTES_MOVING = 1_000_000
each_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def blocks(*languages: str) -> list[Block]:
    return [block for page in pages() for block in page.blocks() if block.language in languages]


def test_every_link_leads_to_a_document_and_a_heading() -> None:
    """lychee checks links within the repository, pictures and anchors included. It never goes online."""
    lychee = Path(sys.executable).parent / "lychee"
    if not lychee.exists():
        pytest.skip("lychee is not here: `make check` installs it")
    names = [page.path for page in pages()] + [ROOT / "client_demo/paidup_demo/sdk/README.md"]
    done = run(lychee, "--offline", "--include-fragments", "--no-progress", *names)
    assert done.returncode == 0, done.stdout + done.stderr


@each_page
def test_every_picture_is_small_and_has_a_text(page: Page) -> None:
    for picture in page.pictures():
        path = page.path.parent / picture.target
        most = MOST_BYTES_MOVING if path.suffix in (".gif", ".webp", ".webm") else MOST_BYTES
        assert path.stat().st_size <= most, f"{picture.where}: {picture.target} is large"
        assert len(picture.text) >= 20, f"{picture.where}: say what {picture.target} shows"


def test_every_svg_parses_and_loads_nothing() -> None:
    for path in (ROOT / "docs" / "images").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert not re.search(r"<script|(?:href|src)=[\"']https?:|@import", path.read_text()), path.name


@each_page
def test_every_block_says_its_language(page: Page) -> None:
    """Except for drawings."""
    wrong = [
        block.where
        for block in page.blocks()
        if block.language not in LANGUAGES and (block.language or not DRAWING & set(block.text))
    ]
    assert wrong == []


@pytest.mark.parametrize("block", blocks("python", "json", "yaml", "toml"), ids=lambda block: block.where)
def test_code_blocks_parse(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "toml":
        assert tomllib.loads(block.text)
    else:
        assert documents_in(block.text)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.where)
def test_samples_call_the_client_with_its_own_arguments(block: Block) -> None:
    """What `paidup.client` exports, and the methods of a `paidup`."""
    for call in ast.walk(ast.parse(block.text)):
        match call:
            case ast.Call(func=ast.Name(id=name)):
                called, given = getattr(client, name, None), [*call.args]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="paidup"), attr=name)):
                called, given = getattr(client.Paidup, name, None), [call.func, *call.args]
            case _:
                continue
        if called:
            signature(called).bind(*given, **{each.arg: each for each in call.keywords if each.arg})


def documents_in(text: str) -> list[Any]:
    """One JSON document after another."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


def test_javascript_blocks_parse(tmp_path: Path) -> None:
    """A block may be a part of a function, with `return` and `await`, after its imports."""
    for number, block in enumerate(blocks("js")):
        lines = block.text.splitlines()
        imports = [line for line in lines if line.startswith("import ")]
        rest = "\n".join(line for line in lines if line not in imports)
        path = tmp_path / f"{number}.mjs"
        whole = "export " in rest
        path.write_text("\n".join([*imports, rest if whole else f"async function shown() {{\n{rest}\n}}"]))
        done = run(NODE, "--check", path)
        assert done.returncode == 0, f"{block.where}: {done.stderr}"


def test_typescript_blocks_parse() -> None:
    esbuild = MODULES / ".bin" / "esbuild"
    for block in blocks("ts", "jsx", "tsx"):
        if not esbuild.exists():
            pytest.skip("esbuild is not here: `make test` installs it")
        done = run(esbuild, f"--loader={block.language}", "--log-level=error", given=block.text)
        assert done.returncode == 0, f"{block.where}: {done.stderr}"


def run(*command: Path | str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@each_page
def test_every_command_is_run_by_a_test(page: Page) -> None:
    """If this fails, add the command to tests/documents/commands.py."""
    strange = [
        f"{command.where}: {command.text}"
        for command in page.commands()
        if not HERE.match(command.text)
        and command.text not in ELSEWHERE
        and not any(pattern.match(command.text) for pattern in OUTSIDE)
    ]
    assert strange == []


@cache
def functions_of_tests() -> frozenset[str]:
    written = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(name for text in written for name in re.findall(r"def (test_\w+)", text))


def test_the_tests_that_run_commands_exist() -> None:
    assert set(ELSEWHERE.values()) - functions_of_tests() == set()


@each_page
def test_commands_in_the_text_exist(page: Page) -> None:
    """`paidup explain`, `make soak`, `python -m tests.bench.sockets`: each must exist."""
    subcommands = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    strange = []
    for number, line in page.prose():
        for code in re.findall(r"`([^`]+)`", line):
            words = code.split()
            if words[0] == "paidup" and len(words) > 1:
                good = words[1] in subcommands or words[1].startswith("-")
            elif words[0] == "make" and len(words) > 1:
                good = words[1] in targets
            elif words[:2] == ["python", "-m"]:
                good = importlib.util.find_spec(words[2]) is not None
            else:
                continue
            if not good:
                strange.append(f"{page.name}:{number}: {code}")
    assert strange == []
