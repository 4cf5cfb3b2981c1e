"""The only place where parts are wired together: the data directory, the roles, the keeper that restarts them."""
