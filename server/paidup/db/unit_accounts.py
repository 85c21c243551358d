"""An account's credits of another unit than the default one, as the ledger reads and writes them.

The balances of these units are in the account's own row, like the default unit's: the lock on it guards
them all, an account has one balance of each unit, and a settlement stays one statement. An invoice's row has
in the same way what it has granted of each, and what of that was reversed.

`UnitAccount` and `UnitInvoice` have the attributes of the rows that the ledger uses, with that unit's values.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from paidup.db.models import Account, Invoice
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.units import DEFAULT_UNIT


class _InUnit(Protocol):
    def kept(self) -> dict[str, Any]: ...

    def keep(self, name: str, value: int | None) -> None: ...


class _Kept:
    """A number that the row keeps for the unit; 0 until it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, of_unit: _InUnit, owner: type | None = None) -> int:
        return int(of_unit.kept().get(self._name) or 0)

    def __set__(self, of_unit: _InUnit, value: int) -> None:
        of_unit.keep(self._name, value)


class UnitAccount:
    """An account's credits of `unit`, which is not the default one. `account` is its row."""

    balance = _Kept()
    held = _Kept()

    def __init__(self, account: Account, unit: str) -> None:
        assert unit != DEFAULT_UNIT
        self.account = account
        self.unit = unit

    @property
    def id(self) -> int:
        return self.account.id

    @property
    def version(self) -> int:
        """The account's: one for all of its units."""
        return self.account.version

    @version.setter
    def version(self, value: int) -> None:
        self.account.version = value

    @property
    def low_balance(self) -> int | None:
        found: int | None = self.kept().get("low_balance")
        return found

    @low_balance.setter
    def low_balance(self, value: int | None) -> None:
        self.keep("low_balance", value)

    def kept(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.account.unit_balances or {}).get(self.unit, {})
        return found

    def keep(self, name: str, value: int | None) -> None:
        changed = {**self.kept(), name: value}
        self.account.unit_balances = {**(self.account.unit_balances or {}), self.unit: changed}


class UnitInvoice:
    """What an invoice has to do with credits of `unit`, which is not the default one. `row` is its row."""

    credits_quoted = _Kept()
    credits_offset = _Kept()
    credits_reversed = _Kept()
    credits_unrecoverable = _Kept()
    credits_forgiven = _Kept()
    credits_owed = _Kept()
    reserved_through = _Kept()

    def __init__(self, row: Invoice, unit: str) -> None:
        assert unit != DEFAULT_UNIT
        self.row = row
        self.unit = unit

    @property
    def id(self) -> str:
        return str(self.row.id)

    @property
    def settled_at(self) -> datetime | None:
        found: datetime | None = self.row.settled_at
        return found

    def kept(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.row.unit_credits or {}).get(self.unit, {})
        return found

    def keep(self, name: str, value: int | None) -> None:
        self.row.unit_credits = {**(self.row.unit_credits or {}), self.unit: {**self.kept(), name: value}}


AnyAccount = Account | UnitAccount
"""An account's credits of one unit: the row itself is that of the default unit."""
AnyInvoice = Invoice | UnitInvoice


def in_unit(account: AnyAccount, unit: str) -> AnyAccount:
    """The account's credits of `unit`."""
    row = account_row(account)
    return row if unit == DEFAULT_UNIT else UnitAccount(row, unit)


def in_all_units(account: Account, *others: Account) -> list[AnyAccount]:
    """The account's credits of each unit that it, or one of the `others`, ever had any of."""
    kept = {unit for each in (account, *others) for unit in units_of(each.unit_balances)}
    return [in_unit(account, unit) for unit in (DEFAULT_UNIT, *sorted(kept))]


def units_of(kept: Any) -> list[str]:
    """The units that a row keeps something of, besides the default one."""
    return sorted(kept or ())


def quoted_of(row: Invoice) -> dict[str, int]:
    """What the invoice gives with its payment of other units than the default one."""
    return {unit: UnitInvoice(row, unit).credits_quoted for unit in units_of(row.unit_credits)}


def account_row(account: AnyAccount) -> Account:
    return account.account if isinstance(account, UnitAccount) else account


def invoice_in_unit(row: Invoice, unit: str) -> AnyInvoice:
    return row if unit == DEFAULT_UNIT else UnitInvoice(row, unit)


def invoice_row(row: AnyInvoice) -> Invoice:
    return row.row if isinstance(row, UnitInvoice) else row


def write_balance(account: AnyAccount, writes: UnitOfWork) -> None:
    """Add to `writes` what an entry changes in the account's row."""
    if isinstance(account, UnitAccount):
        writes.update(account.account, "version", "unit_balances")
    else:
        writes.update(account, "balance", "held", "version")


async def save_balance(account: AnyAccount) -> None:
    """Save all that is kept of the unit."""
    writes = UnitOfWork()
    write_balance(account, writes)
    if isinstance(account, Account):
        writes.update(account, "low_balance")
    await writes.send()
