"""Makes the start of a command cheaper: what its imports do, and nobody asks for, is left out."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import ssl

OPTIONAL = ("opentelemetry", "pydantic")
"""What libraries import where it is installed, for what Paidup does not use: redis-py, to measure itself;
Tortoise, for columns that hold Pydantic's models. Traces, and Typer's options, import them later."""


@contextmanager
def quick_imports(*without: str) -> Iterator[None]:
    """Import without collecting garbage, of which imports make little, and without what only may be used.

    `without`: more modules that libraries import where they are installed.

    Stripe's SDK imports `requests` for calls without asyncio, which Paidup never makes. Tortoise parses its
    largest module for comments in its source, of which there are none: see db/model_comments.py. aiohttp
    reads all CA certificates twice, for contexts that may never be used.
    """
    import ssl  # noqa: PLC0415 (`paidup --help` needs none)

    _defer("requests")
    gc.disable()
    try:
        with ExitStack() as stack:
            stack.enter_context(_replaced(inspect, "getsource", _no_source))
            stack.enter_context(_replaced(ssl.SSLContext, "set_default_verify_paths", _trust_when_used))
            for name in (*OPTIONAL, *without):
                stack.enter_context(_absent(name))
            yield
    finally:
        gc.freeze()  # what was imported stays, and need not be searched for garbage
        gc.enable()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = inspect.getattr_static(owner, name)
    own = name in vars(owner)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """To import this module fails in the block, as where it is not installed, unless that was done before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_init(package: str) -> Iterator[None]:
    """Import modules of this package in the block, and not what its `__init__` imports of others.

    They are a copy of their own: nothing of it is left for what imports the package later. Raises
    ModuleNotFoundError.
    """
    if package in sys.modules:
        yield
        return
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations or [])
    sys.modules[package] = bare
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def _no_source(_: object) -> NoReturn:
    raise OSError("not while a command starts")


def _trust_when_used(context: ssl.SSLContext) -> None:
    """Let the context read the CA certificates when it is first asked to wrap a connection."""
    for name in ("wrap_bio", "wrap_socket"):
        setattr(context, name, _Wrapping(context, name))


class _Wrapping:
    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context, self._name = context, name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        for name in ("wrap_bio", "wrap_socket"):
            vars(self._context).pop(name, None)
        self._context.set_default_verify_paths()
        return getattr(self._context, self._name)(*arguments, **named)


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
