"""The settings of operators, a part of `Settings`: who may see their pages, and who may act there."""

from __future__ import annotations

import re

import msgspec

HEADER_NAME = re.compile(r"[0-9A-Za-z-]+")
EVERYBODY = "*"
_TAKEN = frozenset(
    {
        "authorization",
        "cookie",
        "forwarded",
        "host",
        "origin",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
    }
)
"""Headers that a client sends itself, or that name something else."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True, rename=str.upper):
    """`operator_token` may act, `operator_read_token` only reads.

    `operator_header`: in which header a trusted proxy names the user; then `operator_writers` may act.
    """

    operator_token: str = ""
    operator_read_token: str = ""
    operator_header: str = ""
    operator_writers: str = ""

    @property
    def has_operators(self) -> bool:
        """Whether the operators' pages exist."""
        return bool(self.operator_token or self.operator_read_token or self.operator_header)

    def may_write(self, user: str) -> bool:
        """Whether the user whom a proxy names may act. Nobody, unless OPERATOR_WRITERS says so."""
        return bool({user, EVERYBODY} & {each.strip() for each in self.operator_writers.split(",")} - {""})


def operator_problems(settings: OperatorSettings) -> list[str]:
    """Two roles with one token, headers that anybody may send, and writers whom nothing names."""
    problems = []
    if settings.operator_token and settings.operator_token == settings.operator_read_token:
        problems.append("OPERATOR_READ_TOKEN is the same as OPERATOR_TOKEN: who only reads could act")
    header = settings.operator_header
    if header and (not HEADER_NAME.fullmatch(header) or header.lower() in _TAKEN):
        problems.append(
            f"OPERATOR_HEADER: {header!r} is not a header in which a proxy names the user, such as"
            " X-Forwarded-Email"
        )
    if settings.operator_writers.strip(" ,") and not header:
        problems.append("OPERATOR_WRITERS needs OPERATOR_HEADER: nothing else names users")
    return problems
