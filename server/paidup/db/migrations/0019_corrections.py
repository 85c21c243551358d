from tortoise import migrations
from tortoise.migrations import operations as ops
import functools
from json import dumps, loads
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index
from tortoise.migrations.constraints import UniqueConstraint

from paidup.db.schema_operations import AddUnique, MakeNullable

CONTRACTS = {
    'MakeNullable CreditGrant.invoice': 'the release before shows the invoice of a grant, and computes with it only where it has found the grant by its invoice',
    'AddUnique CreditGrant': 'the release before writes no correction, and NULL is not compared with NULL',
}

class Migration(migrations.Migration):
    dependencies = [('paidup', '0018_outbound_events')]

    initial = False

    operations = [
        ops.CreateModel(
            name='Correction',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=40)),
                ('at', fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False)),
                ('actor', fields.CharField(max_length=200)),
                ('action', fields.CharField(max_length=20)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', null=True, db_constraint=True, to_field='id', related_name='corrections', on_delete=OnDelete.RESTRICT)),
                ('key', fields.CharField(unique=True, max_length=200)),
                ('digest', fields.CharField(max_length=64)),
                ('reason', fields.TextField(unique=False)),
                ('details', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('before', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('after', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
            ],
            options={'table': 'audit_log', 'app': 'paidup', 'indexes': [Index(fields=['account_id'])], 'pk_attr': 'id', 'table_description': 'What an operator did, and why. Append-only, but for what an erasure takes out.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Account',
            name='merged_into',
            field=fields.IntField(null=True),
        ),
        ops.AlterModelOptions(
            name='CreditGrant',
            options={'table': 'credit_grants', 'app': 'paidup', 'unique_together': (('invoice', 'installment'), ('correction',)), 'indexes': [Index(fields=['account_id', 'state', 'expires_at']), Index(fields=['state', 'due_at'])], 'pk_attr': 'id', 'table_description': "Credits that came together: of an invoice, or of an operator's `correction`."},
        ),
        MakeNullable(
            model_name='CreditGrant',
            name='invoice',
            field=fields.ForeignKeyField('paidup.Invoice', source_field='invoice_id', null=True, db_constraint=True, to_field='id', related_name='grants', on_delete=OnDelete.RESTRICT),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='correction',
            field=fields.CharField(null=True, max_length=40),
        ),
        AddUnique(
            model_name='CreditGrant',
            constraint=UniqueConstraint(fields=('correction',), name=None),
        ),
    ]
