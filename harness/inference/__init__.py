"""What is asked of a model besides training it: logits of given tokens, samples, confidences."""
