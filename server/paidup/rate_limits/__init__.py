"""Rate limits: per account, and moving windows that all processes share through Redis."""
