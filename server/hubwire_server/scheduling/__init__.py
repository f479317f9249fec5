"""Which texts run next: admission, fairness and the batch planner. Pure state machines under an injected clock; no asyncio, no I/O."""
