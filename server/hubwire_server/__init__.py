"""Hubwire's server: Hugging Face models over gRPC."""

__version__ = "0.1.0"
