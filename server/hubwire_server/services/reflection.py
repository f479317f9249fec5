"""Server reflection, v1 and v1alpha. The two have the same messages under two package names; the library serves v1alpha alone."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from hubwire.v1 import errors_pb2

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def handlers(services: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """Reflection over these services, over the reasons of their errors, which no service names, and over itself."""
    assert errors_pb2.DESCRIPTOR.pool is descriptor_pool.Default()
    _describe_v1()
    servicer = reflection_aio.ReflectionServicer([*services, V1, V1ALPHA])
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in (V1, V1ALPHA)]


def _describe_v1() -> None:
    """Adds the descriptor of v1 to the pool, made from that of v1alpha."""
    pool = descriptor_pool.Default()
    name = "grpc/reflection/v1/reflection.proto"
    try:
        pool.FindFileByName(name)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text = text_format.MessageToString(alpha).replace("grpc.reflection.v1alpha", "grpc.reflection.v1")
        v1 = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        v1.name = name
        pool.AddSerializedFile(v1.SerializeToString())
