"""What each process has counted, in memory that all of them share.

Every process has a slot, which only it writes, in two halves that it writes in turns. A reader
takes the newer one whose checksum fits, so it always finds a whole one. There is no lock: a process
that is killed would leave it locked.
"""

import logging
import mmap
import struct
import zlib

log = logging.getLogger(__name__)

# sequence number, length and checksum of the snapshot that follows
HEADER = struct.Struct('QII')
# three times what all labels that there can be take
HALF_BYTES = 128 * 1024


class Snapshots:
    """The latest snapshot of every process that this one forks.

    Args:
        slots: How many processes there are.

    Attributes:
        slots: The same.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(-1, slots * 2 * HALF_BYTES)
        # memory that is not to be had is missed now and not while answers depend on it
        self._memory.write(bytes(len(self._memory)))

    def write(self, slot: int, snapshot: bytes) -> None:
        """Replace a slot's snapshot; one that does not fit is left out."""
        if HEADER.size + len(snapshot) > HALF_BYTES:
            log.warning('a snapshot of the metrics is too large')
            return
        sequence = self._newest(slot)[0] + 1
        header = HEADER.pack(sequence, len(snapshot), zlib.crc32(snapshot, sequence))
        begin = self._begin(slot, sequence)
        self._memory[begin : begin + len(header) + len(snapshot)] = header + snapshot

    def read(self, slot: int) -> bytes:
        """Return a slot's snapshot; nothing if it has none yet."""
        return self._newest(slot)[1]

    def _newest(self, slot: int) -> tuple[int, bytes]:
        """Return the newer whole snapshot of the two halves, after its sequence number."""
        found = [(0, b'')]
        for half in range(2):
            begin = self._begin(slot, half)
            # a copy, as the other process may write
            copy = self._memory[begin : begin + HALF_BYTES]
            sequence, length, checksum = HEADER.unpack_from(copy)
            snapshot = copy[HEADER.size : HEADER.size + length]
            if zlib.crc32(snapshot, sequence) == checksum:
                found.append((sequence, snapshot))
        return max(found)

    @staticmethod
    def _begin(slot: int, sequence: int) -> int:
        return (2 * slot + sequence % 2) * HALF_BYTES
