"""A reference model of the ledger: docs/credits.md's rules in plain Python, without a database.

Slow, small and independent of the product: it imports nothing of `paidup`. Times are Unix
seconds, amounts minor units. An error is raised as `Refused` and changes nothing.
tests/unit/test_ledger_model.py runs product and model side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor


class Refused(Exception):
    """Carries the name of the product's error."""


@dataclass(frozen=True)
class PlanRules:
    """One plan. `cap` None: credits never expire; 0: unused credits expire with their month.

    `grace_s`: for how long unused credits can be used after their month while its renewal is awaited.
    """

    credits: int
    month_price: int
    year_price: int = 0
    cap: int | None = None
    trial_credits: int = 0
    max_quantity: int = 100
    full_upgrades: bool = False
    ends_with_subscription: bool = False
    grace_s: int = 0


@dataclass(frozen=True)
class Line:
    """An invoice line: `money` for `seats` of a plan, from `start` to `end`."""

    plan: str
    yearly: bool
    money: int
    seats: int
    proration: bool
    start: int
    end: int
    months: tuple[int, ...]
    """The start of each of its months."""


@dataclass(frozen=True)
class Bill:
    """A paid invoice. `total` is negative if money goes to the customer's Stripe balance."""

    id: str
    subscription: str | None
    lines: tuple[Line, ...]
    total: int
    from_balance: int
    is_change: bool
    at: int


@dataclass
class Batch:
    """A grant. credits = left + frozen + expired + spent, reserved or reversed."""

    number: int
    invoice: str
    subscription: str | None
    plan: str
    credits: int
    due: int | None
    ends: int | None
    cap: int
    grace: int = 0
    """How much longer than `ends` it can be used: until its renewal, or the year's next part, has come."""
    left: int = 0
    frozen: int = 0
    expired: int = 0
    given: bool = False
    ended: bool = False
    cancelled: bool = False

    @property
    def capacity(self) -> int:
        return max(0, self.credits - self.left - self.frozen - self.expired)

    def over(self, at: int) -> bool:
        return self.ends is not None and self.ends + self.grace <= at

    @property
    def rolled(self) -> bool:
        return self.cap > 0 and self.ends is None

    @property
    def order(self) -> tuple[bool, int, int]:
        """Sort key: credits that expire first are spent first."""
        return (self.ends is None, self.ends or 0, self.number)


@dataclass
class Reversals:
    """An invoice's reversals: by id, (kind, status, amount)."""

    total: int
    known: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    set_off: int = 0
    """How many credits it does not give, since a downgrade left them to the customer."""
    reversed: int = 0
    """Of these: offset against expired credits, forgiven, or owed. The rest was removed from the grants."""
    expired: int = 0
    forgiven: int = 0
    owed: int = 0
    newest_reservation: int = 0


@dataclass
class Reservation:
    number: int
    credits: int
    sources: list[tuple[int, int]]
    expires: int
    balance: int
    state: str = "held"
    used: int = 0
    answer: int = 0


TAKES = {
    ("refund", "pending"), ("refund", "succeeded"), ("dispute", "lost"), ("dispute", "appeal_under_review"),
}  # fmt: skip
FREEZES = {("dispute", "needs_response"), ("dispute", "under_review")}


