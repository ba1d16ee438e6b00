"""Samples from a model: many prompts at once, groups that share a prompt, alike on any device."""
