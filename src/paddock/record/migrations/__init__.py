"""How a database of any earlier version becomes one of this version. Alembic runs these; nothing imports them."""
