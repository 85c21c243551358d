from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0011_dismissed_events')]

    initial = False

    operations = [
        ops.CreateModel(
            name='StripeReads',
            fields=[
                ('month', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=7)),
                ('reads', fields.BigIntField()),
            ],
            options={'table': 'stripe_reads', 'app': 'paidup', 'pk_attr': 'month', 'table_description': 'How often all processes have read from Stripe in a month (UTC): see stripe_api/read_count.py.'},
            bases=['Model'],
        ),
    ]
