"""How both clients connect: one set of channel options, with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import grpc.aio

from hubwire._arguments import check_address, check_flag, check_metadata
from hubwire._version import __version__

OPTIONS: tuple[tuple[str, int | str], ...] = (
    # The answer is what the caller asked for, and its size follows from the request; gRPC's default of 4 MiB is 2,700 vectors of 384
    # floats.
    ("grpc.max_receive_message_length", -1),
    ("grpc.primary_user_agent", f"hubwire-python/{__version__}"),
    # A dead peer behind a silent stream is found by pings. A gRPC server with default settings closes connections that ping more often than
    # every five minutes without data, and load balancers tend to forget connections that are silent for about 350 s.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC waits for up to two minutes between connection attempts, and calls made meanwhile fail at once: far too slow for a server that is
    # starting.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where and how to connect."""

    address: str
    tls: bool = False
    credentials: grpc.ChannelCredentials | None = None
    metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_address(self.address)
        check_flag("tls", self.tls)
        check_metadata(self.metadata)
        if not isinstance(self.credentials, grpc.ChannelCredentials | None):
            raise TypeError(f"credentials must be a grpc.ChannelCredentials, not {type(self.credentials).__name__}")

    def open(self) -> grpc.Channel:
        """A channel for grpc. Nothing is sent before the first call."""
        credentials = self._credentials()
        if credentials is None:
            return grpc.insecure_channel(self.address, OPTIONS, grpc.Compression.NoCompression)
        return grpc.secure_channel(self.address, credentials, OPTIONS, grpc.Compression.NoCompression)

    def open_aio(self) -> grpc.aio.Channel:
        """A channel for grpc.aio, bound to the running event loop. Nothing is sent before the first call."""
        credentials = self._credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, OPTIONS, grpc.Compression.NoCompression)
        return grpc.aio.secure_channel(self.address, credentials, OPTIONS, grpc.Compression.NoCompression)

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with every call."""
        return tuple(check_metadata(self.metadata).items())

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self.credentials is None and self.tls:
            return grpc.ssl_channel_credentials()
        return self.credentials
