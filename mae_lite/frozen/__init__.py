"""``mae-lite embed`` and ``probe``: the features of frozen encoders, and what they are worth."""
