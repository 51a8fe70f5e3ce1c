"""What computes a block: attention in windows, and the layers around it."""
