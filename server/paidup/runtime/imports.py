"""Makes the start of a command cheaper: what its imports do, and nobody asks for, is left out."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn, cast


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without collecting garbage, of which imports make little, and without what only may be used.

    Stripe's SDK imports `requests` for calls without asyncio, which Paidup never makes. Tortoise parses its
    largest module for comments in its source, of which there are none: see db/model_comments.py.
    """
    _defer("requests")
    gc.disable()
    find_source, inspect.getsource = inspect.getsource, cast(Any, _no_source)
    try:
        yield
    finally:
        inspect.getsource = find_source
        gc.enable()


def _no_source(_: object) -> NoReturn:
    raise OSError("not while a command starts")


def _defer(name: str) -> None:
    """Load this module when one of its attributes is used."""
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        sys.modules[name] = module = _Deferred(name)
        module.__spec__ = spec


class _Deferred(ModuleType):
    """Stands for a module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
