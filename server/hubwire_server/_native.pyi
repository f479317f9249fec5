"""The Rust core of Hubwire: tokenization into ragged batches, pooling of model output, and vectors as protobuf bytes.

A *ragged batch* of n texts is one flat array of T tokens and an array of n + 1 offsets: text i owns tokens offsets[i] to offsets[i + 1].
Every function releases the GIL where its work is worth it, so an array must not be written to while a call reads it: the result
is then of no use, or the call raises NativeError "internal". None of them keeps a reference to its arguments.

Errors: a value that does not fit raises NativeError, a ValueError whose `reason` is one of the names listed there. Nothing panics.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Encoding",
    "NativeError",
    "OffsetUnit",
    "PoolingMode",
    "RaggedBatch",
    "Tokenizer",
    "TruncationSide",
    "WireEncoding",
    "convert",
    "encode_matrix",
    "encode_stream_results",
    "encode_token_embeddings",
    "encode_vectors",
    "pool_padded",
    "pool_ragged",
    "set_simd_level",
    "simd_level",
]

PoolingMode = Literal["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
Encoding = Literal["float32", "float16", "int8", "binary"]
WireEncoding = Literal["float", "float32_bytes", "float16_bytes", "int8_bytes", "binary_bytes"]
OffsetUnit = Literal["code_point", "utf8_byte", "utf16_unit"]
TruncationSide = Literal["left", "right"]
_BFloat16 = NDArray[np.uint16]
"""bfloat16 travels as its 16 bits, since numpy has no such dtype: what torch's `tensor.view(torch.uint16).numpy()` gives."""

class NativeError(ValueError):
    """A value that the core refuses.

    reason is one of:
        "invalid_tokenizer"      the text is not the JSON form of a tokenizer
        "tokenization_failed"    the tokenizer itself failed on a text
        "invalid_argument"       a name that does not exist, or a str with a lone surrogate, which is no Unicode text
        "shape_mismatch"         two shapes that belong together do not fit, or an array has another number of dimensions
        "offsets_out_of_order"   offsets do not begin at 0, fall, or do not end at the number of tokens
        "out_of_range"           a number is too small or too large
        "not_finite"             a value is NaN or infinite, or becomes infinite on the way
        "internal"               the core itself failed: by a mistake of its own, or because an array was written to during the call
    index is the text or row that is at fault, or None where it is none in particular.

    What is no value at all raises as it does elsewhere in Python: TypeError for an argument or a dtype of another type, OverflowError for
    a negative count. Arrays that do not lie row after row in memory are no error: they are copied first.
    """

    reason: str
    index: int | None
    reasons: ClassVar[tuple[str, ...]]
    """Every reason that there is."""

@final
class RaggedBatch:
    """The tokens of n texts, one after the other."""

    ids: NDArray[np.int32]
    """Vocabulary numbers, shape (T,)."""
    type_ids: NDArray[np.int32]
    """Segment numbers, shape (T,): 0 for the first text of a pair, 1 for the second."""
    offsets: NDArray[np.int64]
    """Where each text begins in the flat arrays, shape (n + 1,), first value 0, last value T."""
    token_counts: NDArray[np.int64]
    """How many tokens each text has before truncation, special tokens included, shape (n,). More than in `offsets` where it was cut."""
    spans: NDArray[np.uint32] | None
    """Start and end of each token in its own text, shape (T, 2), in the unit asked for; (0, 0) for special tokens. A span never
    cuts a character in two, whatever the unit. None unless asked for."""
    special_tokens_mask: NDArray[np.bool_] | None
    """True for tokens that the tokenizer added, shape (T,). None unless spans are asked for."""

@final
class Tokenizer:
    """A tokenizer of the `tokenizers` library, read from its JSON form. Immutable, and safe to share between threads.

    The truncation and the padding that the JSON carries are dropped: both are given with each call or not at all.
    """

    def __new__(cls, json: str | bytes) -> Tokenizer:
        """Raises NativeError ("invalid_tokenizer") where the text is not a tokenizer."""

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        max_tokens: int | None = None,
        truncation_side: TruncationSide = "right",
        spans: OffsetUnit | None = None,
        threads: int = 1,
    ) -> RaggedBatch:
        """Tokenizes each text, or each pair of texts[i] and pairs[i].

        max_tokens cuts what is longer, special tokens included; None cuts nothing. Of a pair the longer side loses tokens first, as with
        `longest_first` in transformers.
        threads bounds the threads that share the texts; fewer are used where the texts are few or short.
        Raises NativeError: "out_of_range" where max_tokens leaves no room beside the special tokens; "shape_mismatch" where pairs has
        another length than texts; "invalid_argument" and "tokenization_failed" with the index of a text.
        """

    def count_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens the tokenizer adds to a text, or to a pair."""

    @property
    def vocab_size(self) -> int:
        """The number of entries of the vocabulary, added tokens included."""

def pool_padded(
    hidden: NDArray[np.float32] | NDArray[np.float16] | _BFloat16,
    mask: NDArray[Any],
    *,
    mode: PoolingMode = "mean",
    skip: NDArray[np.int64] | None = None,
    normalize: bool = False,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Pools hidden, shape (n, length, h), where mask, shape (n, length), of bools or integers, is not zero. Returns (n, h).

    skip, shape (n,), leaves the first skip[i] positions of row i out of the pooling, counted from its first unmasked token, as
    `include_prompt: false` in sentence-transformers; "weightedmean" still counts positions from the first unmasked token.
    Up to 256 tokens are summed in float32, and these sums in float64. A row whose mask is all zeros (or that skip empties) gives zeros.
    normalize scales each row to length 1; a row of zeros stays so.
    threads bounds the threads that share the rows; fewer are used where the work is small.
    Values under the mask are never read, so NaN in padding does no harm, and padding costs nothing.
    Raises NativeError: "shape_mismatch"; "out_of_range" for a negative skip; "not_finite" with the row where a value that is pooled is NaN
    or infinite, or where the result exceeds float32.
    """

