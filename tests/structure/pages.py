"""Parses the documents for the tests: headings, pictures, blocks of code, commands."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.structure.sources import ROOT

FENCE = re.compile(r"^ *```(?P<language>\S*)[^`]*$")
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
COMMENT = re.compile(r"(^|\s+)# .*$")


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is its fence's; `follows` is the block before it, if no text is between."""

    page: Page
    line: int
    language: str
    text: str
    follows: Block | None = None

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block, as printed; `answer` is the JSON block that follows it."""

    where: str
    text: str
    answer: str | None = None


@dataclass(frozen=True)
class Picture:
    """An embedded picture. `text` says what it shows, to those who cannot see it."""

    where: str
    text: str
    target: str


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def blocks(self) -> list[Block]:
        found: list[Block] = []
        opened: tuple[int, str] | None = None
        words = True
        body: list[str] = []
        for number, line in enumerate(self.lines, 1):
            fence = FENCE.match(line)
            if opened is None and fence:
                opened, body = (number, fence["language"]), []
            elif opened is not None and line.strip() == "```":
                before = found[-1] if found and not words else None
                found.append(Block(self, *opened, textwrap.dedent("\n".join(body)), before))
                opened, words = None, False
            elif opened is not None:
                body.append(line)
            elif line.strip():
                words = True
        assert opened is None, f"{self.name}:{opened}: a block is never closed"
        return found

    def prose(self) -> list[tuple[int, str]]:
        """The numbered lines outside of blocks."""
        inside = False
        found = []
        for number, line in enumerate(self.lines, 1):
            if inside or FENCE.match(line):
                inside = line.strip() != "```" if inside else True
            else:
                found.append((number, line))
        return found

    def anchors(self) -> set[str]:
        """The anchors of this page, as GitHub makes them from its headings."""
        found: set[str] = set()
        for _, line in self.prose():
            if heading := re.match(r"#{1,6} +(.*)", line):
                words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
                slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
                number = 0
                while (name := f"{slug}-{number}" if number else slug) in found:
                    number += 1
                found.add(name)
            found |= set(re.findall(r'<a (?:id|name)="([^"]+)"', line))
        return found

    def pictures(self) -> list[Picture]:
        return [
            Picture(f"{self.name}:{number}", match["text"], match["target"])
            for number, line in self.prose()
            for match in PICTURE.finditer(line)
        ]

    def commands(self) -> list[Command]:
        found = []
        shown = {block.follows: block.text for block in self.blocks() if block.language == "json"}
        for block in self.blocks():
            if block.language in ("sh", "bash", "shell", "console"):
                commands = _commands(block)
                answer = shown.get(block)
                found += [
                    Command(where, text, answer if number == len(commands) else None)
                    for number, (where, text) in enumerate(commands, 1)
                ]
        return found


def _commands(block: Block) -> list[tuple[str, str]]:
    found = []
    whole, began = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if not whole:
            line, began = COMMENT.sub("", line), number
        whole = f"{whole}\n{line}".strip()
        if whole.endswith("\\") or not _whole(whole):
            continue
        if whole:
            found.append((f"{block.page.name}:{began}", whole.replace("\\\n", " ")))
        whole = ""
    assert not whole, f"{block.where}: a command is incomplete"
    return found


def _whole(command: str) -> bool:
    """Whether every quote is closed."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


@cache
def pages() -> list[Page]:
    return [Page(path) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])]
