"""plans.toml: parsing, defaults, and errors with their place."""

from __future__ import annotations

import pytest

from paidup.domain.catalog import Rollover
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError, InvalidInput, UnknownPlan
from paidup.settings import PACKAGED_PLANS

PRICE = 'lookup_key = "{key}"\namount_minor = 900\n'


def plan(plan_id: str = "basic", key: str = "basic_monthly", more: str = "", price_more: str = "") -> str:
    return (
        f'[[plans]]\nid = "{plan_id}"\nname = "A plan"\ncredits = 500\n{more}\n'
        f"[[plans.prices]]\n{PRICE.format(key=key)}{price_more}\n"
    )


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigurationError) as refused:
        parse_catalogue(text.encode() if isinstance(text, str) else text, "ours.toml")
    (problem,) = refused.value.problems
    return problem


def test_the_packaged_catalog_is_valid() -> None:
    catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
    assert [(sold.id, sold.credits) for sold in catalogue.plans] == [
        ("basic", 500),
        ("advanced", 1200),
        ("pro", 2000),
        ("extra", 1000),
    ]
    assert len(catalogue.lookup_keys) == 7
    assert [sold.id for sold in catalogue.plans if sold.top_up] == ["extra"]


def test_omitted_settings_have_defaults() -> None:
    (sold,) = parse_catalogue(plan().encode()).plans
    assert (sold.trial_credits, sold.rollover, sold.description) == (0, Rollover.KEEP, "")
    assert (sold.prices[0].currency, sold.prices[0].interval) == ("usd", "month")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("[[plans]\n", "line 1", id="no TOML"),
        pytest.param(b"\xff\xfe", "utf-8", id="no text"),
        pytest.param("", "plans", id="empty"),
        pytest.param("plans = []", "plans", id="no plan"),
        pytest.param(plan(more="credit = 3"), "credit", id="a misspelt field"),
        pytest.param(plan().replace("500", "0"), "plans[0].credits", id="a plan of nothing"),
        pytest.param(plan(more="trial_credits = -1"), "plans[0].trial_credits", id="a negative trial"),
        pytest.param(plan(more='rollover = "sometimes"'), "plans[0].rollover", id="an unknown rollover"),
        pytest.param(plan("Not a slug"), "plans[0].id", id="an id with spaces"),
        pytest.param(plan(key="with space"), "plans[0].prices[0].lookup_key", id="a lookup key with a space"),
        pytest.param(
            plan(price_more='currency = "USD"'), "plans[0].prices[0].currency", id="a currency in capitals"
        ),
        pytest.param(
            plan().replace("900", "9.5"), "plans[0].prices[0].amount_minor", id="an amount in whole dollars"
        ),
        pytest.param(
            plan(price_more='interval = "week"'), "plans[0].prices[0].interval", id="a weekly price"
        ),
        pytest.param(plan(more='rollover = "cap"'), "rollover_cap go together", id="a cap without a number"),
        pytest.param(plan(more="rollover_cap = 5"), "rollover_cap go together", id="a number without a cap"),
        pytest.param(
            plan(more='rollover = "expire"', price_more='interval = "once"'),
            "a top-up cannot expire",
            id="a top-up that expires",
        ),
        pytest.param(
            plan(price_more='interval = "once"')
            + f'[[plans.prices]]\n{PRICE.format(key="basic_yearly")}interval = "year"\n',
            "cannot be mixed",
            id="a plan and a top-up in one",
        ),
        pytest.param(plan(more="max_quantity = 0"), "plans[0].max_quantity", id="a quantity of nothing"),
        pytest.param(
            plan(more="max_quantity = 10001"), "plans[0].max_quantity", id="no request names so many"
        ),
        pytest.param(
            plan(more="max_quantity = 1000").replace("900", "100000"),
            "1000 x 100000: Stripe charges at most 99999999 usd at once",
            id="a quantity that could not be paid",
        ),
        pytest.param(
            plan(price_more='interval = "once"').replace("900", "0"),
            "a price paid once cannot be 0",
            id="a top-up for nothing",
        ),
        pytest.param(plan() + plan(key="other"), "plan id used twice: basic", id="one id twice"),
        pytest.param(
            plan() + plan("other"), "lookup key used twice: basic_monthly", id="one lookup key twice"
        ),
    ],
)
def test_an_error_names_the_file_and_the_place(text: str | bytes, place: str) -> None:
    problem = refusal(text)
    assert problem.startswith("ours.toml")
    assert place in problem


