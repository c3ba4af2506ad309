"""Resources that do not need the database: the root, constant pages, metrics."""

from dataclasses import dataclass

import falcon
from prometheus_client import CONTENT_TYPE_LATEST

from api.telemetry.metrics import exposition


class ReadOnly:
    """A resource that takes GET and HEAD. falcon implements OPTIONS."""

    def on_head(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        """Respond as to GET; the server omits the body."""
        self.on_get(req, resp, **path)


@dataclass(frozen=True)
class Page(ReadOnly):
    """A constant body."""

    body: bytes
    content_type: str = falcon.MEDIA_JSON
    is_public: bool = False
    is_cacheable: bool = False

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self.body
        resp.cache_control = ['no-cache' if self.is_cacheable else 'no-store']
        resp.content_type = self.content_type


class Metrics(ReadOnly):
    """The metrics of all workers, for Prometheus."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = exposition()
        resp.cache_control = ['no-store']
        resp.content_type = CONTENT_TYPE_LATEST


class Root(ReadOnly):
    """Redirects browsers to the documentation, and lists the paths of the reports for programs.

    The links are relative, because a proxy may add a path prefix.
    """

    is_public = True

    def __init__(self, paths: list[str]) -> None:
        reports = [path.removeprefix('/') for path in paths]
        self._links = {'documentation': 'docs', 'openapi': 'openapi.json', 'reports': reports}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Respond with what the Accept header prefers."""
        resp.vary = ['Accept']
        if req.client_prefers([falcon.MEDIA_JSON, falcon.MEDIA_HTML]) == falcon.MEDIA_HTML:
            raise falcon.HTTPFound('docs')
        resp.media = self._links
