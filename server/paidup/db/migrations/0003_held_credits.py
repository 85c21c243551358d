from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('paidup', '0002_life_of_a_plan')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Invoice',
            name='credits_forgiven',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='credits_owed',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='Invoice',
            name='reserved_through',
            field=fields.BigIntField(default=0, db_default=0),
        ),
    ]
