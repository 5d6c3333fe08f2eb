"""Adapters in PEFT's layout: what happens to them after training."""
