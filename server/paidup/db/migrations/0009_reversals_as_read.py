from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0008_own_subscriptions')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Reversal',
            name='withdrawn',
            field=fields.BooleanField(null=True),
        ),
        ops.AddField(
            model_name='Reversal',
            name='fetched_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='Reversal',
            name='changes',
            field=fields.IntField(default=0, db_default=0),
        ),
    ]
