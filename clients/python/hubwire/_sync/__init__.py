"""The methods of the synchronous client, one file a proto."""
