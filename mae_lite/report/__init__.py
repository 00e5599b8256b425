"""Pages made from run folders alone; no torch here."""
