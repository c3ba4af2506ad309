"""Bearer tokens (RFC 6750). The settings hold only their SHA-256 hashes."""

import hmac
from dataclasses import dataclass
from hashlib import sha256

import falcon

from api.http.problems import Problem


@dataclass(frozen=True)
class BearerTokens:
    """Falcon middleware: a request needs a valid token unless the resource has `is_public`."""

    hashes: tuple[str, ...]

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict
    ) -> None:
        """Check the token of a request.

        Raises:
            Problem: The request has no token, or the token is not valid.
        """
        # a browser's CORS preflight has no token
        if req.method == 'OPTIONS' or getattr(resource, 'is_public', False):
            return
        scheme, _, token = req.get_header('Authorization', default='').partition(' ')
        digest = sha256(token.strip().encode()).hexdigest()
        # compare all hashes in constant time, so that the response time reveals nothing
        known = [hmac.compare_digest(digest, hash_) for hash_ in self.hashes]
        if scheme.lower() != 'bearer' or not any(known):
            raise Problem('unauthorized')
