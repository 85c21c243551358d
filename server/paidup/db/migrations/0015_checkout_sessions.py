from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index

class Migration(migrations.Migration):
    dependencies = [('paidup', '0014_grace_of_older_grants')]

    initial = False

    operations = [
        ops.CreateModel(
            name='CheckoutSession',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', null=True, db_constraint=True, to_field='id', related_name='checkout_sessions', on_delete=OnDelete.RESTRICT)),
                ('mode', fields.CharField(max_length=20)),
                ('purchase', fields.CharField(null=True, max_length=60)),
                ('status', fields.CharField(max_length=20)),
                ('payment_status', fields.CharField(max_length=30)),
                ('plan', fields.CharField(null=True, max_length=40)),
                ('price', fields.CharField(null=True, max_length=255)),
                ('quantity', fields.IntField(default=1)),
                ('currency', fields.CharField(null=True, max_length=3)),
                ('amount_minor', fields.BigIntField(null=True)),
                ('customer', fields.CharField(null=True, max_length=255)),
                ('client_reference', fields.CharField(null=True, max_length=255)),
                ('payment_intent', fields.CharField(null=True, db_index=True, max_length=255)),
                ('subscription', fields.CharField(null=True, db_index=True, max_length=255)),
                ('invoice', fields.CharField(null=True, db_index=True, max_length=255)),
                ('return_to', fields.CharField(null=True, max_length=2000)),
                ('superseded_by', fields.CharField(null=True, max_length=255)),
                ('duplicate_of', fields.CharField(null=True, max_length=255)),
                ('resolution', fields.CharField(null=True, max_length=20)),
                ('resolved_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('claimed_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('expires_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('completed_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('fetched_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('lease_expires_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('next_check_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('checks_made', fields.IntField(default=0)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'checkout_sessions', 'app': 'paidup', 'indexes': [Index(fields=['account_id', 'status'])], 'pk_attr': 'id', 'table_description': "One of Stripe's Checkout Sessions as it was last read. It grants nothing: its invoice's row does."},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Invoice',
            name='checkout',
            field=fields.CharField(null=True, max_length=255),
        ),
    ]
