"""Models run by ONNX Runtime on a CPU.

A model is exported once (export.py) into a cache (cache.py), together with a few texts and what torch makes of them (check.py). From then
on a worker needs neither torch nor transformers: backend.py opens the exported folder with onnxruntime and numpy alone. export.py is
therefore never imported here.
"""

from hubwire_server.backends.onnx.backend import OnnxBackend
from hubwire_server.backends.onnx.cache import CacheEntry, ExportCache, ExportKey
from hubwire_server.backends.onnx.session import SessionOptions

__all__ = ["CacheEntry", "ExportCache", "ExportKey", "OnnxBackend", "SessionOptions"]
