"""What is measured now, and how much is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Steps(tqdm):
    """The bar of a part of the bench, to be closed by a with statement.

    Args:
        part: The part's name.
        count: How many steps it has.
    """

    def __init__(self, part: str, count: int) -> None:
        super().__init__(desc=part, total=count, unit=' steps', dynamic_ncols=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Do one step in the block, and tell what it is meanwhile."""
        self.set_postfix_str(what)
        yield
        self.update()
