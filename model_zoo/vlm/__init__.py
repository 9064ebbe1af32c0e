"""The vision-language models of transformers behind one adapter."""
