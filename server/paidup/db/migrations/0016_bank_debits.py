from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0015_checkout_sessions')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Invoice',
            name='credits_on_trust',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='debit_failed',
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name='Invoice',
            name='payment_method',
            field=fields.CharField(null=True, max_length=40),
        ),
        ops.AddField(
            model_name='Invoice',
            name='processing_since',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
    ]
