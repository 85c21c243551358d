from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0023_entitlements')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Invoice',
            name='traceparent',
            field=fields.CharField(null=True, max_length=55),
        ),
    ]
