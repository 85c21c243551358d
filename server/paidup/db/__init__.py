"""The database: connection, models, bulk statements, migrations."""
