"""Classification: one label per image, logits over classes."""
