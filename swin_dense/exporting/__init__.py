"""Models as ONNX files and torch.export programs: what is exported, and how it is verified."""
