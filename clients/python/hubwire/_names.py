"""The names that options take. Apart from _types, whose numpy the help of the command line need not wait for."""

from __future__ import annotations

from typing import Literal

PoolingName = Literal["mean", "max", "cls", "last_token", "mean_sqrt_len", "weighted_mean"]
"""How the vectors of the tokens of a text become one vector, in the names of sentence-transformers."""

FloatEncoding = Literal["float32", "float16", "int8"]
"""The encodings that the client restores to float32."""

EncodingName = Literal["float32", "float16", "int8", "binary"]
"""The form in which vectors travel: 4, 2, 1 and 1/8 bytes a value. "binary" stays as it is, one bit a value."""

TruncationSideName = Literal["right", "left"]
"""The end of a text at which tokens are dropped."""
