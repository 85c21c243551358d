"""Keeps Tortoise from searching our models' source for comments. Imported before the models are defined.

Tortoise takes comments that begin with `#:` for descriptions of columns. Ours have none, and for each model
Python parses the whole module: a quarter of a second in all. A host application's own models are searched as
ever.
"""

from __future__ import annotations

from tortoise import models
from tortoise.models import Model

_search = models._get_comments


def _get_comments(cls: type[Model]) -> dict[str, str]:
    return {} if cls.__module__.startswith("paidup.") else _search(cls)


models._get_comments = _get_comments
