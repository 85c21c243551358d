"""PostgreSQL as people have it: TLS, several hosts, failovers, poolers, and other defaults."""
