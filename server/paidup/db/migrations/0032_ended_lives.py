from tortoise import migrations
from tortoise.indexes import Index
from paidup.db.indexes import ConditionalIndex
from paidup.db.schema_operations import BuildIndex, DropIndex

_BY_AGE = ['account_id', 'created_at', 'id']
_NOT_ENDED = "status NOT IN ('canceled', 'incomplete_expired')"
_WITHOUT_INVOICE = "invoice IS NULL AND status IN ('complete', 'open')"

class Migration(migrations.Migration):
    """Each step stands by itself, and can be repeated: writers do not wait for an index."""

    dependencies = [('paidup', '0031_outbound_order')]

    initial = False
    atomic = False

    operations = [
        BuildIndex('Subscription', Index(fields=_BY_AGE)),
        # Of two that serve a statement alike, SQLite takes the one that was made later.
        BuildIndex('Subscription', ConditionalIndex(_BY_AGE, _NOT_ENDED, 'idx_subscriptions_not_ended')),
        DropIndex('Subscription', fields=['account_id']),
        BuildIndex('CheckoutSession', ConditionalIndex(['account_id', 'created_at'], _WITHOUT_INVOICE)),
    ]
