"""Fetching a model from a hub: only the files that loading it reads, at one commit.

huggingface_hub is imported inside functions: a server that serves folders never pays for it. Where its hub is and where its cache lies is
its own configuration (HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import fnmatch
import glob
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hubwire_server.errors import HubwireError, Reason

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

    from hubwire_server.models.sources import Progress

WANTED = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.vocab", "*.py", "*.jinja")
"""Configuration, tokenizer and code (which is run only where allowed), in the folder of the model and of each of its modules."""

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
"""In the folders of modules. An index beside them may name shards of other names."""

INDEX = "model.safetensors.index.json"

PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")

UNWANTED = ("*.bin.index.json", "tf_model*", "flax_model*", "data_config.json", "*results*.json", "train_script.py", "*requirements*.txt")


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What to fetch. revision is a branch, a tag or a commit; None is the main branch. token None leaves it to huggingface_hub's own
    login.
    """

    repository: str
    revision: str | None = None
    allow_pickle: bool = False
    token: str | None = None
    cache_dir: Path | None = None
    endpoint: str | None = None

    def __repr__(self) -> str:
        return f"HubRequest({self.repository!r}, {self.revision!r})"


def fetch(request: HubRequest, progress: Progress | None = None) -> tuple[Path, str]:
    """Downloads what is missing in the cache; returns the folder and the commit. A hub that cannot be reached leaves what the cache holds.

    Raises HubwireError: MODEL_SOURCE_NOT_FOUND (no such repository or revision, or no access to it), MODEL_NOT_ALLOWED (only a pickle),
    MODEL_LOAD_FAILED (the hub cannot be reached or fails, and the cache does not hold the model).
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionResolutionError,
    )

    try:
        api = HfApi(endpoint=request.endpoint, token=request.token)
        # This remembers the commit of a branch in the cache, and takes it from there where the hub cannot be reached.
        revision = api.resolve_revision(request.repository, revision=request.revision, cache_dir=request.cache_dir)
        try:
            return _download(request, revision, progress), revision.resolved
        except (OfflineModeIsEnabled, httpx2.ConnectError, httpx2.TimeoutException):
            return _cached(request, revision), revision.resolved
    except (RevisionResolutionError, LocalEntryNotFoundError) as error:
        raise HubwireError(
            Reason.MODEL_LOAD_FAILED, f"the hub cannot be reached or fails, and the cache does not hold {request.repository}"
        ) from error
    except HFValidationError as error:
        raise HubwireError(
            Reason.MODEL_SOURCE_NOT_FOUND, f"{request.repository[:100]!r} is no hub id and no folder that exists", field="source"
        ) from error
    except HfHubHTTPError as error:
        raise _translate(request, error) from error
    except (httpx2.HTTPError, OSError) as error:
        raise HubwireError(Reason.MODEL_LOAD_FAILED, f"fetching {request.repository} failed: {type(error).__name__}") from error


def wanted_files(names: Iterable[str], folders: Iterable[str], *, allow_pickle: bool, shards: Iterable[str] = ()) -> list[str]:
    """Of a repository's files those that loading reads: weights from the given folders ("" is the root), which are pickled ones only where
    nothing else is there, and everything else from those and from the root. shards are the files that an index names.

    Raises HubwireError (MODEL_NOT_ALLOWED) where weights exist as pickles alone and those are not allowed.
    """
    chosen: list[str] = []
    with_weights = {_normal(folder) for folder in folders}
    by_folder: dict[str, list[str]] = {folder: [] for folder in {"", *with_weights}}
    shards = set(shards)
    for name in names:
        parent, _, _ = name.rpartition("/")
        if parent in by_folder:
            by_folder[parent].append(name)
        elif name in shards:
            chosen.append(name)
    for folder, files in by_folder.items():
        others = _matching(files, WANTED)
        chosen += [name for name in others if name not in _matching(others, UNWANTED)]
        if folder not in with_weights:
            continue
        safe = [*_matching(files, WEIGHTS), *(name for name in files if name in shards)]
        pickles = _matching(files, PICKLES)
        if pickles and not safe:
            if not allow_pickle:
                raise HubwireError(
                    Reason.MODEL_NOT_ALLOWED,
                    f"the repository holds weights as a pickle ({pickles[0]}), not safetensors; the flag --allow-pickle permits reading it",
                )
            chosen += [*pickles, *(name for name in files if name.endswith(".bin.index.json"))]
        chosen += safe
    return sorted(set(chosen))


def _normal(folder: str) -> str:
    """ "./1_Pooling/" as "1_Pooling", the root as ""."""
    return PurePosixPath(folder.strip("/")).as_posix().removeprefix(".")


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(PurePosixPath(name).name, pattern) for pattern in patterns)]


def _download(request: HubRequest, revision: ResolvedRevision, progress: Progress | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    api = HfApi(endpoint=request.endpoint, token=request.token)
    info = api.model_info(request.repository, revision=revision.resolved, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    place: dict[str, Any] = {"revision": revision, "token": request.token, "cache_dir": request.cache_dir, "endpoint": request.endpoint}

    def read(name: str) -> Any:
        """A JSON file of the repository. A broken one is left for the loader, which says what is wrong with it."""
        try:
            return json.loads(Path(hf_hub_download(request.repository, name, **place)).read_text(encoding="utf-8"))
        except ValueError:
            return None

    folders = (_module_folders(read("modules.json")) if "modules.json" in sizes else set()) or {""}
    indices = {_in_folder(folder, INDEX): folder for folder in folders}
    shards = {_in_folder(folder, shard) for name, folder in indices.items() if name in sizes for shard in _shards(read(name))}
    names = wanted_files(sizes, folders, allow_pickle=request.allow_pickle, shards=shards)
    if not names:
        raise HubwireError(Reason.MODEL_NOT_SUPPORTED, f"the repository {request.repository} holds no model for transformers")
    bar = _reporting_to(progress, f"fetching {request.repository}", sum(sizes[name] for name in names))
    return Path(snapshot_download(request.repository, allow_patterns=[glob.escape(name) for name in names], tqdm_class=bar, **place))


def _cached(request: HubRequest, revision: ResolvedRevision) -> Path:
    """What an earlier fetch left in the cache. That it is all of the model shows when the model is loaded."""
    from huggingface_hub import snapshot_download

    needed = ["config.json", "modules.json"]
    path = snapshot_download(
        request.repository, revision=revision, cache_dir=request.cache_dir, local_files_only=True, allow_patterns=needed
    )
    return Path(path)


def _module_folders(modules: Any) -> set[str]:
    """The folders that modules.json lists; none where it does not list modules, which is left for the loader too."""
    try:
        return {_normal(str(module["path"])) for module in modules}
    except (TypeError, KeyError):
        return set()


def _shards(index: Any) -> set[str]:
    """The files that an index of weights names."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    return {name for name in weight_map.values() if isinstance(name, str)} if isinstance(weight_map, dict) else set()


