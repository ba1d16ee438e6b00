"""star_jax turns a large tool-calling teacher into a super-tiny function-calling model, in JAX."""

from star_jax.version import __version__

__all__ = ["__version__"]
