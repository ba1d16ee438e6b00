"""Samples from a model: many prompts at once, groups that share a prompt, alike on any device."""

from star_jax.sampler.request import Request, Sample, Settings
from star_jax.sampler.sampler import Sampler

__all__ = ["Request", "Sample", "Sampler", "Settings"]
