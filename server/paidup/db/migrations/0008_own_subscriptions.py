from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

# Rows of other products' subscriptions were made until now: read again, they go.
_READ_AGAIN = 'UPDATE "subscriptions" SET "refresh_at" = "created_at" WHERE "plan" IS NULL AND "ended_at" IS NULL'

CONTRACTS = {'RunSQL': 'A process of the release before reads those subscriptions once more, as it does by itself.'}


class Migration(migrations.Migration):
    dependencies = [('paidup', '0007_credits_offset')]

    initial = False

    operations = [
        ops.AddField(
            model_name='Subscription',
            name='paid_elsewhere',
            field=fields.CharField(null=True, max_length=255),
        ),
        ops.AddField(
            model_name='Subscription',
            name='collection_paused',
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.RunSQL(_READ_AGAIN, ''),
    ]
