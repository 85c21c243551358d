"""Units: the kinds of credits that an account may have. Nothing of one unit pays for another.

In the code and in the database the default unit is the empty text, whatever `plans.toml` calls it; any other
unit has its name. So rows from before units were named are the default unit's, and it can be renamed.
"""

from __future__ import annotations

DEFAULT_UNIT = ""
DEFAULT_NAME = "credits"
"""What the default unit is called where the plans file names none."""
MAX_UNIT_NAME = 30
MAX_UNITS = 20
"""How many a plans file may name."""
