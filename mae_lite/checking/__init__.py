"""``mae-lite check``: what is in a data set, what is wrong with it, and what the model will see of it."""
