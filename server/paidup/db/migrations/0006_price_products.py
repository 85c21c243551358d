from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0005_stripe_customers')]

    initial = False

    operations = [
        ops.AddField(
            model_name='KnownPrice',
            name='currency_options',
            field=fields.JSONField(null=True),
        ),
        ops.AddField(
            model_name='KnownPrice',
            name='product',
            field=fields.CharField(null=True, max_length=255),
        ),
    ]
