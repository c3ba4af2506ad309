"""ETags, conditional requests and compression."""

import gzip
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import falcon

GZIP_MIN_BYTES = 10_000
GZIP_LEVEL = 1  # for large reports, twice as fast as level 6; the result is 20% larger
# gzip or * in Accept-Encoding, with its weight (RFC 9110, section 12.5.3)
ACCEPTED = re.compile(r'(?:^|,)\s*(gzip|\*)\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?(?=,|$)')


@dataclass(frozen=True)
class Delivery:
    """Falcon middleware for the bodies of resources with `is_cacheable`."""

    varies_by_origin: bool

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        """Set the ETag. Omit the body if the client has it, or compress it if the client allows."""
        body = resp.data
        if body is None or not (succeeded and getattr(resource, 'is_cacheable', False)):
            return
        resp.vary = ['Accept-Encoding', *(['Origin'] if self.varies_by_origin else [])]
        accepted = req.get_header('Accept-Encoding', default='')
        compress = len(body) >= GZIP_MIN_BYTES and accepts_gzip(accepted)
        resp.etag = tag = blake2b(body, digest_size=16).hexdigest() + ('-gzip' if compress else '')
        if any(known in ('*', tag) for known in req.if_none_match or ()):
            resp.status = falcon.HTTP_NOT_MODIFIED
            resp.content_type = None
            resp.data = None
        elif compress:
            resp.set_header('Content-Encoding', 'gzip')
            resp.data = compressed(body)


@lru_cache(maxsize=1)
def compressed(body: bytes) -> bytes:
    """Compress a body, once for requests that share a slow report."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    weights = {coding: float(q or 1) for coding, q in ACCEPTED.findall(accept_encoding.lower())}
    return weights.get('gzip', weights.get('*', 0)) > 0
