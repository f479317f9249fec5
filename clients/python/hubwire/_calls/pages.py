"""The pages of ListModels, put together. Pure: no grpc, no waiting."""

from __future__ import annotations

from hubwire import errors
from hubwire.v1 import model_pb2

# The most that a server gives at once; fewer pages are fewer round trips.
_PAGE_SIZE = 1000


class ModelPages:
    """The models of the pages so far, and the request for the next one."""

    def __init__(self) -> None:
        self.models: list[model_pb2.Model] = []
        self._token: str | None = ""

    def next_request(self) -> model_pb2.ListModelsRequest | None:
        """The request for the next page; None after the last one."""
        return None if self._token is None else model_pb2.ListModelsRequest(page_size=_PAGE_SIZE, page_token=self._token)

    def add(self, page: model_pb2.ListModelsResponse) -> None:
        """Take a page. Raises InternalError where it leads to itself, which would never end."""
        if page.next_page_token and page.next_page_token == self._token:
            raise errors.contract_error("the server names the same page of models again and again")
        self.models.extend(page.models)
        self._token = page.next_page_token or None
