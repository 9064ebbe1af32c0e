"""The stages that may follow fine-tuning."""
