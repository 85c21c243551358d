"""List words that the repository does not use, from words.txt: `python -m tests.structure.words`.

Reads the text files that git tracks. Identifiers are split at underscores and capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.structure.sources import ROOT, tracked

LIST = Path(__file__).with_name("words.txt")
SUFFIXES = {
    *(".py", ".js", ".jsx", ".ts", ".css", ".html", ".md"),
    *(".toml", ".yaml", ".yml", ".sh", ".example", ".conf"),
}
ALLOW = "words: allow"
TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:'s)?")
PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True)
class Words:
    """What to write instead of each word, and where a word counts."""

    replacements: dict[str, str]
    only_prose: frozenset[str]
    only_identifiers: frozenset[str]

    @classmethod
    def read(cls, text: str) -> Words:
        replacements, kinds = {}, {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                named, _, replacement = line.partition(" -> ")
                kind, _, word = named.rpartition(": ")
                replacements[word], kinds[word] = replacement, kind
        return cls(
            replacements,
            frozenset(word for word, kind in kinds.items() if kind == "prose"),
            frozenset(word for word, kind in kinds.items() if kind == "identifiers"),
        )

    def found_in(self, line: str) -> Iterator[str]:
        """The words to replace in one line, as often as they occur."""
        if ALLOW in line:
            return
        for token in TOKEN.findall(line):
            parts = [part.lower() for part in PART.findall(token)]
            is_word = len(parts) == 1 and token.lower() == parts[0]
            for part in parts:
                if part not in self.replacements:
                    continue
                if is_word and token.islower() and part in self.only_identifiers:
                    continue
                if is_word or part not in self.only_prose:
                    yield part


def findings() -> Iterator[str]:
    """A line for each place: path, line, word, replacement."""
    words = Words.read(LIST.read_text())
    for path in tracked():
        name = path.relative_to(ROOT)
        if path.suffix not in SUFFIXES:
            continue
        lines = [name.stem.replace("-", "_") + "_", *path.read_text().splitlines()]
        for number, line in enumerate(lines):
            for word in words.found_in(line):
                yield f"{name}:{number or 'name'}: {word} -> {words.replacements[word]}"


def main() -> None:
    found = list(findings())
    print("\n".join([*found, f"{len(found)} words to replace"]))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
