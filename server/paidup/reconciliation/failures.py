"""The errors that may end one sweep, or the work on one row, without stopping the reconciler."""

from __future__ import annotations

import msgspec

from paidup.db.connection import OUTAGES
from paidup.errors import PaidupError

FAILURES: tuple[type[BaseException], ...] = (PaidupError, msgspec.DecodeError, *OUTAGES)
