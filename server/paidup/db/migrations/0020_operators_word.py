from tortoise import migrations
from tortoise import fields

from paidup.db.schema_operations import Redescribe
from paidup.domain.payment_facts import Source

CONTRACTS = {
    'Redescribe Invoice.settled_via': 'only an operator writes the new value, with a command of this release: give none before the last process of the release before has ended',
}

class Migration(migrations.Migration):
    dependencies = [('paidup', '0019_corrections')]

    initial = False

    operations = [
        Redescribe(
            model_name='Invoice',
            name='settled_via',
            field=fields.CharEnumField(null=True, description='VERIFICATION: verification\nWEBHOOK: webhook\nRECONCILIATION: reconciliation\nOPERATOR: operator', enum_type=Source, max_length=20),
        ),
    ]
