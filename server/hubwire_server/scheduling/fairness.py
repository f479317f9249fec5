"""Fair shares between clients, by weighted fair queueing with equal weights.

Each client has a virtual time: the tokens that were served to it. The client with the least is served next. The service has one too, which
advances by each client's fair share of what is served. A client that was idle starts there: it is served at once, but has saved up nothing;
and a client that waits is never overtaken without end, however many new ones arrive. A stream of a million texts therefore delays another
client's call by no more than the batches that are already on the device.
"""

from __future__ import annotations


class FairShares:
    """Virtual times of the clients that have texts waiting, or were served ahead of the service's own time. Others cost no memory."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._now = 0.0

    def arrived(self, client: str) -> None:
        """A text of this client is waiting."""
        self._waiting[client] = self._waiting.get(client, 0) + 1
        if self._waiting[client] == 1:
            self._served[client] = max(self._served.get(client, 0.0), self._now)

    def left(self, client: str) -> None:
        """A text of this client waits no longer."""
        self._waiting[client] -= 1
        if self._waiting[client] == 0:
            del self._waiting[client]
            self._forget_those_behind()

    def charge(self, client: str, tokens: int) -> None:
        """Tokens of this client, whose text is still counted as waiting, go to the device."""
        self._served[client] = self.virtual_time(client) + tokens
        self._now += tokens / max(1, len(self._waiting))

    def refund(self, client: str, tokens: int) -> None:
        """Tokens of this client went to the device for nothing. The service's own time never goes back: new clients would overtake old
        ones."""
        self._served[client] = self.virtual_time(client) - tokens

    def virtual_time(self, client: str) -> float:
        """The less, the sooner the client is served."""
        return self._served.get(client, self._now)

    def _forget_those_behind(self) -> None:
        """An idle client behind the service's time would start at that time anyway."""
        if len(self._served) > 2 * len(self._waiting) + 16:
            self._served = {name: time for name, time in self._served.items() if name in self._waiting or time > self._now}
