from tortoise import migrations
from paidup.db import schema_operations as steps
from tortoise.migrations import operations as ops
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index

class Migration(migrations.Migration):
    dependencies = [('paidup', '0004_rename_columns')]

    initial = False

    operations = [
        ops.CreateModel(
            name='StripeCustomer',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='stripe_customers', on_delete=OnDelete.RESTRICT)),
                ('deleted_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'stripe_customers', 'app': 'paidup', 'indexes': [Index(fields=['account_id'])], 'pk_attr': 'id', 'table_description': 'A customer at Stripe, and the account that it belongs to for good. An account may have several.'},
            bases=['Model'],
        ),
        steps.FillTable(
            'StripeCustomer',
            'INSERT INTO stripe_customers (id, account_id, created_at)'
            ' SELECT stripe_customer, id, created_at FROM accounts WHERE stripe_customer IS NOT NULL',
        ),
    ]
