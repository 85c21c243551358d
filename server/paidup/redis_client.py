"""The Redis client: one Redis or a cluster, and the errors by which either says that it is away."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

RedisClient = Redis | RedisCluster
REDIS_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""A RedisClusterException is no RedisError: no node of a cluster can be reached, or nobody holds a slot."""


def connect_redis(url: str, cluster: bool = False) -> RedisClient:
    """A client whose calls fail within seconds: every user of it has something better to do than wait.

    With `cluster`, `url` names one node or several, separated by commas: the rest is asked of them.
    """
    patience: dict[str, Any] = {
        "socket_timeout": 2.0,
        "socket_connect_timeout": 2.0,
        "retry": Retry(NoBackoff(), 1),
        "health_check_interval": 0,
    }
    if cluster:
        return _connect_cluster(url, patience)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=50,  # a burst waits for a connection instead of being refused one
        timeout=2.0,
        **patience,
    )
    return Redis.from_pool(pool)


def _connect_cluster(urls: str, patience: dict[str, Any]) -> RedisCluster:
    """The first address says how to connect to all: the user, the password, TLS."""
    seeds = [parse_url(url.strip()) for url in urls.split(",")]
    nodes = [ClusterNode(seed.get("host", "localhost"), seed.get("port", 6379)) for seed in seeds]
    options: dict[str, Any] = {
        name: value for name, value in seeds[0].items() if name not in ("host", "port", "db")
    }
    return RedisCluster(
        startup_nodes=nodes,
        ssl=options.pop("connection_class", None) is SSLConnection,
        require_full_coverage=False,  # while nobody holds some slots, the others' customers are served
        max_connections=50,
        **options,
        **patience,
    )
