"""What a Vision Transformer has learned, layer by layer: similarity, attention, importance, pictures."""
