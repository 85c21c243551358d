from typing import Any

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

from paidup.db.indexes import ConditionalIndex

CONTRACTS = {'RunPython': 'No release before has the column held, so none of its processes reads it.'}


async def sum_reservations(_: Any, editor: Any) -> None:
    """What the reservations of before hold. Each later reservation, commit or release sums them up again."""
    await editor._run_sql(
        'UPDATE accounts SET held = (SELECT SUM(r.credits) FROM reservations r'
        " WHERE r.account_id = accounts.id AND r.state = 'held')"
        " WHERE id IN (SELECT account_id FROM reservations WHERE state = 'held')"
    )


class Migration(migrations.Migration):
    dependencies = [('paidup', '0022_named_by_payer')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Account',
            name='held',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Account',
            name='known_subscriptions',
            field=fields.JSONField(null=True),
        ),
        ops.AddIndex(
            model_name='CreditGrant',
            index=ConditionalIndex(fields=['expires_at'], condition="state = 'live' AND remaining > 0"),
        ),
        ops.AddIndex(
            model_name='Reservation',
            index=ConditionalIndex(fields=['account_id'], condition="state = 'held'"),
        ),
        ops.RunPython(sum_reservations, ops.RunPython.noop),
    ]
