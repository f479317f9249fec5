"""What the server does, one file a task: typed requests and results; no gRPC, no protobuf, no engine."""
