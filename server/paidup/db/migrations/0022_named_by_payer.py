from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0021_vouchers')]

    initial = False

    operations = [
        ops.AddField(
            model_name='CheckoutSession',
            name='named_by_payer',
            field=fields.BooleanField(default=False, db_default=False),
        ),
    ]