def _in_folder(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _reporting_to(progress: Progress | None, message: str, total: int) -> type[Any]:
    """A class of progress bars that shows nothing, and hands on how many bytes have been written."""
    from huggingface_hub.utils.tqdm import tqdm

    lock = threading.Lock()
    done = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the bars that huggingface_hub makes one counts the bytes that are written, the others bytes on the network and files.
            self._counts_bytes = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]  # tqdm ships no types

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            if self._counts_bytes and progress is not None and n:
                with lock:
                    done += int(n)
                    progress(message, min(done, total), total)
            return None

    return Bar


def _translate(request: HubRequest, error: Any) -> HubwireError:
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = request.repository
    hint = "check the token in HF_TOKEN" if request.token else "set HF_TOKEN if it is private or gated"
    if isinstance(error, GatedRepoError):
        return HubwireError(Reason.MODEL_NOT_ALLOWED, f"the hub repository {name} is gated: accept its terms on the hub, and {hint}")
    if isinstance(error, RevisionNotFoundError):
        return HubwireError(
            Reason.MODEL_SOURCE_NOT_FOUND, f"the hub repository {name} has no revision {request.revision!r}", field="revision"
        )
    if isinstance(error, RepositoryNotFoundError) or error.response.status_code == 401:
        return HubwireError(
            Reason.MODEL_SOURCE_NOT_FOUND, f"the hub has no repository {name} that this server may read; {hint}", field="source"
        )
    if isinstance(error, DisabledRepoError) or error.response.status_code == 403:
        return HubwireError(Reason.MODEL_NOT_ALLOWED, f"the hub refuses access to {name}; {hint}")
    return HubwireError(Reason.MODEL_LOAD_FAILED, f"the hub answered {error.response.status_code} for {name}")
