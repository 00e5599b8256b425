"""``mae-lite prepare``: from a data set to a pack."""
