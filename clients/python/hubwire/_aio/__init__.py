"""The methods of the asyncio client, one file a proto."""
