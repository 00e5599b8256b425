"""How fast this machine reads images and learns from them, and what a recipe will take here."""
