"""Connects to Redis, standalone or a cluster, and lists the errors that mean it is unavailable."""

from __future__ import annotations

from typing import Any

import redis
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisClusterException, RedisError

RedisClient = Redis | RedisCluster
REDIS_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""RedisClusterException (no reachable node, an uncovered slot) is not a RedisError."""

DRIVER = DriverInfo(lib_version=redis.__version__)
"""What each connection tells Redis of its client. redis-py would read its version from a file each time."""


def connect_redis(url: str, cluster: bool = False) -> RedisClient:
    """A client whose calls fail within seconds, since every caller has a fallback.

    With `cluster`, `url` lists one or several nodes, separated by commas; they report the others.
    """
    timeouts: dict[str, Any] = {
        "socket_timeout": 2.0,
        "socket_connect_timeout": 2.0,
        "retry": Retry(NoBackoff(), 1),
        "health_check_interval": 0,
        "driver_info": DRIVER,
    }
    if cluster:
        return _connect_cluster(url, timeouts)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=50,  # beyond that, callers wait for a connection instead of failing
        timeout=2.0,
        **timeouts,
    )
    return Redis.from_pool(pool)


def _connect_cluster(urls: str, timeouts: dict[str, Any]) -> RedisCluster:
    """The first URL's user, password and TLS apply to all nodes."""
    seeds = [parse_url(url.strip()) for url in urls.split(",")]
    nodes = [ClusterNode(seed.get("host", "localhost"), seed.get("port", 6379)) for seed in seeds]
    options: dict[str, Any] = {
        name: value for name, value in seeds[0].items() if name not in ("host", "port", "db")
    }
    return RedisCluster(
        startup_nodes=nodes,
        ssl=options.pop("connection_class", None) is SSLConnection,
        require_full_coverage=False,  # customers on covered slots are served while others are uncovered
        max_connections=50,
        **options,
        **timeouts,
    )
