"""The format of RETURN_PAGE: the language, texts and colours of the page that customers come back to.

Defines it and checks it; reads no file. Texts are those of the element `<paidup-activation>`, with a few
that only a page needs. A language may have any part of them; the rest is in English.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from paidup.domain.onward_addresses import origin_of
from paidup.domain.toml_faults import Fault, describe, find_faults
from paidup.errors import ConfigurationError

Texts = dict[str, dict[str, str]]
"""By state, or `steps` or `page`; then by what it is: `heading`, `text`, `again`."""
Language = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z")]
CssValue = Annotated[str, msgspec.Meta(pattern=r"\A[^;{}<>\\@\x00-\x1f]{1,200}\Z")]
"""What can end neither its declaration nor its style sheet."""


class Theme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Values of the element's custom properties, and the page's background."""

    background: CssValue | None = None
    ink: CssValue | None = None
    ink_soft: CssValue | None = None
    surface: CssValue | None = None
    line: CssValue | None = None
    accent: CssValue | None = None
    on_accent: CssValue | None = None
    good: CssValue | None = None
    bad: CssValue | None = None
    font: CssValue | None = None
    radius: CssValue | None = None
    padding: CssValue | None = None


class ReturnPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`name`: the product's, for the title. `home`: where a customer goes whose session names no address."""

    lang: Language = "en"
    name: str = ""
    home: str = ""
    light: Theme = Theme()
    dark: Theme = Theme()
    words: dict[str, Texts] = {}

    def language(self, wanted: str) -> str:
        """The language to use: the wanted one, or one without its region, if it has texts; else `lang`."""
        for name in (wanted, wanted.partition("-")[0]):
            for known in ("en", *self.words, self.lang):
                if name.lower() == known.lower():
                    return known
        return self.lang

    def texts(self, language: str, english: Mapping[str, Mapping[str, str]]) -> Texts:
        """All texts in the language."""
        own = self.words.get(language, {})
        return {state: {**said, **own.get(state, {})} for state, said in english.items()}


def parse_return_page(text: bytes, source: str, english: Mapping[str, Mapping[str, str]]) -> ReturnPage:
    """Parse a return page's file. Raises ConfigurationError that names every fault, with its line and key."""
    try:
        decoded = text.decode("utf-8-sig")
        document = tomllib.loads(decoded)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{source}: {error}"]) from error
    faults = (*find_faults(document, ReturnPage), *_bad_home(document), *_unknown_texts(document, english))
    if found := [*faults]:
        raise ConfigurationError(describe(found, decoded, source))
    return msgspec.convert(document, ReturnPage)


def _bad_home(document: dict[str, Any]) -> Iterator[Fault]:
    home = document.get("home")
    if isinstance(home, str) and home and origin_of(home) is None:
        yield Fault(("home",), "not an address such as https://app.example.com/start")


def _unknown_texts(document: dict[str, Any], english: Mapping[str, Mapping[str, str]]) -> Iterator[Fault]:
    """Texts that nothing would show: a state or a part that there is not."""
    words = document.get("words")
    for language, states in words.items() if isinstance(words, dict) else ():
        for state, said in states.items() if isinstance(states, dict) else ():
            place = ("words", language, state)
            if state not in english:
                yield Fault(place, f"there is no such state; known are {', '.join(english)}")
                continue
            for name in said if isinstance(said, dict) else ():
                if name not in english[state]:
                    yield Fault((*place, name), f"unknown text; known are {', '.join(english[state])}")
