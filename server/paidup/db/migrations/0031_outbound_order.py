from tortoise import migrations
from paidup.db.indexes import ConditionalIndex
from paidup.db.schema_operations import BuildIndex, DropIndex

_OF_ACCOUNT = ['endpoint_id', 'account_id', 'event_id']
_PENDING = "state = 'pending'"

class Migration(migrations.Migration):
    """Each step stands by itself, and can be repeated: writers do not wait for an index."""

    dependencies = [('paidup', '0030_flat_reads')]

    initial = False
    atomic = False

    operations = [
        BuildIndex('EventDelivery', ConditionalIndex(_OF_ACCOUNT, f'{_PENDING} AND replayed_at IS NULL', 'idx_event_deliveries_order')),
        BuildIndex('EventDelivery', ConditionalIndex(_OF_ACCOUNT, f'{_PENDING} AND replayed_at IS NOT NULL', 'idx_event_deliveries_replays')),
        DropIndex('EventDelivery', fields=['endpoint_id', 'account_id', 'event_id']),
    ]
