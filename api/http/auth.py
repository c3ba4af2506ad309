"""Who may ask: bearer tokens (RFC 6750), of which only the SHA-256 hashes are configured."""

import hmac
from dataclasses import dataclass
from hashlib import sha256

import falcon

from api.http.problems import Problem


@dataclass(frozen=True)
class BearerTokens:
    """Falcon middleware that wants a token for every resource marked `needs_token`.

    Attributes:
        hashes: The SHA-256 hashes of the tokens, in hexadecimal.
    """

    hashes: tuple[str, ...]

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict
    ) -> None:
        """Refuse a request without a known token.

        Raises:
            Problem: There is none, or it is unknown.
        """
        if req.method == 'OPTIONS' or not getattr(resource, 'needs_token', False):
            return
        scheme, _, token = req.get_header('Authorization', default='').partition(' ')
        digest = sha256(token.strip().encode()).hexdigest()
        # all are compared, each in constant time: what is known cannot be found out by waiting
        known = [hmac.compare_digest(digest, hash_) for hash_ in self.hashes]
        if scheme.lower() != 'bearer' or not any(known):
            raise Problem('unauthorized')
