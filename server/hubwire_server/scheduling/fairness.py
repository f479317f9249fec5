"""Fair shares between clients, by start-time fair queueing.

Each client has a virtual time: the tokens that were served to it. The client with the least is served next. A client that was idle starts
at the virtual time of the service itself, so it is served at once but has saved up nothing. A stream of a million texts therefore never
delays another client's call by more than the batches that are already on the device.
"""

from __future__ import annotations


class FairShares:
    """Virtual times of the clients that have texts waiting. Idle clients cost no memory."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._now = 0

    def arrived(self, client: str) -> None:
        """A text of this client is waiting."""
        self._waiting[client] = self._waiting.get(client, 0) + 1
        if self._waiting[client] == 1:
            self._served[client] = max(self._served.get(client, 0), self._now)

    def left(self, client: str) -> None:
        """A text of this client waits no longer."""
        self._waiting[client] -= 1
        if self._waiting[client] == 0:
            del self._waiting[client]
            if self._served[client] <= self._now:
                del self._served[client]

    def charge(self, client: str, tokens: int) -> None:
        """Tokens of this client go to the device; a negative number gives them back."""
        start = self._served.get(client, self._now)
        self._served[client] = max(0, start + tokens)

    def advance(self, client: str) -> None:
        """This client is served now."""
        self._now = max(self._now, self._served.get(client, 0))
        idle = [name for name, served in self._served.items() if served <= self._now and name not in self._waiting]
        for name in idle:
            del self._served[name]

    def virtual_time(self, client: str) -> int:
        """The less, the sooner the client is served."""
        return self._served.get(client, self._now)
