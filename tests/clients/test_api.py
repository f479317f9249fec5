"""What the package exports, and that its two clients are twins."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hubwire
import hubwire.aio

NAMES = sorted(name for name in dir(hubwire.Client) if not name.startswith("_"))


def test_the_exported_names_are_sorted_and_there():
    assert hubwire.__all__ == sorted(hubwire.__all__)
    assert dir(hubwire) == hubwire.__all__
    for name in hubwire.__all__:
        assert getattr(hubwire, name) is not None


def test_nothing_else_is_public():
    for name in hubwire.__all__:
        getattr(hubwire, name)
    extras = {name for name in vars(hubwire) if not name.startswith("_")} - set(hubwire.__all__)
    assert extras <= {"annotations", "cli", "importlib", "TYPE_CHECKING"}


@pytest.mark.parametrize(
    "expression",
    [
        "hubwire.aio.Client",
        "hubwire.errors.HubwireError",
        "hubwire.v1.common_pb2.Vector",
        "hubwire.v1.embedding_pb2.POOLING_MEAN",
        "hubwire.v1.errors_pb2.ErrorReason",
        "hubwire.v1.model_pb2.Model",
        "hubwire.Client.load_model",
    ],
)
def test_one_import_reaches_everything_in_a_fresh_process(expression):
    done = subprocess.run([sys.executable, "-W", "error", "-c", f"import hubwire; {expression}"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_messages_of_every_proto_are_there():
    protos = (Path(__file__).parents[2] / "proto" / "hubwire" / "v1").glob("*.proto")
    assert sorted(hubwire._MESSAGES) == sorted(f"{proto.stem}_pb2" for proto in protos)


def test_the_client_imports_no_engine():
    code = (
        "import sys, hubwire, hubwire.cli; hubwire.Client, hubwire.aio.Client, hubwire.v1, hubwire.TokenEmbeddings; "
        "print(sorted({'torch', 'transformers', 'tokenizers', 'hubwire_server'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        hubwire.Klient  # noqa: B018  # reading it is the test


def test_both_clients_have_the_same_methods():
    assert sorted(name for name in dir(hubwire.aio.Client) if not name.startswith("_")) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "__init__"])
def test_both_clients_take_the_same_parameters(name):
    def parameters(kind):
        return [(one.name, one.kind, one.default) for one in inspect.signature(getattr(kind, name)).parameters.values()]

    assert parameters(hubwire.Client) == parameters(hubwire.aio.Client)


@pytest.mark.parametrize("kind", [hubwire.Client, hubwire.aio.Client], ids=["sync", "aio"])
def test_every_public_method_is_documented(kind):
    assert all(inspect.getdoc(getattr(kind, name)) for name in NAMES)


def test_the_version_is_that_of_the_package():
    assert hubwire.__version__ == importlib.metadata.version("hubwire")


def test_importing_the_package_and_its_command_line_imports_neither_grpc_nor_numpy():
    code = "import sys, hubwire, hubwire.cli; sys.exit(any(name in sys.modules for name in ('grpc', 'numpy', 'google.protobuf')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
