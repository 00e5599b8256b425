"""``mae-lite export``: finished models for use elsewhere, each proven to compute what the model here computes."""
