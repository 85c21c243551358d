from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0006_price_products')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Invoice',
            name='credits_offset',
            field=fields.BigIntField(default=0, db_default=0),
        ),
    ]
