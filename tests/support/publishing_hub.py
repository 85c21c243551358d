"""A hub that connects to nothing, and hands what is published to the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from paidup.domain.messages import BalanceMessage, CheckoutMessage, StatusMessage
from paidup.realtime.hub import Hub


class PublishingHub(Hub):
    """`on_publish` gets each status; True says that Redis has taken it. Anything else is dropped."""

    def __init__(self, redis: Redis, on_publish: Callable[[StatusMessage], Awaitable[bool]]) -> None:
        super().__init__(redis)
        self._on_publish = on_publish

    async def publish(self, status: StatusMessage) -> bool:
        return await self._on_publish(status)

    async def publish_balance(self, account_id: int, balance: BalanceMessage) -> bool:
        return True

    async def publish_checkout(self, message: CheckoutMessage) -> bool:
        return True
