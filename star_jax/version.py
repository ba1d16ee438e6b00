"""The version of the package, in one place: pyproject.toml and model cards read it."""

__version__ = "0.1.0"
