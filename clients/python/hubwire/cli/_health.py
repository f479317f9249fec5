"""`hubwire health`: is the server serving?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hubwire.cli._options import connect
from hubwire.cli._output import print_json

if TYPE_CHECKING:
    from hubwire.cli._options import Subparsers

_SERVING = "SERVING"


def add_parser(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "health",
        parents=[common],
        help="ask whether a server is serving",
        description="Ask the standard health service. Exit code 0 only for SERVING.",
        allow_abbrev=False,
    )
    parser.add_argument("--service", default="", help="a service, as in hubwire.v1.EmbeddingService (default: the whole server)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the state; 0 only where it is SERVING."""
    from grpc_health.v1 import health_pb2

    with connect(args) as client:
        status = client.health(args.service, timeout_s=args.timeout)
    if args.json:
        print_json(health_pb2.HealthCheckResponse(status=status))
    else:
        print(status)
    return 0 if status == _SERVING else 1
