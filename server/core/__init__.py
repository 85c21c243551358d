"""The functional core: decides, and touches no I/O, no clock and no environment.

Everything here is given values and returns values. What is gathered from Stripe or the
database, and what is done about a decision, lives outside.
"""
