"""`python -m tests.support.sandbox_process`: the sandbox, with one control more for the start of each test.

For an empty sandbox with the catalogue's prices a test makes one request, instead of one for each price.
"""

from __future__ import annotations

import sys

from paidup_demo.sandbox import controls, forms
from paidup_demo.sandbox.__main__ import main
from paidup_demo.sandbox.api import Call
from paidup_demo.sandbox.api_catalogue import OPERATIONS
from paidup_demo.sandbox.controls import ControlRequest
from paidup_demo.sandbox.errors import Json

CREATE_PRICE = next(each for each in OPERATIONS if each.name == "POST /v1/prices")


def begin(ask: ControlRequest) -> Json:
    """POST /sandbox/begin {"prices": [form, ...]}: deletes everything; creates prices as the API does."""
    ask.world.forget()
    for form in ask.json("prices")["prices"]:
        params = forms.check(forms.decode(form), CREATE_PRICE.accepts)
        CREATE_PRICE.handle(Call(ask.world, params, {}, "/v1/prices", publishable=False, origin=ask.origin))
    return controls.health(ask)


if __name__ == "__main__":
    controls.CONTROLS.append(("POST", "/begin", begin))
    sys.exit(main())
