"""A keyed bijection of 0..n-1: the order of an epoch without storing it (a Feistel network with cycle walking).

The permutation is part of the order of data: any change here changes what every trial of a fingerprint reads.
"""

import hashlib

import numpy as np
import numpy.typing as npt

_ROUNDS = 8
Index = npt.NDArray[np.int64]


class Permutation:
    """`Permutation(n, *key)(i)` is a bijection of [0, n); another key gives another one. O(1) per index."""

    def __init__(self, size: int, *key: int) -> None:
        assert size > 0
        self._size = size
        self._bits = np.uint64(max(1, (size - 1).bit_length() + 1 >> 1))  # of each half: 4**bits >= size
        # 64 bytes of the digest: one key of 8 bytes for each of the 8 rounds.
        seed = hashlib.sha512(",".join(str(part) for part in (size, *key)).encode()).digest()
        self._keys = np.frombuffer(seed, dtype="<u8", count=_ROUNDS).astype(np.uint64)

    def __call__(self, index: Index) -> Index:
        walked = self._network(index.astype(np.uint64))
        while np.any(
            outside := walked >= self._size
        ):  # the network permutes fewer than 4 n values: under four walks on average
            walked[outside] = self._network(walked[outside])
        return walked.astype(np.int64)

    def _network(self, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        mask = (np.uint64(1) << self._bits) - np.uint64(1)
        left, right = value >> self._bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self._bits) | right


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
