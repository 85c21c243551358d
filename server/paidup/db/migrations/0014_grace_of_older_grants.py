from typing import Any

from tortoise import migrations
from tortoise.migrations import operations as ops

CONTRACTS = {'RunPython': 'No release before has the column usable_until, so none of its processes reads it.'}

_LATER = {
    'sqlite': "strftime('%Y-%m-%d %H:%M:%S', expires_at, '+72 hours') || '+00:00'",
    'postgres': "expires_at + interval '72 hours'",
}


async def give_grace(_: Any, editor: Any) -> None:
    """The default grace for grants of periods that have not ended, as 0010 gives to new ones.

    The next read of their subscription computes it from what Stripe says.
    """
    await editor._run_sql(
        f'UPDATE credit_grants SET usable_until = {_LATER[editor.DIALECT]}'
        " WHERE usable_until IS NULL AND expires_at > CURRENT_TIMESTAMP AND state IN ('live', 'planned')"
        ' AND invoice_id IN (SELECT i.id FROM invoices i JOIN subscriptions s ON s.id = i.subscription'
        " WHERE s.status IN ('active', 'past_due', 'trialing') AND s.cancel_at IS NULL)"
    )


class Migration(migrations.Migration):
    dependencies = [('paidup', '0013_payment_seen')]

    initial = False

    operations = [ops.RunPython(give_grace, ops.RunPython.noop)]
