from tortoise import migrations
from tortoise.migrations import operations as ops

_UNRELEASED = 'No release has these columns under their old names: there is no process of one to survive this.'
_RENAMED = [
    ('Invoice', 'checking_until', 'lease_expires_at'),
    ('Invoice', 'nets', 'affects_others'),
    ('Invoice', 'money_went_back', 'has_reversals'),
    ('Invoice', 'credits_untaken', 'credits_unrecoverable'),
    ('Subscription', 'as_of', 'fetched_at'),
    ('Subscription', 'read_due_at', 'refresh_at'),
    ('TimelineEntry', 'what', 'event_type'),
]
# Steps that a process of the release before does not survive; see docs/deploying.md.
CONTRACTS = {f'RenameField {model}.{old}': _UNRELEASED for model, old, _ in _RENAMED}


class Migration(migrations.Migration):
    dependencies = [('paidup', '0003_held_credits')]

    initial = False

    operations = [ops.RenameField(model, old, new) for model, old, new in _RENAMED]