def pool_ragged(
    hidden: NDArray[np.float32] | NDArray[np.float16] | _BFloat16,
    offsets: NDArray[np.int64],
    *,
    mode: PoolingMode = "mean",
    skip: NDArray[np.int64] | None = None,
    normalize: bool = False,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Pools hidden, shape (T, h), over the tokens of each text: offsets has shape (n + 1,). Returns (n, h). An empty text gives zeros.

    Otherwise as pool_padded. Raises NativeError "offsets_out_of_order", with the index, where offsets do not begin at 0, fall, or do not
    end at T.
    """

def convert(
    vectors: NDArray[np.float32],
    *,
    dimensions: int | None = None,
    normalize: bool = False,
    encoding: Encoding = "float32",
    threads: int = 1,
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Keeps the first `dimensions` values of each row of vectors, shape (n, h), scales to length 1 where asked, and casts.

    Returns the rows and the scales. The rows have the shape (n, d) and the type of the encoding; "binary" gives uint8, shape
    (n, ceil(d / 8)), as numpy.packbits(x > 0, axis=1) of the values before they are scaled: normalize changes no bit.
    The scales, shape (n,), exist for "int8" alone: value = integer * scale, scale = max(abs(row)) / 127; a row of zeros has scale 0.
    Raises NativeError: "out_of_range" for dimensions below 1 or above h; "not_finite" with the row where it holds NaN, infinity, or a
    value that float16 cannot hold.
    """

def encode_vectors(
    vectors: NDArray[np.float32],
    *,
    field: int,
    dimensions: int | None = None,
    normalize: bool = False,
    encoding: WireEncoding = "float",
) -> bytes:
    """The rows of vectors, shape (n, h), as the protobuf bytes of `repeated hubwire.v1.Vector <name> = field`, ready to be put before or
    after the serialized rest of the message.

    Conversions and errors as in `convert`; "out_of_range" also where field is no field number, or where the message would have
    2 GiB or more.
    """

def encode_stream_results(
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    *,
    dimensions: int | None = None,
    normalize: bool = False,
    encoding: WireEncoding = "float",
) -> bytes:
    """The bytes of `repeated hubwire.v1.StreamEmbedResult results = 1`, one a row, each with its id and its vector. ids has length n."""

def encode_matrix(vectors: NDArray[np.float32], *, normalize: bool = False, encoding: WireEncoding = "float") -> bytes:
    """The bytes of ONE hubwire.v1.Vector whose values are all rows of vectors, shape (n, h), one after the other; no field tag around it.

    normalize works row by row. int8 has one scale for the whole matrix; binary pads at the end of each row.
    """

def encode_token_embeddings(
    vectors: NDArray[np.float32],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int32],
    spans: NDArray[np.uint32],
    special_tokens_mask: NDArray[np.bool_],
    *,
    normalize: bool = False,
    encoding: WireEncoding = "float",
) -> bytes:
    """The bytes of `repeated hubwire.v1.TokenEmbeddings embeddings = 1`, one a text, ready to be put before or after the serialized rest of
    the message.

    vectors has the shape (T, h); the other arrays are those of a RaggedBatch of the same T tokens. The vector of each text is what
    encode_matrix gives for its rows, so int8 has one scale a text. An empty text gives an entry without tokens.
    Raises NativeError: "shape_mismatch"; "offsets_out_of_order", with the index, where offsets do not begin at 0, fall, or do not end at T;
    "out_of_range" with the text where an id is negative, and without one where the message would have 2 GiB or more; "not_finite" with the
    text where it holds NaN, infinity, or a value that float16 cannot hold.
    """

def simd_level() -> str:
    """The instruction set that pooling uses on this machine: "avx512", "avx2", "neon" or "scalar"."""

def set_simd_level(level: Literal["auto", "avx512", "avx2", "neon", "scalar"]) -> str:
    """For tests and measurements: pins the instruction set for the process and returns what was in force.

    Raises NativeError "invalid_argument" where this machine lacks it.
    """
