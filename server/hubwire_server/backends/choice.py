"""Choosing, on a CPU, the engine and the number format that a model runs in.

    a record of an earlier start? ── onnx ──▶ open the export, and compare it with what torch made of its probe ──▶ serve, without torch
                 │              └─── torch ─▶ load it in torch ──▶ serve
                 no
                 ▼
    load it in torch in float32 ──▶ export it ──▶ compare each candidate ──▶ time those that passed ──▶ choose, and write the record

What was found on the way is kept as Candidates, which are part of the model's description.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hubwire_server.backends.base import Backend, Candidate, Head, LoadOptions, RaggedBatch
from hubwire_server.backends.calibration import MIXED_LENGTHS, choose, time_candidates
from hubwire_server.backends.onnx import ExportCache, ExportKey, OnnxBackend, SessionOptions
from hubwire_server.backends.onnx.cache import EXPORTS
from hubwire_server.backends.onnx.check import MAX_DIFFERENCE, probe_difference
from hubwire_server.backends.onnx.info import ExportError, read_info
from hubwire_server.backends.records import Record, Records
from hubwire_server.backends.rows import probe_rows
from hubwire_server.backends.source import ModelSource
from hubwire_server.backends.tokenizer_export import ExportedTokenizer, export_tokenizer, read_tokenizer, write_tokenizer
from hubwire_server.errors import HubwireError, Reason

if TYPE_CHECKING:
    from hubwire_server.backends.torch import TorchBackend

log = logging.getLogger("hubwire.choice")

SESSIONS = {
    "threads spin within a batch": partial(SessionOptions, spinning="stop", affinity=True),
    "threads never spin": partial(SessionOptions, spinning="none"),
}
"""The sessions that are timed, by what the description says of them. The first one serves where nothing was timed."""
DEFAULT_SESSION = next(iter(SESSIONS))

MAX_UNFINISHED = 2
"""How often a worker may end while it measures a model, for lack of memory for one. Once more, and its supervisor would give the model up.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backend that serves, the tokenizer that came with it, and how the backend was chosen."""

    backend: Backend
    tokenizer: ExportedTokenizer
    candidates: tuple[Candidate, ...]


@dataclass(slots=True)
class _Way:
    """A candidate and, unless it was refused, the backend that runs it."""

    candidate: Candidate
    backend: Backend | None = None
    session: str = ""

    def refuse(self, note: str) -> None:
        """Closes the backend, and says why."""
        if self.backend is not None:
            self.backend.close()
        self.backend = None
        self.candidate = replace(self.candidate, note=note)


class Chooser:
    """Loads a model on a CPU. identify gives its fingerprint; cache is the folder for exports and records."""

    def __init__(self, source: ModelSource, identify: Callable[[], str], options: LoadOptions, cache: Path) -> None:
        self._source = source
        self._path = source.path
        self._identify = identify
        self.fingerprint = identify()
        self._options = replace(options, device="cpu")
        self._records = Records(cache, source.head)
        self._exports = ExportCache(cache / EXPORTS, shared=list(self._path.glob("*.safetensors")))
        self._refusal = ""
        self._passing = False
        """Whether what was measured is of this hour alone, since a disk was full or could not be read."""

    def load(self) -> Choice:
        """The model as an earlier start chose to run it, or as it is chosen now.

        Raises HubwireError as torch.load, and MODEL_NOT_SUPPORTED where the options ask for onnx and the model does not run in it.
        """
        return self._recorded() or self._exported() or self._measured_once()

    # What earlier starts left

    def _recorded(self) -> Choice | None:
        record = self._records.find(self.fingerprint, self._options)
        if record is None:
            return None
        if record.chosen.backend == "torch":
            return Choice(backend=self._load_torch(record.chosen.dtype), tokenizer=self._tokenizer, candidates=record.candidates)
        return self._open(record.candidates, record.chosen.dtype, record.session)

    def _exported(self) -> Choice | None:
        """An export serves without a record where onnx is asked for and is all that there is: it may have been made on another machine."""
        if self._options.backend != "onnx":
            return None
        dtype = self._onnx_dtype
        return self._open((Candidate(backend="onnx", dtype=dtype, chosen=True, note=DEFAULT_SESSION),), dtype, DEFAULT_SESSION)

    def _open(self, candidates: tuple[Candidate, ...], dtype: str, session: str) -> Choice | None:
        """The export in the cache, where it is there and still gives what torch gave."""
        folder = self._exports.find(self._key(dtype))
        if folder is None:
            return None
        try:
            tokenizer = read_tokenizer(folder)
            return Choice(backend=self._open_session(folder, session), tokenizer=tokenizer, candidates=candidates)
        except (HubwireError, OSError, ValueError, KeyError) as error:
            log.warning("an export is made anew: %s", error)
            return None

    # Measuring

    def _measured_once(self) -> Choice:
        """What is chosen by measuring, unless that has ended the worker before: then torch serves, this time."""
        torch_serves = self._options.backend != "onnx" and self._options.dtype != "int8"
        if torch_serves and self._records.unfinished(self.fingerprint, self._options) >= MAX_UNFINISHED:
            self._records.finish(self.fingerprint, self._options)
            note = f"nothing else was tried, since the worker ended {MAX_UNFINISHED} times while it was measuring"
            candidate = Candidate(backend="torch", dtype="float32", chosen=True, note=note)
            return Choice(backend=self._load_torch("float32"), tokenizer=self._tokenizer, candidates=(candidate,))
        self._records.begin(self.fingerprint, self._options)
        try:
            return self._measured()
        finally:
            self._records.finish(self.fingerprint, self._options)

    def _measured(self) -> Choice:
        reference = self._load_torch("float32", export=self._options.backend != "torch")
        ways = list(self._ways(reference))
        if any(way.backend not in (None, reference) for way in ways):
            self._compare(ways, reference)
        self._time(ways, reference)
        self._check_unchanged()
        return self._settle(ways, reference)

    def _ways(self, reference: TorchBackend) -> Iterator[_Way]:
        """Every way that the options leave open. One that cannot be taken has no backend, and says why."""
        backend, dtype = self._options.backend, self._options.dtype
        if backend != "onnx" and dtype != "int8":
            yield _Way(Candidate(backend="torch", dtype="float32", cosine=1.0, note=reference.description.packed_note), reference)
        if backend != "torch":
            yield from self._onnx_ways()
        # Scores are promised to be those of transformers, which a lower precision only gives to whoever asks for it.
        if backend != "onnx" and dtype == "auto" and self._source.head is Head.BODY:
            for half in ("bfloat16", "float16"):
                yield self._half_way(half)

    def _onnx_ways(self) -> Iterator[_Way]:
        candidate = Candidate(backend="onnx", dtype=self._onnx_dtype)
        folder = self._exports.find(self._key("float32"))
        if folder is not None and candidate.dtype == "int8":
            folder = self._quantized(folder)
        if folder is None:
            yield _Way(replace(candidate, note=self._refusal))
            return
        for session in SESSIONS:
            try:
                yield _Way(replace(candidate, note=session), self._open_session(folder, session), session)
            except HubwireError as error:
                yield _Way(replace(candidate, note=error.message))

    def _half_way(self, dtype: str) -> _Way:
        from hubwire_server.backends.torch.devices import computes_natively

        candidate = Candidate(backend="torch", dtype=dtype)
        if not computes_natively(dtype):
            return _Way(replace(candidate, note="this processor has no instructions for it"))
        try:
            backend = self._load_torch(dtype)
        except Exception as error:
            # The model's code runs in a format that it may not have been written for.
            return _Way(replace(candidate, note=_one_line(error)))
        return _Way(replace(candidate, note=backend.description.packed_note), backend)

    def _compare(self, ways: list[_Way], reference: TorchBackend) -> None:
        """Writes down how close what each way gives is to what torch gives in float32, and refuses those that are not close enough."""
        check = reference.random_texts(MIXED_LENGTHS)
        comparer = self._source.comparer
        expected: NDArray[np.float32] | None = None
        for way in ways:
            if way.backend is None or way.backend is reference:
                continue
            try:
                expected = comparer.outputs(reference, check) if expected is None else expected
                outputs = comparer.outputs(way.backend, check)
            except Exception as error:
                # Engines raise what they like on texts that are longer than those of the probe, and half precision may overflow.
                way.refuse(_one_line(error))
                continue
            way.candidate = replace(way.candidate, cosine=comparer.compare(expected, outputs))
            if refusal := comparer.refusal(expected, outputs, way.candidate.dtype):
                way.refuse(refusal)

    def _time(self, ways: list[_Way], reference: TorchBackend) -> None:
        running = [(way, way.backend) for way in ways if way.backend is not None]
        timings = time_candidates([partial(self._forward, backend) for _, backend in running], reference.random_texts)
        for (way, _), timing in zip(running, timings, strict=True):
            way.candidate = replace(way.candidate, short_ns=timing.short_ns, mixed_ns=timing.mixed_ns)

    def _forward(self, backend: Backend, texts: RaggedBatch) -> None:
        backend.forward(texts, probe_rows(self._source.head, texts))

    def _settle(self, ways: list[_Way], reference: TorchBackend) -> Choice:
        """Chooses, keeps the record, and closes every other backend."""
        if all(way.backend is None for way in ways):
            text = (
                f"the model does not run in ONNX Runtime ({ways[0].candidate.note}); with --backend auto and --dtype auto it runs in torch"
            )
            raise HubwireError(Reason.MODEL_NOT_SUPPORTED, text)
        chosen = ways[choose([way.candidate for way in ways])]
        chosen.candidate = replace(chosen.candidate, chosen=True)
        others = {id(backend): backend for backend in (reference, *(way.backend for way in ways)) if backend is not chosen.backend}
        for backend in filter(None, others.values()):
            backend.close()
        assert chosen.backend is not None
        record = Record(candidates=tuple(way.candidate for way in ways), session=chosen.session)
        if not self._passing:
            self._records.write(self.fingerprint, self._options, record)
        return Choice(backend=chosen.backend, tokenizer=self._tokenizer, candidates=record.candidates)

    # The parts

    @cached_property
    def _tokenizer(self) -> ExportedTokenizer:
        return export_tokenizer(self._path, allow_remote_code=self._options.allow_remote_code, lowercase=self._source.lowercase)

    @property
    def _onnx_dtype(self) -> str:
        return "int8" if self._options.dtype == "int8" else "float32"

    def _key(self, dtype: str) -> ExportKey:
        options = self._options
        return ExportKey(
            fingerprint=self.fingerprint,
            head=self._source.head,
            dtype=dtype,
            allow_pickle=options.allow_pickle,
            allow_remote_code=options.allow_remote_code,
        )

    def _load_torch(self, dtype: str, *, export: bool = False) -> TorchBackend:
        from hubwire_server.backends.torch import load  # here, since importing torch takes seconds

        options = replace(self._options, dtype=dtype)
        head = self._source.head
        return load(self._path, options, head, on_model=self._export) if export else load(self._path, options, head)

    def _open_session(self, folder: Path, session: str) -> OnnxBackend:
        """Raises HubwireError (MODEL_LOAD_FAILED) where the export cannot be opened, or does not give what torch gave of its probe."""
        backend = OnnxBackend(folder, read_info(folder), SESSIONS[session](threads=self._options.threads))
        difference = probe_difference(backend, folder)
        if not difference <= MAX_DIFFERENCE:
            backend.close()
            raise HubwireError(Reason.MODEL_LOAD_FAILED, f"the export differs from torch by {difference:.1e} standard deviations")
        return backend

    def _export(self, model: Any) -> None:
        """Puts an export of the model into the cache, unless there is one. What speaks against it is kept for the description."""
        from hubwire_server.backends.onnx.build import build_export

        head, threads = self._source.head, self._options.threads
        self._write("float32", lambda folder: build_export(model, head, folder, weights=self._path, threads=threads))

    def _quantized(self, exported: Path) -> Path | None:
        from hubwire_server.backends.onnx.build import build_quantized

        return self._write("int8", lambda folder: build_quantized(exported, folder, threads=self._options.threads))

    def _write(self, dtype: str, build: Callable[[Path], None]) -> Path | None:
        """The export in the cache, which build makes where there is none of use. None where it cannot be made, which _refusal explains."""
        tokenizer = self._tokenizer  # what is wrong with it is wrong with every engine

        def build_all(folder: Path) -> None:
            write_tokenizer(folder, tokenizer)
            try:
                build(folder)
            except (ExportError, OSError):
                raise
            except Exception as error:
                # The model's code, run without its engine's care, and ONNX Runtime raise anything.
                raise ExportError(_one_line(error)) from error
            self._check_unchanged()

        key = self._key(dtype)
        try:
            if (folder := self._exports.find(key)) is not None and self._holds(folder):
                return folder
            self._exports.remove(key)
            return self._exports.write(key, build_all)
        except ExportError as error:
            self._refusal = str(error)
        except OSError as error:
            self._passing = True
            self._refusal = f"the export could not be written: {error.strerror}"
        log.warning("the model is not run by ONNX Runtime: %s", self._refusal)
        return None

    def _check_unchanged(self) -> None:
        """What was made of the files is kept under their fingerprint, so they must be the same at its end. Raises HubwireError."""
        if self._identify() != self.fingerprint:
            raise HubwireError(Reason.MODEL_LOAD_FAILED, "the files of the model changed while it was loaded; load it again")

    def _holds(self, folder: Path) -> bool:
        """Whether an export, which may have been made on another machine, can be used on this one."""
        try:
            read_tokenizer(folder)
            self._open_session(folder, DEFAULT_SESSION).close()
        except (HubwireError, OSError, ValueError):
            return False
        return True


def _one_line(error: Exception) -> str:
    """What an error says in a line, for people; without the name of an error of our own."""
    if isinstance(error, HubwireError):
        return error.message
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
