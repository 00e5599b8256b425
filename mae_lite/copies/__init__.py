"""``mae-lite duplicates``: images that a data set has more than once, exactly or nearly, and between its splits."""
