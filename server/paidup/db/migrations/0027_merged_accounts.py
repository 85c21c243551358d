from tortoise import migrations
from tortoise.migrations import operations as ops
from paidup.db.indexes import ConditionalIndex

class Migration(migrations.Migration):
    dependencies = [('paidup', '0026_units')]

    initial = False

    operations = [
        ops.AddIndex(
            model_name='Account',
            index=ConditionalIndex(fields=['merged_into'], condition='merged_into IS NOT NULL'),
        ),
    ]
