"""Average precision under the rules of a protocol."""
