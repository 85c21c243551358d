from tortoise import migrations
from tortoise.migrations import operations as ops
import functools
from json import dumps, loads
from paidup.db.outbound_models import DeliveryState, EndpointState
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index, PartialIndex

class Migration(migrations.Migration):
    dependencies = [('paidup', '0017_second_payments')]

    initial = False

    operations = [
        ops.CreateModel(
            name='EventEndpoint',
            fields=[
                ('id', fields.IntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('name', fields.CharField(unique=True, max_length=255)),
                ('url', fields.CharField(max_length=2000)),
                ('types', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('secret', fields.CharField(max_length=255)),
                ('old_secret', fields.CharField(null=True, max_length=255)),
                ('old_secret_until', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('state', fields.CharEnumField(default=EndpointState.ENABLED, description='ENABLED: enabled\nDISABLED: disabled\nDELETED: deleted', enum_type=EndpointState, max_length=10)),
                ('disabled_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('disabled_because', fields.CharField(null=True, max_length=400)),
                ('from_settings', fields.BooleanField(default=False)),
                ('failures', fields.IntField(default=0)),
                ('failing_since', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('retry_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={'table': 'event_endpoints', 'app': 'paidup', 'pk_attr': 'id', 'table_description': "Where events are sent: an address of the SaaS's own."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='OutboundEvent',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('message', fields.CharField(unique=True, max_length=40)),
                ('account', fields.ForeignKeyField('paidup.Account', source_field='account_id', null=True, db_constraint=True, to_field='id', related_name='outbound_events', on_delete=OnDelete.RESTRICT)),
                ('type', fields.CharField(max_length=60)),
                ('invoice', fields.CharField(null=True, db_index=True, max_length=255)),
                ('subscription', fields.CharField(null=True, max_length=255)),
                ('version', fields.IntField(default=0)),
                ('balance', fields.BigIntField(null=True)),
                ('data', fields.JSONField(encoder=functools.partial(dumps, separators=(',', ':')), decoder=loads)),
                ('fanned_out', fields.BooleanField(default=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'outbound_events', 'app': 'paidup', 'indexes': [Index(fields=['account_id', 'id']), PartialIndex(fields=['id'], condition={'fanned_out': False})], 'pk_attr': 'id', 'table_description': "An event for the SaaS's own systems."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='EventDelivery',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('event', fields.ForeignKeyField('paidup.OutboundEvent', source_field='event_id', db_constraint=True, to_field='id', related_name='deliveries', on_delete=OnDelete.CASCADE)),
                ('endpoint', fields.ForeignKeyField('paidup.EventEndpoint', source_field='endpoint_id', db_constraint=True, to_field='id', related_name='deliveries', on_delete=OnDelete.RESTRICT)),
                ('account_id', fields.IntField(null=True)),
                ('state', fields.CharEnumField(default=DeliveryState.PENDING, description='PENDING: pending\nDELIVERED: delivered\nDEAD: dead', enum_type=DeliveryState, max_length=10)),
                ('attempts', fields.IntField(default=0)),
                ('next_attempt_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('last_attempt_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('delivered_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('replayed_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('status_code', fields.IntField(null=True)),
                ('answer', fields.TextField(null=True, unique=False)),
                ('error', fields.CharField(null=True, max_length=200)),
                ('duration_ms', fields.IntField(null=True)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'event_deliveries', 'app': 'paidup', 'unique_together': (('event', 'endpoint'),), 'indexes': [PartialIndex(fields=['endpoint_id', 'next_attempt_at'], condition={'state': 'pending'}), PartialIndex(fields=['endpoint_id', 'account_id', 'event_id'], condition={'state': 'pending'}), PartialIndex(fields=['endpoint_id', 'id'], condition={'state': 'dead'})], 'pk_attr': 'id', 'table_description': "One event's delivery to one endpoint, and how its last attempt went."},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Account',
            name='low_balance',
            field=fields.BigIntField(null=True),
        ),
    ]