def test_every_fault_is_listed_with_its_line() -> None:
    """In the order of the file; a key of an inline table has the line of the table."""
    text = (
        'spent_then_refunded = "perhaps"\n'
        + plan("basic", "basic_monthly", more='credit = 3\nrollover = "sometimes"')
        + plan("basic two", "two", price_more='curency = "eur"')
        + plan("cap", "three", more="rollover_cap = 5")
        + '[[plans]]\nname = """\n[[plans]]\n"""\ncredits = 1\nid = "inline"\n'
        + 'prices = [{lookup_key = "four", amount_minor = "9"}]\n'
    )
    with pytest.raises(ConfigurationError) as refused:
        parse_catalogue(text.encode(), "ours.toml")
    assert refused.value.problems == [
        "ours.toml, line 1: spent_then_refunded: Invalid enum value 'perhaps'",
        "ours.toml, line 6: plans[0].credit: unknown key; did you mean `credits`?",
        "ours.toml, line 7: plans[0].rollover: Invalid enum value 'sometimes'",
        "ours.toml, line 13: plans[1].id: Expected `str` matching regex '^[a-z0-9][a-z0-9_-]{0,39}$'",
        "ours.toml, line 20: plans[1].prices[0].curency: unknown key; did you mean `currency`?",
        'ours.toml, line 25: plans[2].rollover_cap: rollover = "cap" and rollover_cap go together',
        "ours.toml, line 36: plans[3].prices[0].amount_minor: Expected `int`, got `str`",
    ]


def test_a_file_saved_by_windows_is_read() -> None:
    """It may begin with a byte order mark."""
    assert len(parse_catalogue(b"\xef\xbb\xbf" + plan().encode()).plans) == 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        pytest.param(plan(), 100, id="a team that buys for itself"),
        pytest.param(plan().replace("900", "0"), 1, id="a price of 0"),
        pytest.param(plan(more='upgrade = "full"'), 1, id="upgrades in full"),
        pytest.param(plan(more='upgrade = "full"\nmax_quantity = 7'), 7, id="as it says"),
    ],
)
def test_the_largest_quantity_is_the_plans_or_a_default(text: str, limit: int) -> None:
    """One where credits can come without their money."""
    (sold,) = parse_catalogue(text.encode()).plans
    assert sold.quantity_limit == limit
    sold.check_quantity(limit, sold.prices[0])
    with pytest.raises(InvalidInput, match=f"at most {limit}, not {limit + 1}"):
        sold.check_quantity(limit + 1, sold.prices[0])


@pytest.mark.parametrize(("currency", "most"), [("usd", 33), ("idr", 100)])
def test_a_quantity_above_stripes_largest_amount_is_invalid(currency: str, most: int) -> None:
    """Eight digits of the smallest unit, twelve of Indonesian rupiah."""
    text = plan(price_more=f'currency = "{currency}"').replace("900", "3000000")
    (sold,) = parse_catalogue(text.encode()).plans
    sold.check_quantity(most, sold.prices[0])
    with pytest.raises(InvalidInput, match=f"at most {most}, not {most + 1}"):
        sold.check_quantity(most + 1, sold.prices[0])


@pytest.mark.parametrize(("currency", "amount", "step"), [("kwd", 8905, 10), ("isk", 450, 100)])
def test_an_amount_that_stripe_cannot_charge_is_refused(currency: str, amount: int, step: int) -> None:
    """Of three decimals the last is 0; and two decimals are kept for some currencies that have none.

    https://docs.stripe.com/currencies#special-cases
    """
    text = plan(price_more=f'currency = "{currency}"')
    with pytest.raises(ConfigurationError, match=f"{currency} in multiples of {step}"):
        parse_catalogue(text.replace("900", str(amount)).encode())
    parse_catalogue(text.replace("900", str(amount * 100)).encode())


def test_plans_are_found_by_id_and_by_lookup_key() -> None:
    catalogue = parse_catalogue((plan() + plan("pro", "pro_monthly")).encode())
    assert catalogue.plan("pro") is catalogue.find("pro") is catalogue.plan("pro")
    sold = catalogue.plan("pro")
    assert catalogue.find_by_lookup_key("pro_monthly") == (sold, sold.prices[0])
    assert catalogue.find("gone") is catalogue.find(None) is None
    assert catalogue.find_by_lookup_key("gone") is None


def test_an_unknown_plan_error_lists_the_plans() -> None:
    catalogue = parse_catalogue((plan() + plan("pro", "pro_monthly")).encode())
    with pytest.raises(UnknownPlan, match=r"'gold'.*basic, pro"):
        catalogue.plan("gold")
