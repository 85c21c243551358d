from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise.indexes import Index

class Migration(migrations.Migration):
    dependencies = [('paidup', '0016_bank_debits')]

    initial = False

    operations = [
        ops.AddIndex(
            model_name='CheckoutSession',
            index=Index(fields=['duplicate_of']),
        ),
    ]
