"""`mae-lite replay`: an update that was not finite, made again to see where it breaks."""
