"""The worker's random numbers, word for word as in `src/rng.rs`; specified in `rng.md`. No dependencies.

    python3 rng.py vectors    prints the known-answer vectors that the tests compare
"""

import json
import math
import struct
import sys

MASK32 = 0xFFFFFFFF
INIT, SHUFFLE, DROPOUT, SPLIT, DATA, BLOCKS, ROWS, PARTS, BOOTSTRAP = 1, 2, 3, 4, 5, 6, 7, 8, 9


def philox(key, counter):
    """One block of Philox4x32-10: four words from a counter of four words under a key of two."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK32, (a >> 32) ^ c3 ^ k1, a & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def f32(value):
    """A Python float rounded to the nearest f32."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Rng:
    """A stream of 32-bit words: `domain` says what for, `index` and `major` which one."""

    def __init__(self, seed, domain, index=0, major=0):
        self.key = (seed & MASK32, seed >> 32)
        self.base = domain << 120 | index << 88 | (major % 2**48) << 40
        self.position = 0

    def next(self):
        counter = self.base | (self.position // 4) % 2**40
        words = philox(self.key, [counter >> shift & MASK32 for shift in (0, 32, 64, 96)])
        word = words[self.position % 4]
        self.position += 1
        return word

    def uniform(self, n):
        """n f32 numbers in [0, 1)."""
        return [(self.next() >> 8) / 2**24 for _ in range(n)]

    def normal(self, n):
        """n standard normal f32 numbers."""
        out = []
        while len(out) < n:
            radius = math.sqrt(-2.0 * math.log((self.next() + 1.0) / 2**32))
            angle = 2.0 * math.pi * (self.next() / 2**32)
            out += [f32(radius * math.cos(angle)), f32(radius * math.sin(angle))]
        return out[:n]

    def below(self, bound):
        """A number below `bound`, unbiased."""
        product = self.next() * bound
        if product & MASK32 < bound:
            threshold = 2**32 % bound
            while product & MASK32 < threshold:
                product = self.next() * bound
        return product >> 32

    def permutation(self, n):
        """0..n in random order."""
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


def randn_row(seed, table, row, width):
    """A row of synthetic data; table 0 is features, 1 targets."""
    return Rng(seed, DATA, table, row).normal(width)


def split(seed, rows, validation, test):
    """The row numbers of the train, validation and test parts."""
    order = Rng(seed, SPLIT).permutation(rows)
    n_validation, n_test = (math.floor(rows * share + 0.5) for share in (validation, test))
    n_train = rows - n_validation - n_test
    cuts = order[:n_train], order[n_train:n_train + n_validation], order[n_train + n_validation:]
    return [sorted(part) for part in cuts]


def parts(seed, rows, validation, test):
    """The part of each row of a streamed source."""
    rng = Rng(seed, PARTS)
    to_test, to_validate = (math.floor(share * 2**32 + 0.5) for share in (test, test + validation))
    return ["test" if word < to_test else "validation" if word < to_validate else "train"
            for word in (rng.next() for _ in range(rows))]


def stream_order(seed, epoch, train, window):
    """(block, row) of each place of an epoch, by the rows to train on of each block and the rows of a window."""
    windows, held = [[]], 0
    for block in Rng(seed, BLOCKS, 0, epoch).permutation(len(train)):
        if held > 0 and held + train[block] > window:
            windows.append([])
            held = 0
        windows[-1].append(block)
        held += train[block]
    out = []
    for number, blocks in enumerate(windows):
        rows = [(block, row) for block in blocks for row in range(train[block])]
        out += [rows[row] for row in Rng(seed, ROWS, number, epoch).permutation(len(rows))]
    return out


def vectors():
    """What `tests/rng_twin.rs` compares with the Rust side: words, numbers and orders of every kind of stream."""
    bits = lambda values: [struct.unpack("<I", struct.pack("<f", v))[0] for v in values]
    streams = [
        (0, INIT, 0, 0),
        (42, INIT, 3, 0),
        (2**64 - 1, SHUFFLE, 0, 2**48 + 5),
        (7, DROPOUT, 2**32 - 1, 123456789012),
        (7, SPLIT, 0, 0),
        (1 << 40, DATA, 1, 9),
        (9, BLOCKS, 0, 3),
        (9, ROWS, 5, 3),
        (9, PARTS, 0, 0),
        (9, BOOTSTRAP, 0, 2**48 + 2),
    ]
    out = []
    for stream in streams:
        draw = lambda: Rng(*stream)
        rng = draw()
        out.append({
            "words": [rng.next() for _ in range(9)],
            "uniform": bits(draw().uniform(7)),
            "normal": bits(draw().normal(501)),
            "permutation": draw().permutation(257),
            "below_3_000_000_000": [rng.below(3_000_000_000) for _ in range(64)],
        })
    return {"streams": out, "data": bits(randn_row(3, 1, 12345, 7)), "parts": split(7, 1797, 0.15, 0.1),
            "streamed_parts": parts(7, 500, 0.15, 0.1), "order": stream_order(9, 3, [7, 0, 12, 5, 30, 1, 9], 20)}


if __name__ == "__main__" and sys.argv[1:] == ["vectors"]:
    json.dump(vectors(), sys.stdout)
