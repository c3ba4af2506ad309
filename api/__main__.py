"""`python -m api` serves the reports as configured."""

import sys

from api.config import ConfigError, load_settings
from api.functions import FunctionFileError
from api.server import serve


def main() -> int:
    """Serve until a signal ends it; a wrong setting or SQL file ends it at once with one line."""
    try:
        serve(load_settings())
    except (ConfigError, FunctionFileError) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
