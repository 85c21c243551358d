from tortoise import migrations
from tortoise.indexes import Index
from paidup.db.indexes import ConditionalIndex
from paidup.db.schema_operations import BuildIndex, BuildPrefixIndex, DropIndex

_CREDITS = "state = 'live' AND remaining <> 0"
_ROLLS_OVER = f'{_CREDITS} AND rollover_cap > 0'

class Migration(migrations.Migration):
    """Each step stands by itself, and can be repeated: writers do not wait for an index."""

    dependencies = [('paidup', '0028_client_references')]

    initial = False
    atomic = False

    operations = [
        BuildIndex('CreditGrant', Index(fields=['account_id', 'state', 'usable_until'])),
        DropIndex('CreditGrant', fields=['account_id', 'state', 'expires_at']),
        BuildIndex('CreditGrant', ConditionalIndex(['due_at'], "state = 'planned'")),
        DropIndex('CreditGrant', fields=['state', 'due_at']),
        # Of two that serve a statement alike, SQLite takes the one that was made later.
        BuildIndex('CreditGrant', ConditionalIndex(['account_id', 'state', 'rollover_cap'], _ROLLS_OVER)),
        BuildIndex('CreditGrant', ConditionalIndex(['account_id', 'state', 'expires_at', 'id'], _CREDITS)),
        BuildIndex('Invoice', ConditionalIndex(['account_id'], 'has_reversals', 'idx_invoices_has_reversals')),
        BuildIndex('Invoice', ConditionalIndex(['account_id'], 'affects_others', 'idx_invoices_affects_others')),
        BuildIndex('LedgerEntry', Index(fields=['account_id', 'id'])),
        DropIndex('LedgerEntry', fields=['account_id']),
        BuildPrefixIndex('accounts', 'external_id'),
    ]
