"""Samples from a model: many prompts at once, groups that share a prompt, the same on any device."""
