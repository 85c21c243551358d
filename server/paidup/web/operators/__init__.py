"""The operators' pages under /operators: what needs attention, one invoice, one account, and what to do."""
