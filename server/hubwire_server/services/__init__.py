"""The gRPC services, one file a proto: decode, call the task, encode. No logic of their own."""
