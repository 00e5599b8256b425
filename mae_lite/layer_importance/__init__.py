"""Which blocks carry what pre-training is worth: fine-tuning with only the first, or the last, of them kept."""
