"""The version of the platform, stated here so that it is known where no package metadata is installed."""

__version__ = "0.1.0"
