"""What the commands of ``swin-dense`` do that have no place elsewhere."""
