from tortoise import migrations
from tortoise.indexes import Index
from paidup.db.indexes import ConditionalIndex
from paidup.db.schema_operations import BuildIndex, DropIndex

class Migration(migrations.Migration):
    """Each step stands by itself, and can be repeated: writers do not wait for an index."""

    dependencies = [('paidup', '0029_long_histories')]

    initial = False
    atomic = False

    operations = [
        BuildIndex('Invoice', Index(fields=['account_id', 'status', 'created_at'])),
        DropIndex('Invoice', fields=['account_id', 'status']),
        BuildIndex('StripeEvent', ConditionalIndex(['received_at'], "outcome = 'unhandled_type'", 'idx_stripe_events_unhandled')),
    ]
