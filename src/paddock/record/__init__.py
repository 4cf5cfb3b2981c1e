"""SQL: tables, named queries, migrations. Nothing else imports `sqlalchemy`.

It records what happened and answers questions about it; it decides nothing and knows no fabric.
Importing this package is quick; `paddock.record.sql` holds `SqlRecord` and brings SQLAlchemy along.
"""
