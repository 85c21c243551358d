"""Stripe's lists: newest first, in pages, filtered. Reads the store; a filter is a predicate on an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from paidup_demo.sandbox.errors import Json, ParameterError, missing
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import INTEGER, TEXT, TIME_RANGE, Shape
from paidup_demo.sandbox.objects import list_of

PAGING: Shape = {"limit": INTEGER, "starting_after": TEXT, "ending_before": TEXT}
PAGING_BY_DATE: Shape = {**PAGING, "created": TIME_RANGE}


def page(url: str, rows: Iterable[Json], params: Json, keep: Callable[[Json], bool] = lambda _: True) -> Json:
    """The page of `rows` (newest first) that `params` ask for."""
    limit = params.get("limit") or 10
    if not 1 <= limit <= 100:
        raise ParameterError("Invalid integer: limit must be between 1 and 100.", param="limit")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise ParameterError("Please only use one of starting_after and ending_before.")
    created = params.get("created", {})
    found = [row for row in rows if keep(row) and within(row["created"] if created else 0, created)]
    if after:
        found = found[_place_of(found, after, "starting_after") + 1 :]
    if before:
        newer = found[: _place_of(found, before, "ending_before")]
        return _shown(url, newer[-limit:], len(newer) > limit)
    return _shown(url, found[:limit], len(found) > limit)


def within(moment: int, bounds: dict[str, int]) -> bool:
    """Whether a moment lies in {"gt", "gte", "lt", "lte"}."""
    return (
        moment > bounds.get("gt", moment - 1)
        and moment >= bounds.get("gte", moment)
        and moment < bounds.get("lt", moment + 1)
        and moment <= bounds.get("lte", moment)
    )


def _place_of(rows: list[Json], row_id: str, param: str) -> int:
    for place, row in enumerate(rows):
        if row["id"] == row_id:
            return place
    raise missing("object", row_id, param)


def _shown(url: str, rows: list[Json], has_more: bool) -> Json:
    return list_of([present(row) for row in rows], url, has_more)
