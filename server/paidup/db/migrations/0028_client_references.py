from tortoise import migrations
from tortoise.migrations import operations as ops
from paidup.db.indexes import ConditionalIndex

class Migration(migrations.Migration):
    dependencies = [('paidup', '0027_merged_accounts')]

    initial = False

    operations = [
        ops.AddIndex(
            model_name='CheckoutSession',
            index=ConditionalIndex(fields=['client_reference'], condition='client_reference IS NOT NULL'),
        ),
    ]
