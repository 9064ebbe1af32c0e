"""Uses a model without training it: logits of given tokens, samples, confidences."""
