"""The functional core: decisions, credit arithmetic, the catalog, messages. No I/O, no clock."""
