"""``mae-lite study``: the graph of a study's stages, carried out by processes of this command line."""
