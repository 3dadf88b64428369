"""Data, augmentation, losses, the loop and the official evaluation."""
