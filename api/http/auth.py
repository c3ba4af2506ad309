"""Who may ask: bearer tokens (RFC 6750), of which only the SHA-256 hashes are configured."""

import hmac
from dataclasses import dataclass
from hashlib import sha256

import falcon

from api.http.problems import Problem


def hash_of(token: str) -> str:
    """Return a token's SHA-256 hash, in hexadecimal."""
    return sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class BearerTokens:
    """Falcon middleware: a resource needs a token with one of the hashes, unless it `is_public`."""

    hashes: tuple[str, ...]

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict
    ) -> None:
        """Refuse a request without a known token.

        Raises:
            Problem: There is none, or it is unknown.
        """
        # a browser sends OPTIONS before it sends a token
        if req.method == 'OPTIONS' or getattr(resource, 'is_public', False):
            return
        scheme, _, token = req.get_header('Authorization', default='').partition(' ')
        digest = hash_of(token.strip())
        # all are compared, each in constant time: what is known cannot be found out by waiting
        known = [hmac.compare_digest(digest, hash_) for hash_ in self.hashes]
        if scheme.lower() != 'bearer' or not any(known):
            raise Problem('unauthorized')
