"""CORS: whose scripts in a browser may read the answers."""

import falcon

# beyond what every script in a browser may read
EXPOSED_HEADERS = ['ETag', 'Retry-After', 'Server-Timing', 'X-Request-ID']


class ExactCors(falcon.CORSMiddleware):
    """falcon's CORS, and telling caches that an answer depends on the origin."""

    def process_response(self, req: falcon.Request, resp: falcon.Response, *rest: object) -> None:
        """Add the CORS headers."""
        super().process_response(req, resp, *rest)
        resp.append_header('Vary', 'Origin')
