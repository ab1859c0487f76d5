"""The published PyTorch program and ours at the same work, side by side."""
