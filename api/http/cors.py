"""CORS: the origins whose scripts may read responses in a browser."""

import falcon

# response headers that scripts may read, in addition to those that CORS always allows
EXPOSED_HEADERS = ['ETag', 'Retry-After', 'Server-Timing', 'X-Request-ID']


class CorsWithVary(falcon.CORSMiddleware):
    """falcon's CORS middleware, plus `Vary: Origin`, since caches may store responses."""

    def process_response(self, req: falcon.Request, resp: falcon.Response, *rest: object) -> None:
        super().process_response(req, resp, *rest)
        resp.append_header('Vary', 'Origin')
