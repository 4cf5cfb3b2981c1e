"""SQL: tables, named queries, migrations. Nothing else imports `sqlalchemy`.

It records what happened and answers questions about it; it decides nothing and knows no fabric.
"""
