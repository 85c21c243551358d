"""Renders the models of a migration's states without what only queries need, which is most of the work.

Tortoise renders each model again for each operation, with its filters and its SELECT. Our migrations run SQL,
and make no queries of these models. Holds for the length of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pypika_tortoise.queries import Table
from tortoise import models
from tortoise.migrations.schema_generator.state import ModelState
from tortoise.migrations.schema_generator.state_apps import StateApps

_MODELS: Any = models


@contextmanager
def rendered_for_schema_changes() -> Iterator[None]:
    """Within the block, models of migrations' states can be described, and not queried."""
    build, render = StateApps._build_initial_querysets, ModelState.render
    StateApps._build_initial_querysets = _describe  # type: ignore[assignment,method-assign]
    ModelState.render = _without_filters(render)  # type: ignore[method-assign]
    try:
        yield
    finally:
        StateApps._build_initial_querysets = build  # type: ignore[method-assign]
        ModelState.render = render  # type: ignore[method-assign]


def _without_filters(render: Callable[..., Any]) -> Callable[..., Any]:
    def rendered(*arguments: Any, **named: Any) -> Any:
        make_filters = _MODELS.get_filters_for_field
        _MODELS.get_filters_for_field = lambda **_: {}
        try:
            return render(*arguments, **named)
        finally:
            _MODELS.get_filters_for_field = make_filters

    return rendered


def _describe(states: StateApps) -> None:
    """As in Tortoise 1.1.9, without filters and queries."""
    for app in states.apps.values():
        for model in app.values():
            meta = model._meta
            if meta._inited and meta.default_connection is not None:
                meta.finalise_fields()
                meta._generate_lazy_fk_m2m_fields()
                meta._resolve_index_expressions()
                meta.basetable = Table(name=meta.db_table, schema=meta.schema)
