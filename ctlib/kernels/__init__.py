"""How the arithmetic runs on a device: memory layout, and modules rewritten for inference."""
