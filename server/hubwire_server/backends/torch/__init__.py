"""Models run by torch."""

from hubwire_server.backends.torch.backend import TorchBackend, load
from hubwire_server.backends.torch.devices import detect_device

__all__ = ["TorchBackend", "detect_device", "load"]
