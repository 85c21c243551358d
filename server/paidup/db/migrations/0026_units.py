from tortoise import migrations
from tortoise.migrations import operations as ops
import functools
from json import dumps, loads
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0025_provisioning')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Account',
            name='unit_balances',
            field=fields.JSONField(null=True, encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='unit',
            field=fields.CharField(default='', db_default='', max_length=30),
        ),
        ops.AddField(
            model_name='Invoice',
            name='unit_credits',
            field=fields.JSONField(null=True, encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads),
        ),
        ops.AddField(
            model_name='LedgerEntry',
            name='unit',
            field=fields.CharField(default='', db_default='', max_length=30),
        ),
        ops.AddField(
            model_name='Reservation',
            name='unit',
            field=fields.CharField(default='', db_default='', max_length=30),
        ),
    ]
