from tortoise import migrations
from paidup.db import schema_operations as steps
from tortoise.migrations import operations as ops
import functools
from json import dumps, loads
from paidup.domain.catalog import Interval
from paidup.db.models import EntryKind, GrantState, ReservationState, ReversalKind
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index

_UNRELEASED = 'No release has only 0001: there is no process of one to survive this.'
# Steps that a process of the release before does not survive; see docs/deploying.md.
CONTRACTS = {
    'Redescribe CreditGrant.state': _UNRELEASED,
    'DropColumn Invoice.credits_expire_at': _UNRELEASED,
    'Redescribe LedgerEntry.kind': _UNRELEASED,
}


class Migration(migrations.Migration):
    dependencies = [('paidup', '0001_initial')]

    initial = False

    operations = [
        ops.CreateModel(
            name='Reservation',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='reservations', on_delete=OnDelete.RESTRICT)),
                ('key', fields.CharField(max_length=200)),
                ('credits', fields.BigIntField()),
                ('used', fields.BigIntField(default=0)),
                ('sources', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('state', fields.CharEnumField(default=ReservationState.HELD, description='HELD: held\nCOMMITTED: committed\nRELEASED: released\nEXPIRED: expired', enum_type=ReservationState, max_length=10)),
                ('expires_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'reservations', 'app': 'paidup', 'unique_together': (('account', 'key'),), 'indexes': [Index(fields=['state', 'expires_at'])], 'pk_attr': 'id', 'table_description': 'Credits set aside for work whose cost is known only afterwards. UNIQUE(account, key).'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Reversal',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('kind', fields.CharEnumField(description='REFUND: refund\nDISPUTE: dispute\nCREDIT_NOTE: credit_note', enum_type=ReversalKind, max_length=12)),
                ('invoice', fields.ForeignKeyField('paidup.Invoice', source_field='invoice_id', db_constraint=True, to_field='id', related_name='reversals', on_delete=OnDelete.RESTRICT)),
                ('amount_minor', fields.BigIntField()),
                ('status', fields.CharField(max_length=40)),
                ('changed_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'reversals', 'app': 'paidup', 'indexes': [Index(fields=['invoice_id'])], 'pk_attr': 'id', 'table_description': "Money that went back, or is in dispute: a refund, a dispute or a credit note of Stripe's."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Subscription',
            fields=[
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', db_constraint=True, to_field='id', related_name='subscriptions', on_delete=OnDelete.RESTRICT)),
                ('status', fields.CharField(default='incomplete', max_length=30)),
                ('plan', fields.CharField(null=True, max_length=40)),
                ('price', fields.CharField(null=True, max_length=255)),
                ('quantity', fields.IntField(default=1)),
                ('pending_plan', fields.CharField(null=True, max_length=40)),
                ('current_period_end', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('cancel_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('ended_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('latest_invoice', fields.CharField(null=True, max_length=255)),
                ('as_of', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('read_due_at', fields.DatetimeField(null=True, db_index=True, auto_now=False, auto_now_add=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'subscriptions', 'app': 'paidup', 'indexes': [Index(fields=['account_id'])], 'pk_attr': 'id', 'table_description': 'A subscription as Stripe last showed it, never as events arrived.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Account',
            name='version',
            field=fields.IntField(default=0, db_default=0),
        ),
        ops.AlterModelOptions(
            name='CreditGrant',
            options={'table': 'credit_grants', 'app': 'paidup', 'unique_together': (('invoice', 'installment'),), 'indexes': [Index(fields=['account_id', 'state', 'expires_at']), Index(fields=['state', 'due_at'])], 'pk_attr': 'id', 'table_description': 'Credits that came together.'},
        ),
        steps.Redescribe(
            model_name='CreditGrant',
            name='state',
            field=fields.CharEnumField(default=GrantState.LIVE, description='PLANNED: planned\nLIVE: live\nEXPIRED: expired\nCANCELED: canceled', enum_type=GrantState, max_length=10),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='due_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='expired',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='frozen',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='plan',
            field=fields.CharField(null=True, max_length=40),
        ),
        ops.AddField(
            model_name='CreditGrant',
            name='rollover_cap',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddIndex(
            model_name='CreditGrant',
            index=Index(fields=['state', 'due_at']),
        ),
        steps.DropColumn(
            model_name='Invoice',
            name='credits_expire_at',
        ),
        ops.AddField(
            model_name='Invoice',
            name='finalized_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='Invoice',
            name='credits_reversed',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='credits_untaken',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='from_balance_minor',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='money_went_back',
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name='Invoice',
            name='nets',
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name='Invoice',
            name='quote',
            field=fields.JSONField(null=True, encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads),
        ),
        ops.AddField(
            model_name='Invoice',
            name='sequence',
            field=fields.IntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='total_minor',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='KnownPrice',
            name='interval',
            field=fields.CharEnumField(default=Interval.MONTH, description='MONTH: month\nYEAR: year\nONCE: once', db_default='month', enum_type=Interval, max_length=10),
        ),
        steps.Redescribe(
            model_name='LedgerEntry',
            name='created_at',
            field=fields.DatetimeField(auto_now=False, auto_now_add=False),
        ),
        steps.Redescribe(
            model_name='LedgerEntry',
            name='kind',
            field=fields.CharEnumField(description='GRANT: grant\nSPEND: spend\nRESERVE: reserve\nRELEASE: release\nFREEZE: freeze\nREVERSE: reverse\nRESTORE: restore\nEXPIRE: expire\nADJUST: adjust', enum_type=EntryKind, max_length=10),
        ),
        ops.AddField(
            model_name='LedgerEntry',
            name='reason',
            field=fields.CharField(default='', db_default='', max_length=200),
        ),
    ]
