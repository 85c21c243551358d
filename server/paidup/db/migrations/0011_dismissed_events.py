from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0010_renewal_grace')]

    initial = False

    operations = [
        ops.AddField(
            model_name='StripeEvent',
            name='dismissed_by',
            field=fields.CharField(null=True, max_length=200),
        ),
        ops.AddField(
            model_name='StripeEvent',
            name='dismissed_because',
            field=fields.TextField(null=True, unique=False),
        ),
    ]
