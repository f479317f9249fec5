"""The Rust core of Hubwire: tokenization into ragged batches, pooling and decoding of model output, and vectors as protobuf bytes.

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
    "AggregationStrategy",
    "Answers",
    "Encoding",
    "Entities",
    "NativeError",
    "OffsetUnit",
    "PairTruncation",
    "PoolingMode",
    "RaggedBatch",
    "Tokenizer",
    "TruncationSide",
    "WireEncoding",
    "aggregate_entities",
    "best_answers",
    "convert",
    "encode_matrix",
    "encode_stream_results",
    "encode_token_embeddings",
    "encode_vectors",
    "pool_padded",
    "pool_ragged",
    "set_simd_level",
    "simd_level",
    "sparse_rows",
    "top_k",
]

PoolingMode = Literal["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
Encoding = Literal["float32", "float16", "int8", "binary"]
WireEncoding = Literal["float", "float32_bytes", "float16_bytes", "int8_bytes", "binary_bytes"]
OffsetUnit = Literal["code_point", "utf8_byte", "utf16_unit"]
TruncationSide = Literal["left", "right"]
PairTruncation = Literal["longest_first", "only_first", "only_second"]
AggregationStrategy = Literal["none", "simple", "first", "average", "max"]
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
    """The tokens of n rows, one after the other. A row is a text or a pair, or with `stride` one window of it."""

    ids: NDArray[np.int32]
    """Vocabulary numbers, shape (T,)."""
    type_ids: NDArray[np.int32]
    """Segment numbers, shape (T,): 0 for the first text of a pair, 1 for the second."""
    offsets: NDArray[np.int64]
    """Where each row begins in the flat arrays, shape (n + 1,), first value 0, last value T."""
    token_counts: NDArray[np.int64]
    """How many tokens the text of each row has before truncation, special tokens included, shape (n,). More than in `offsets` where it was
    cut; all windows of a text have the same count."""
    sources: NDArray[np.int64]
    """The index of the text that each row belongs to, shape (n,): 0 to n - 1 without stride, and rising anyway."""
    spans: NDArray[np.uint32] | None
    """Start and end of each token in its own text or word, shape (T, 2), in the unit asked for; (0, 0) for special tokens. A span never
    cuts a character in two, whatever the unit. None unless asked for."""
    special_tokens_mask: NDArray[np.bool_] | None
    """True for tokens that the tokenizer added, shape (T,). None unless spans are asked for."""
    sequence_ids: NDArray[np.int8] | None
    """Which text of a pair each token is of, shape (T,): 0 the first, 1 the second, -1 for special tokens. None unless spans are asked
    for."""
    word_ids: NDArray[np.int32] | None
    """The word of its text that each token is of, as the tokenizer splits words (or as encode_words was given them), shape (T,); -1 for
    special tokens. None unless spans are asked for."""

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
        truncation: PairTruncation = "longest_first",
        stride: int | None = None,
        spans: OffsetUnit | None = None,
        threads: int = 1,
    ) -> RaggedBatch:
        """Tokenizes each text, or each pair of texts[i] and pairs[i].

        max_tokens cuts what is longer, special tokens included; None cuts nothing. truncation says which text of a pair loses tokens, as in
        transformers; it means nothing without pairs.
        stride makes windows instead of cutting: what is over max_tokens goes on in further rows, each of which repeats `stride` tokens of
        the row before it, special tokens, and the text of a pair that is not cut. These are the rows, in the order, of `tokenizer(...,
        stride=stride, return_overflowing_tokens=True)` in transformers. Without max_tokens it does nothing.
        threads bounds the threads that share the texts; fewer are used where the texts are few or short.
        Raises NativeError: "out_of_range" where max_tokens leaves no room beside the special tokens or no more than the stride, and with
        the index of a pair where it leaves none beside the text that must not be cut; "shape_mismatch" where pairs has another length than
        texts; "invalid_argument" and "tokenization_failed" with the index of a text.
        """

    def encode_words(
        self,
        words: Sequence[Sequence[str]],
        *,
        add_special_tokens: bool = True,
        max_tokens: int | None = None,
        truncation_side: TruncationSide = "right",
        stride: int | None = None,
        spans: OffsetUnit | None = None,
        threads: int = 1,
    ) -> RaggedBatch:
        """Tokenizes texts that are split into words already, as `is_split_into_words=True` in transformers.

        A span counts from the beginning of its word, which is the one of `word_ids`. Otherwise as encode; the index of an error is that of
        the text, not of the word.
        """

    def decode(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], *, skip_special_tokens: bool) -> list[str]:
        """The text of each row of ids, shape (T,), cut by offsets, shape (n + 1,). Ids that the vocabulary lacks are left out.

        Raises NativeError: "offsets_out_of_order"; "out_of_range" with the row where an id is negative; "tokenization_failed" with the row
        where the decoder of the tokenizer fails.
        """

    def tokens(self, ids: NDArray[np.int32]) -> list[str]:
        """The entry of the vocabulary of each id. Raises NativeError "out_of_range", with the index, for an id that it lacks."""

    def token_to_id(self, token: str) -> int | None:
        """The id of an entry of the vocabulary, added tokens included; None where it has no such entry."""

    def token_lengths(self) -> NDArray[np.int32]:
        """The number of code points of each entry of the vocabulary, by id, shape (highest id + 1,); 0 for ids that are not used.

        Counted once for each tokenizer: every call returns the same array, which is read-only.
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