class Model:
    """One customer's credits of one unit. What other units do changes nothing in it."""

    def __init__(self, plans: dict[str, PlanRules], forgives: bool) -> None:
        self.plans = plans
        self.forgives = forgives
        self.batches: list[Batch] = []
        self.debt = 0
        self.invoices: dict[str, Reversals] = {}
        self.spends: dict[str, tuple[int, int]] = {}
        self.reservations: dict[str, Reservation] = {}
        self.gifts: dict[str, int] = {}
        """An operator's grants that are not revoked, and their batches."""
        self.carried = self.carried_money = self.carried_until = 0
        self.free: list[tuple[int, int, int]] = []
        """Free credits that were granted: (from, to, credits)."""

    # Reading

    @property
    def balance(self) -> int:
        return sum(batch.left for batch in self.batches) - self.debt

    @property
    def frozen(self) -> int:
        return sum(batch.frozen for batch in self.batches)

    @property
    def held(self) -> int:
        return sum(r.credits for r in self.reservations.values() if r.state == "held")

    def reversed_whole(self, invoice: str) -> bool:
        known = self.invoices[invoice]
        return 0 < known.total <= sum(a for k, s, a in known.known.values() if (k, s) in TAKES)

    # Spending and reserving

    def spend(self, key: str, credits: int, at: int) -> tuple[int, int]:
        """(balance, credits)."""
        if key in self.spends:
            if self.spends[key][1] != credits:
                raise Refused("KeyReused")
            return self.spends[key]
        self._afford(credits, at)
        self._take(credits)
        self.spends[key] = (self.balance, credits)
        return self.spends[key]

    def reserve(self, key: str, credits: int, seconds: int, at: int) -> tuple[int, int]:
        """(balance, when it expires)."""
        known = self.reservations.get(key)
        if known:
            if known.credits != credits:
                raise Refused("KeyReused")
            self._assert_held(known, at)
            return known.balance, known.expires
        self._afford(credits, at)
        sources = self._take(credits)
        made = Reservation(len(self.reservations) + 1, credits, sources, at + seconds, self.balance)
        self.reservations[key] = made
        return made.balance, made.expires

    def commit(self, key: str, credits: int, at: int) -> int:
        """The balance."""
        known = self._find(key)
        if known.state == "committed":
            if known.used != credits:
                raise Refused("KeyReused")
            return known.answer if credits else self.balance
        self._assert_held(known, at)
        if credits > known.credits:
            raise Refused("InvalidInput")
        self._end_reservation(known, "committed", credits, at)
        known.answer = self.balance
        return self.balance

    def release(self, key: str, at: int) -> int:
        known = self._find(key)
        if known.state == "committed":
            raise Refused("ReservationOver")
        if known.state == "held":
            self._end_reservation(known, "released", 0, at)
        return self.balance

    def sweep(self, at: int) -> int:
        """Expire the reservations that are due. Returns how many there were."""
        late = [r for r in self.reservations.values() if r.state == "held" and r.expires <= at]
        for each in sorted(late, key=lambda r: (r.expires, r.number)):
            self._end_reservation(each, "expired", 0, at)
        return len(late)

    def _find(self, key: str) -> Reservation:
        if key not in self.reservations:
            raise Refused("NotFound")
        return self.reservations[key]

    def _assert_held(self, known: Reservation, at: int) -> None:
        if known.state != "held" or known.expires <= at:
            raise Refused("ReservationOver")

    def _afford(self, credits: int, at: int) -> None:
        """Expire due reservations if credits are short and that is enough."""
        before = deepcopy(self.__dict__)
        if self.balance < credits:
            self.sweep(at)
        if self.balance < credits:
            self.__dict__.update(before)
            raise Refused("InsufficientCredits")

    def _take(self, credits: int) -> list[tuple[int, int]]:
        sources = []
        for batch in sorted(self.batches, key=lambda b: b.order):
            taken = min(credits, batch.left)
            if taken:
                batch.left -= taken
                credits -= taken
                sources.append((batch.number, taken))
        return sources

    def _end_reservation(self, known: Reservation, state: str, used: int, at: int) -> None:
        """Use the credits that were reserved first; return the rest, those that expire last first."""
        known.state, known.used = state, used
        unused, left = [], known.credits - used
        for number, taken in reversed(known.sources):
            unused.append((self.batches[number], min(left, taken)))
            left -= min(left, taken)
        owed = 0
        own = []
        for batch, credits in unused:
            invoice = self.invoices[batch.invoice]
            if invoice.newest_reservation >= known.number:  # it was held during the reversal
                gone = min(credits, invoice.forgiven)
                pays = min(credits - gone, invoice.owed)
                invoice.forgiven -= gone
                invoice.owed -= pays
                owed, credits = owed + pays, credits - gone - pays
            own.append((batch, credits))
        others = owed - self._pay_debt(owed)
        for batch, credits in own:
            credits -= self._pay_debt(credits)
            others += credits - self._refill(batch, credits, at)
        self._refill_any(others, at)
        for name in self.invoices:
            self._freeze(name)
        self.expire(at)

    def _pay_debt(self, credits: int) -> int:
        paid = min(self.debt, credits)
        self.debt -= paid
        return paid

    def _refill(self, batch: Batch, credits: int, at: int) -> int:
        back = min(credits, batch.capacity)
        batch.left += back
        if back and batch.ended:  # it has ended, and ends again
            batch.ended, batch.ends = False, at if batch.ends is None else min(batch.ends, at)
            batch.grace = 0
        return back

    def _refill_any(self, credits: int, at: int, besides: Iterable[Batch] = ()) -> int:
        """Return credits to any batch with capacity, those that expire last first. Returns the rest."""
        apart = [batch.number for batch in besides]
        for batch in sorted(self.batches, key=lambda b: (not b.ended, b.order), reverse=True):
            if batch.given and batch.number not in apart:
                credits -= self._refill(batch, credits, at)
        return credits

    # An operator's corrections

    def give(self, name: str, credits: int, ends: int | None, at: int) -> int:
        """The balance. No invoice gives these credits."""
        self.expire(at)
        self.invoices[name] = Reversals(0)
        number = len(self.batches)
        self.batches.append(Batch(number, name, None, "", credits, due=None, ends=ends, cap=0))
        self._give(self.batches[-1])
        self.gifts[name] = number
        return self.balance

    def take(self, credits: int, allow_debt: bool, at: int) -> int:
        before = deepcopy(self.__dict__)
        self.expire(at)
        if self.balance < credits and not allow_debt:
            self.__dict__.update(before)
            raise Refused("InsufficientCredits")
        self._owe(credits)
        return self.balance

    def revoke(self, name: str, forgives: bool, at: int) -> int:
        """Take back what is left of a gift. What was used of it is owed, or forgiven."""
        if name not in self.gifts:
            raise Refused("Conflict")
        self.expire(at)
        batch = self.batches[self.gifts.pop(name)]
        used = batch.credits - batch.left - batch.expired
        forgiven = used if forgives else 0
        batch.credits, batch.left, batch.grace = batch.expired + forgiven, 0, 0
        batch.ended, batch.ends = True, at if batch.ends is None else min(batch.ends, at)
        self._owe(used - forgiven)
        return self.balance

    def _owe(self, credits: int) -> None:
        self.debt += credits
        self._pay_from(sorted(self.batches, key=lambda b: b.order))

    # Grants and expiry

    def pay(self, bill: Bill) -> None:
        """An invoice is paid: grant its credits, now and month by month."""
        self.invoices[bill.id] = Reversals(bill.total)
        exact = sum((self._worth(line) for line in bill.lines), Fraction(0))
        credits = self._set_off(bill, floor(exact) - self._given_before(bill.lines))
        for line, share in self._by_line(bill.lines, max(0, credits)):
            rules = self.plans[line.plan]
            starts = line.months if line.yearly and line.money else line.months[:1]
            ends = [*starts[1:], line.end]
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                part = share // len(starts) + (i < share % len(starts))
                self.batches.append(
                    Batch(
                        number=len(self.batches),
                        invoice=bill.id,
                        subscription=bill.subscription,
                        plan=line.plan,
                        credits=part,
                        due=start if i else None,
                        ends=end if rules.cap is not None else None,
                        cap=rules.cap or 0,
                        grace=rules.grace_s if bill.subscription and rules.cap is not None else 0,
                    )
                )
                if not i:
                    self._give(self.batches[-1])
        self._renew(bill)

    def _renew(self, bill: Bill) -> None:
        """A later period of the subscription is paid: what is left of those before has no more grace."""
        until = max((line.end for line in bill.lines), default=0)
        for batch in self.batches:
            own = batch.subscription == bill.subscription and not self._awaits_part(batch)
            if own and (batch.ends or until) < until:
                batch.grace = 0
        self.expire(bill.at)

    def _awaits_part(self, batch: Batch) -> bool:
        """Whether the next month's part of its year is still to come."""
        to_come = [b for b in self.batches if b.invoice == batch.invoice and not (b.given or b.cancelled)]
        return any(b.due == batch.ends for b in to_come)

    def _worth(self, line: Line) -> Fraction:
        """The plan's credits times the line's money over the price of one seat."""
        rules = self.plans[line.plan]
        whole = rules.credits * (12 if line.yearly else 1)
        if line.proration and rules.full_upgrades:
            return Fraction(whole * line.seats) * ((line.money > 0) - (line.money < 0))
        if line.money == 0 and not line.proration:
            return Fraction(rules.trial_credits * line.seats)
        return self._paid_for(line)

    def _given_before(self, lines: Iterable[Line]) -> int:
        """How much of the free credits is withheld: they are granted once for overlapping periods."""
        unpaid = {line: self._worth(line) - self._paid_for(line) for line in lines}
        credits = ceil(sum(unpaid.values()))
        if credits <= 0:
            return 0
        free = [line for line in unpaid if unpaid[line] > 0]
        start, end = min(line.start for line in free), max(line.end for line in free)
        most = max(self._seat(line) * min(line.seats, self.plans[line.plan].max_quantity) for line in free)
        before = sum(given for since, until, given in self.free if since < end and start < until)
        given = min(credits, max(0, most - before))
        self.free.append((start, end, given))
        return credits - given

    def _seat(self, line: Line) -> int:
        rules = self.plans[line.plan]
        return rules.credits if line.money else rules.trial_credits

    def _paid_for(self, line: Line) -> Fraction:
        rules = self.plans[line.plan]
        whole = rules.credits * (12 if line.yearly else 1)
        return Fraction(whole * line.money, rules.year_price if line.yearly else rules.month_price)

    def _by_line(self, lines: Iterable[Line], credits: int) -> list[tuple[Line, int]]:
        """The line that grants credits; invoices of these tests have one."""
        giving = [line for line in lines if self._worth(line) > 0]
        assert len(giving) <= 1
        return [(line, credits) for line in giving]

    def _set_off(self, bill: Bill, credits: int) -> int:
        """Credits for carried-over money are withheld until it is used up. Returns what is granted."""
        if bill.total > bill.from_balance:  # more was asked for than the balance held: it is empty
            self.carried_money = min(self.carried_money, bill.from_balance)
        if self.carried_money == 0 and bill.at >= self.carried_until:
            self.carried = 0
        if credits < 0:
            self.carried -= credits
            self.carried_money += max(0, -bill.total)
        else:
            exposed = credits
            if not bill.is_change and bill.total > 0:
                exposed = ceil(Fraction(credits * bill.from_balance, bill.total))
            less = min(self.carried, exposed)
            self.carried -= less
            credits -= less
            self.invoices[bill.id].set_off = less
            self.carried_money = max(0, self.carried_money + max(0, -bill.total) - bill.from_balance)
        if bill.subscription:
            ends = [line.end for line in bill.lines if self._worth(line) > 0]
            self.carried_until = max(ends, default=self.carried_until)
        return credits

    def _give(self, batch: Batch) -> None:
        batch.given = True
        batch.left = batch.credits - self._pay_debt(batch.credits)

    def installments(self, at: int) -> int:
        """Grant the installments that are due, unless fully reversed. Returns how many."""
        due = [b for b in self.batches if not (b.given or b.cancelled) and b.due is not None and b.due <= at]
        made = 0
        for batch in sorted(due, key=lambda b: (b.due, b.number)):
            if not self.reversed_whole(batch.invoice):
                self._give(batch)
                for former in self.batches:
                    if former.invoice == batch.invoice and former.number < batch.number:
                        former.grace = 0
                self.expire(at)  # after a downtime, an installment may have expired already
                self._recompute(batch.invoice, at)
                self.expire(at)
                made += 1
        return made

    def expire(self, at: int) -> None:
        """Expire what ends by `at`; unused credits up to the cap roll over."""
        over = [b for b in self.batches if b.left and b.over(at)]
        for batch in sorted(over, key=lambda b: b.order):
            rolled = sum(b.left for b in self.batches if b.rolled)
            kept = min(batch.left, max(0, batch.cap - rolled))
            batch.expired += batch.left - kept
            batch.left = kept
            batch.grace = 0
            if kept:
                batch.ends = None
            else:
                batch.ended = True
        rolled_over = sorted((b for b in self.batches if b.rolled and b.left), key=lambda b: b.order)
        excess = sum(b.left for b in rolled_over) - max((b.cap for b in rolled_over), default=0)
        for batch in reversed(rolled_over):
            gone = min(max(0, excess), batch.left)
            excess -= gone
            batch.left -= gone
            batch.expired += gone
            batch.ended = batch.ended or (gone > 0 and batch.left == 0)

    def cancel(self, subscription: str, at: int) -> None:
        """The subscription has ended; its credits expire if the plan says so."""
        for batch in self.batches:
            if batch.subscription != subscription or not self.plans[batch.plan].ends_with_subscription:
                continue
            if not batch.given:
                batch.cancelled = True
            elif not batch.ended:
                batch.cap, batch.ends = 0, at if batch.ends is None else min(batch.ends, at)
                batch.expired, batch.left, batch.ended = batch.expired + batch.left, 0, True
                batch.grace = 0
        for batch in self.batches:
            if batch.subscription == subscription and not self._awaits_part(batch):
                batch.grace = 0
        self.expire(at)

    # Reversals

    def reversal(self, invoice: str, id: str, kind: str, status: str, amount: int, at: int) -> bool:
        """Apply the state of a refund or dispute. False if it is not new."""
        known = self.invoices[invoice].known
        if known.get(id) == (kind, status, amount):
            return False
        known[id] = (kind, status, amount)
        self._recompute(invoice, at)
        self.expire(at)
        return True

    def _due(self, invoice: str) -> tuple[int, int]:
        """How many credits to reverse, and how many to freeze."""
        known = self.invoices[invoice]
        granted = sum(b.credits for b in self._own(invoice))
        back = sum(a for k, s, a in known.known.values() if (k, s) in TAKES)
        open_ = sum(a for k, s, a in known.known.values() if (k, s) in FREEZES)
        if known.total <= 0:
            return 0, 0
        in_all = sum(b.credits for b in self.batches if b.invoice == invoice)
        bought = granted + (known.set_off * granted // in_all if in_all else 0)
        taken = min(granted, bought * min(back, known.total) // known.total)
        both = min(granted, bought * min(back + open_, known.total) // known.total)
        return taken, both - taken

    def _own(self, invoice: str) -> list[Batch]:
        return [b for b in self.batches if b.invoice == invoice and b.given]

    def _recompute(self, invoice: str, at: int) -> None:
        own, known = self._own(invoice), self.invoices[invoice]
        for batch in own:
            batch.left, batch.frozen = batch.left + batch.frozen, 0
        more = self._due(invoice)[0] - known.reversed
        known.reversed += more
        if more > 0:
            self._take_back(own, known, more)
        else:
            self._give_back(own, known, -more, at)
        for batch in own:
            batch.ended = batch.ended and not batch.left
        self._freeze(invoice)
        self._pay_from([*own, *sorted(self.batches, key=lambda b: b.order)])

    def _take_back(self, own: list[Batch], known: Reversals, credits: int) -> None:
        for batch in own:
            taken = min(credits, batch.left)
            batch.left, credits = batch.left - taken, credits - taken
        gone = min(credits, max(0, sum(b.expired for b in own) - known.expired))
        known.expired += gone
        credits -= gone
        if credits:
            known.newest_reservation = len(self.reservations)
        if self.forgives:
            known.forgiven += credits
        else:
            known.owed += credits
            self.debt += credits

    def _give_back(self, own: list[Batch], known: Reversals, credits: int, at: int) -> None:
        """Restore in the opposite order; forgiven and expired credits are not restored."""
        forgiven = min(credits, known.forgiven)
        known.forgiven -= forgiven
        credits -= forgiven
        owed = min(credits, known.owed)
        known.owed -= owed
        credits -= owed
        gone = min(credits, known.expired)
        known.expired -= gone
        credits -= gone
        owed -= self._pay_debt(owed)
        credits -= self._pay_debt(credits)
        for batch in own:
            back = min(credits, batch.capacity)
            batch.left, credits = batch.left + back, credits - back
        rest = self._refill_any(owed + credits, at, besides=own)
        for batch in own:
            back = min(rest, batch.capacity)
            batch.left, rest = batch.left + back, rest - back
        assert rest == 0
        for name in self.invoices:
            self._freeze(name)

    def _freeze(self, invoice: str) -> None:
        """Freeze as many available credits as the disputed money bought."""
        due = self._due(invoice)[1]
        for batch in self._own(invoice):
            here = batch.left + batch.frozen
            batch.frozen = min(due, here)
            batch.left = here - batch.frozen
            due -= batch.frozen

    def _pay_from(self, batches: Iterable[Batch]) -> None:
        """Cover a debt with available credits."""
        for batch in batches:
            batch.left -= self._pay_debt(batch.left)
