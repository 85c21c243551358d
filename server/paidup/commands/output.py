"""Where the commands print. It imports little: `paidup --help`, `serve` and `sandbox` start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from paidup.runtime.terminal import WholeLines


class _Late:
    """A console that is made when it is used: Rich takes long to import, and a server prints nothing."""

    def __init__(self, stderr: bool = False) -> None:
        self._stderr = stderr
        self._made: WholeLines | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            from paidup.runtime.terminal import WholeLines  # noqa: PLC0415

            self._made = WholeLines(self._stderr)
        return getattr(self._made, name)


console = cast("WholeLines", _Late())
error_console = cast("WholeLines", _Late(stderr=True))
