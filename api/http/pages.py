"""What does not come from a SQL file: the way in, and pages that are the same for everybody."""

from collections.abc import Callable
from dataclasses import dataclass

import falcon


@dataclass(frozen=True, kw_only=True)
class Page:
    """What does not depend on the request: its body is called for each, and may raise."""

    body: Callable[[], bytes]
    cache_control: str = 'no-store'
    content_type: str = falcon.MEDIA_JSON
    needs_token: bool = False

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with it."""
        resp.data = self.body()
        resp.cache_control = [self.cache_control]
        resp.content_type = self.content_type

    on_head = on_get


class Entrance:
    """The root: sends a browser to the documentation, and tells a program where things are."""

    def __init__(self, paths: list[str]) -> None:
        self._links = {'documentation': '/docs', 'openapi': '/openapi.json', 'reports': paths}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer by what the client prefers."""
        resp.vary = ['Accept']
        if req.client_prefers([falcon.MEDIA_JSON, falcon.MEDIA_HTML]) == falcon.MEDIA_HTML:
            resp.status = falcon.HTTP_FOUND
            resp.location = '/docs'
        else:
            resp.media = self._links

    on_head = on_get
