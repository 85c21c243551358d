"""The soak: an hour's worth of customers in a few minutes, and whether the server keeps anything of them.

`python -m tests.soak` (`make soak`); a short one is part of the suite.
"""
