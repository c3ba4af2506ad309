"""ETags, conditional requests and compression."""

import gzip
import re
from hashlib import blake2b

import falcon

# a large body is passed to the server in chunks, so that the server does not copy all of it
CHUNK_BYTES = 1024 * 1024
GZIP_MIN_BYTES = 10_000
GZIP_LEVEL = 1  # for large reports, twice as fast as level 6; the result is 20% larger
# gzip or * in Accept-Encoding, with its weight (RFC 9110, section 12.5.3)
ACCEPTED = re.compile(r'(?:^|,)\s*(gzip|\*)\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?(?=,|$)')


class Delivery:
    """Falcon middleware for the bodies of resources with `is_cacheable`."""

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        """Set the ETag. Omit the body if the client has it, or compress it if the client allows."""
        body = resp.data
        if body is None or not (succeeded and getattr(resource, 'is_cacheable', False)):
            return
        resp.append_header('Vary', 'Accept-Encoding')
        accepted = req.get_header('Accept-Encoding', default='')
        compress = len(body) >= GZIP_MIN_BYTES and accepts_gzip(accepted)
        resp.etag = tag = blake2b(body, digest_size=16).hexdigest() + ('-gzip' if compress else '')
        if any(known in ('*', tag) for known in req.if_none_match or ()):
            resp.status = falcon.HTTP_NOT_MODIFIED
            resp.content_type = None
            resp.data = None
        elif compress:
            resp.set_header('Content-Encoding', 'gzip')
            resp.data = gzip.compress(body, GZIP_LEVEL, mtime=0)
        elif len(body) > CHUNK_BYTES:
            resp.data = None
            starts = range(0, len(body), CHUNK_BYTES)
            resp.stream = (body[start : start + CHUNK_BYTES] for start in starts)
            resp.content_length = len(body)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    weights = {coding: float(q or 1) for coding, q in ACCEPTED.findall(accept_encoding.lower())}
    return weights.get('gzip', weights.get('*', 0)) > 0
