"""Idempotency keys: the first answer to a key is replayed for later requests, including server errors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from paidup_demo.sandbox.errors import IdempotencyBusyError, IdempotencyMismatchError, Json, ParameterError
from paidup_demo.sandbox.state import Store

MAX_KEY_LENGTH = 255


@dataclass(frozen=True)
class Answer:
    """A recorded answer."""

    status: int
    body: Json
    request_id: str


class IdempotencyKeys:
    """Records answers in the store, and running keys in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: set[str] = set()

    def begin(self, key: str, method: str, path: str, params: Json) -> Answer | None:
        """The recorded answer, or None after claiming the key for this request.

        Raises IdempotencyMismatchError for other parameters than the first time, and
        IdempotencyBusyError while that one is still running.
        """
        if len(key) > MAX_KEY_LENGTH:
            raise ParameterError("Idempotency keys can only be up to 255 characters.")
        print_ = _fingerprint(method, path, params)
        record = self._store.find("idempotency", key)
        if record is not None and record["fingerprint"] != print_:
            raise IdempotencyMismatchError(
                "Keys for idempotent requests can only be used with the same parameters they were first used"
                f" with. Try using a key other than '{key}' if you meant to execute a different request."
            )
        if record is not None:
            return Answer(record["status"], record["body"], record["request_id"])
        if key in self._running:
            raise IdempotencyBusyError(
                "There is currently another in-progress request using this Idempotent Key (that probably"
                f" means you submitted twice, and the other request is still going through): {key}. Please"
                " try again later.",
                code="idempotency_key_in_use",
            )
        self._running.add(key)
        return None

    def finish(self, key: str, method: str, path: str, params: Json, answer: Answer | None) -> None:
        """Release the key and record its answer; None records nothing."""
        self._running.discard(key)
        if answer is None:
            return
        record: Json = {"id": key, "fingerprint": _fingerprint(method, path, params)}
        record |= {"status": answer.status, "body": answer.body, "request_id": answer.request_id}
        self._store.add(record, "idempotency")


def _fingerprint(method: str, path: str, params: Json) -> str:
    return hashlib.sha256(msgspec.json.encode([method, path, params], order="deterministic")).hexdigest()