def top_k(logits: NDArray[np.float32], k: int, *, threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """The k largest values of each row of logits, shape (m, v), and what turns them into probabilities.

    Returns the columns (m, k), the values (m, k) and log(sum(exp(row))) (m,). Largest first, equal values by their column. k is cut to v.
    exp(value - logsumexp) is the probability of a value under softmax.
    Raises NativeError "not_finite" with the row where it holds NaN or infinity; "shape_mismatch" where rows have no values.
    """

@final
class Entities:
    """What aggregate_entities finds: e entities, in the order of the text."""

    rows: NDArray[np.int64]
    """The row that each entity is in, shape (e,)."""
    first: NDArray[np.int64]
    """Its first token, as a position in the flat arrays, shape (e,)."""
    last: NDArray[np.int64]
    """Its last token, inclusive, shape (e,)."""
    labels: NDArray[np.int32]
    """The label of its first token (or word), as a column of scores, shape (e,). The tag of this label is the tag of the entity."""
    scores: NDArray[np.float32]
    """The mean of the scores of its tokens (or words), shape (e,)."""

def aggregate_entities(
    scores: NDArray[np.float32],
    offsets: NDArray[np.int64],
    kept: NDArray[np.bool_],
    is_subword: NDArray[np.bool_],
    tags: NDArray[np.int32],
    begins: NDArray[np.bool_],
    *,
    strategy: AggregationStrategy,
) -> Entities:
    """Groups the labels of tokens into entities, as the token-classification pipeline of transformers does.

    scores, shape (T, L), are the probabilities of L labels for each token; offsets, shape (n + 1,), the rows. kept, shape (T,), is False
    for special tokens. is_subword, shape (T,), is True where a token continues the word of the token before it. Of each label, shape (L,),
    tags says which labels are of one tag ("B-PER", "I-PER" and "PER" have one number), and begins whether it begins an entity ("B-PER").
    "none" gives one entity a kept token. "simple" joins neighbouring tokens of one tag. The others do so with whole words, to which they
    give the label of the first token ("first"), of the mean of their scores ("average"), or of the token with the highest score ("max"). No
    label is ignored here. Raises NativeError: "shape_mismatch"; "offsets_out_of_order"; "out_of_range" where there are tokens but no
    labels; "not_finite" with the row where a score of a kept token is NaN or infinite.
    """

@final
class Answers:
    """What best_answers finds: a answers, those of one source after those of the other."""

    sources: NDArray[np.int64]
    """The source of each answer, shape (a,), rising."""
    first: NDArray[np.int64]
    """Its first token, as a position in the flat arrays, shape (a,)."""
    last: NDArray[np.int64]
    """Its last token, inclusive, shape (a,)."""
    scores: NDArray[np.float32]
    """Its probability, shape (a,), falling within a source."""
    null_scores: NDArray[np.float32]
    """The probability that there is no answer, shape (number of sources,); 0 where no token stands for that."""

def best_answers(
    start: NDArray[np.float32],
    end: NDArray[np.float32],
    offsets: NDArray[np.int64],
    sources: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    null: NDArray[np.int64],
    *,
    max_answer_tokens: int,
    k: int,
) -> Answers:
    """The most probable spans of tokens for each source (a question and its context), out of all its windows together.

    start and end, shape (T,), are the logits; offsets, shape (w + 1,), the windows. sources, shape (w,), says which source each window is
    of: from 0, rising by at most 1 from window to window. allowed, shape (T,), is True for the tokens of which answers are made, and null,
    shape (w,), the position in the flat arrays of the token that stands for "no answer" in each window, -1 where none does. P is the
    softmax over all allowed tokens of all windows of a source and their null tokens. A span has the score P(start) * P(end); it begins and
    ends at allowed tokens of one window and has at most max_answer_tokens tokens. The null score of a source is the lowest P(start) *
    P(end) of its null tokens.
    Returns up to 4 * k spans a source, best first, equal ones in the order of the text: where windows overlap a span comes once for each of
    them, which the caller, who knows the characters, takes out.
    Raises NativeError: "shape_mismatch"; "offsets_out_of_order"; "out_of_range" where max_answer_tokens is 0, with the window where its
    source is not in order or its null token not inside it; "not_finite" with the window where a logit that is read is NaN or infinite.
    """

def sparse_rows(maxima: NDArray[np.float32], *, threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """The entries above 0 of each row of maxima, shape (n, v), as log(1 + value): the sparse vectors of SPLADE, from the highest logit of
    each vocabulary entry.

    Returns the columns (nnz,), rising within a row, their values (nnz,), and the offsets of the rows (n + 1,).
    Raises NativeError "not_finite" with the row where it holds NaN or infinity.
    """

def simd_level() -> str:
    """The instruction set that pooling uses on this machine: "avx512", "avx2", "neon" or "scalar"."""

def set_simd_level(level: Literal["auto", "avx512", "avx2", "neon", "scalar"]) -> str:
    """For tests and measurements: pins the instruction set for the process and returns what was in force.

    Raises NativeError "invalid_argument" where this machine lacks it.
    """
