"""Provides the stages that may follow fine-tuning."""
