"""What does not come from a SQL file: the root, and pages that are the same for everybody."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import falcon
from falcon.routing import StaticRoute


class ReadOnly:
    """A resource that answers HEAD as it answers GET; falcon answers OPTIONS."""

    def on_head(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        """Answer as GET does; the server leaves out the body."""
        self.on_get(req, resp, **path)


@dataclass(frozen=True)
class Page(ReadOnly):
    """A page that does not depend on the request; `body` is called for each."""

    body: Callable[[], bytes]
    cache_control: str = 'no-store'
    content_type: str = falcon.MEDIA_JSON
    is_public: bool = True

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the page."""
        resp.data = self.body()
        resp.cache_control = [self.cache_control]
        resp.content_type = self.content_type


class SwaggerUi(ReadOnly):
    """The files of Swagger UI (not its code), with the ranges and conditions that falcon knows."""

    is_public = True
    files = StaticRoute('/docs/static', Path(find_spec('swagger_ui').origin).with_name('static'))

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_name: str) -> None:
        """Answer with one of them."""
        self.files(req, resp)


class Root(ReadOnly):
    """Sends a browser to the documentation, and gives a program the paths of the reports.

    The links are relative: a proxy may serve the service below a path prefix.
    """

    is_public = True

    def __init__(self, paths: list[str]) -> None:
        reports = [path.removeprefix('/') for path in paths]
        self._links = {'documentation': 'docs', 'openapi': 'openapi.json', 'reports': reports}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer by what the client prefers."""
        resp.vary = ['Accept']
        if req.client_prefers([falcon.MEDIA_JSON, falcon.MEDIA_HTML]) == falcon.MEDIA_HTML:
            raise falcon.HTTPFound('docs')
        resp.media = self._links
