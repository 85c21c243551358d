from tortoise import migrations
from tortoise.migrations import operations as ops
import functools
from json import dumps, loads
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.db.models import EntryKind, EventSource, GrantState
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index

class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name='Account',
            fields=[
                ('id', fields.IntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('external_id', fields.CharField(unique=True, max_length=200)),
                ('stripe_customer', fields.CharField(null=True, unique=True, max_length=255)),
                ('balance', fields.BigIntField(default=0)),
                ('purchase_number', fields.IntField(default=1)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'accounts', 'app': 'paidup', 'pk_attr': 'id', 'table_description': 'A customer of the SaaS.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Invoice',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='invoices', on_delete=OnDelete.RESTRICT)),
                ('customer', fields.CharField(max_length=255)),
                ('subscription', fields.CharField(null=True, db_index=True, max_length=255)),
                ('payment_intent', fields.CharField(null=True, db_index=True, max_length=255)),
                ('plan', fields.CharField(null=True, max_length=40)),
                ('price', fields.CharField(null=True, max_length=255)),
                ('billing_reason', fields.CharField(null=True, max_length=60)),
                ('currency', fields.CharField(max_length=3)),
                ('amount_due_minor', fields.BigIntField()),
                ('credits_quoted', fields.BigIntField(default=0)),
                ('credits_expire_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('status', fields.CharEnumField(default=InvoiceStatus.OPEN, description='OPEN: open\nREQUIRES_ACTION: requires_action\nPROCESSING: processing\nACTIVE: active\nFAILED: failed\nVOID: void\nREVERSED: reversed', enum_type=InvoiceStatus, max_length=20)),
                ('error', fields.JSONField(null=True, encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('version', fields.IntField(default=1)),
                ('published_version', fields.IntField(default=0)),
                ('publish_due_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('changed_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('settled_via', fields.CharEnumField(null=True, description='VERIFICATION: verification\nWEBHOOK: webhook\nRECONCILIATION: reconciliation', enum_type=Source, max_length=20)),
                ('settled_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('checking_until', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('next_check_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('checks_made', fields.IntField(default=0)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'invoices', 'app': 'paidup', 'indexes': [Index(fields=['account_id', 'status'])], 'pk_attr': 'id', 'table_description': "One of Stripe's invoices, and what browsers are told of it."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='CreditGrant',
            fields=[
                ('id', fields.IntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='grants', on_delete=OnDelete.RESTRICT)),
                ('invoice', fields.ForeignKeyField('paidup.Invoice', source_field='invoice_id', db_constraint=True, to_field='id', related_name='grants', on_delete=OnDelete.RESTRICT)),
                ('installment', fields.IntField(default=1)),
                ('credits', fields.BigIntField()),
                ('remaining', fields.BigIntField()),
                ('expires_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('state', fields.CharEnumField(default=GrantState.LIVE, description='LIVE: live\nEXPIRED: expired\nREVERSED: reversed', enum_type=GrantState, max_length=10)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'credit_grants', 'app': 'paidup', 'unique_together': (('invoice', 'installment'),), 'indexes': [Index(fields=['account_id', 'state', 'expires_at'])], 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='KnownPrice',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('lookup_key', fields.CharField(max_length=200)),
                ('plan', fields.CharField(max_length=40)),
                ('unit_amount_minor', fields.BigIntField()),
                ('currency', fields.CharField(max_length=3)),
            ],
            options={'table': 'prices', 'app': 'paidup', 'pk_attr': 'id', 'table_description': 'A Stripe price once tied to a plan. Kept, since a lookup key may move to a newer price.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='LedgerEntry',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='entries', on_delete=OnDelete.RESTRICT)),
                ('kind', fields.CharEnumField(description='GRANT: grant\nSPEND: spend\nREVERSE: reverse\nEXPIRE: expire\nADJUST: adjust', enum_type=EntryKind, max_length=10)),
                ('credits', fields.BigIntField()),
                ('grant', fields.ForeignKeyField('paidup.CreditGrant', source_field='grant_id', null=True, db_constraint=True, to_field='id', related_name='entries', on_delete=OnDelete.RESTRICT)),
                ('reference', fields.CharField(max_length=400)),
                ('balance_after', fields.BigIntField()),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'ledger_entries', 'app': 'paidup', 'unique_together': (('kind', 'reference'),), 'indexes': [Index(fields=['account_id'])], 'pk_attr': 'id', 'table_description': 'A movement of credits. Append-only.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='StripeEvent',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('type', fields.CharField(max_length=100)),
                ('api_version', fields.CharField(null=True, max_length=40)),
                ('payload', fields.TextField(unique=False)),
                ('source', fields.CharEnumField(default=EventSource.WEBHOOK, description='WEBHOOK: webhook\nLIST: list', enum_type=EventSource, max_length=10)),
                ('received_at', fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False)),
                ('handled_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('attempts', fields.IntField(default=0)),
                ('next_attempt_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('outcome', fields.CharField(null=True, max_length=200)),
                ('error', fields.TextField(null=True, unique=False)),
            ],
            options={'table': 'stripe_events', 'app': 'paidup', 'pk_attr': 'id', 'table_description': 'A verified delivery, kept for good.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='TimelineEntry',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('invoice', fields.CharField(db_index=True, max_length=255)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('what', fields.CharField(max_length=40)),
                ('detail', fields.JSONField(null=True, encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
            ],
            options={'table': 'timeline', 'app': 'paidup', 'pk_attr': 'id', 'table_description': 'Append-only: what happened to one invoice, and when.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Watermark',
            fields=[
                ('name', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=40)),
                ('value', fields.CharField(max_length=255)),
                ('moved_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'watermarks', 'app': 'paidup', 'pk_attr': 'name', 'table_description': "How far a sweep through Stripe's lists has come."},
            bases=['Model'],
        ),
    ]
