"""The worker process that holds the models of one device, and the front's side of it."""
