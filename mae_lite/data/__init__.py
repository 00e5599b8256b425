"""From files on disk to batches: sources, images, transforms, loader."""
