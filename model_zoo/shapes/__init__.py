"""What the networks of model families are made of, for what they cost (harness.inference.outline)."""
