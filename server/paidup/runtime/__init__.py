"""What every part of the process uses: clock, logs, metrics, tasks, batching, the connection to Redis."""
