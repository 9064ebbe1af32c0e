"""Adapts the vision-language models of transformers."""
