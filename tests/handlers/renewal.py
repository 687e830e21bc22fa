"""Draws from every source of randomness, prepared before the snapshot: no two clones may draw the same."""

import random
import secrets
import ssl
import tempfile
import time
import uuid

own = random.Random()
seeded = random.Random(42)
system = random.SystemRandom()
random.random()
own.random()
ssl.RAND_bytes(8)
uuid.uuid1()
tempfile.gettempdir()
next(tempfile._get_candidate_names())

try:
    import numpy
except ImportError:
    numpy = None
else:
    generator = numpy.random.default_rng()
    bits = numpy.random.PCG64()
    fixed = numpy.random.default_rng(42)
    generator.random()
    numpy.random.random()


calls = 0


def handler(event, context):
    """`unique`: name to draw, must differ from clone to clone. `same`: was seeded, so must not."""
    global calls
    calls += 1
    time.sleep((event or {}).get("hold_s", 0))
    unique = {
        "random": random.getrandbits(64),
        "random.Random": own.getrandbits(64),
        "SystemRandom": system.getrandbits(64),
        "uuid1 clock and node": uuid.uuid1().hex[16:],
        "uuid4": uuid.uuid4().hex,
        "secrets": secrets.token_hex(8),
        "ssl": ssl.RAND_bytes(8).hex(),
        "tempfile": next(tempfile._get_candidate_names()),
    }
    same = {"seeded": seeded.getrandbits(64)}
    if numpy is not None:
        unique["numpy legacy"] = int(numpy.random.randint(0, 2**62))
        unique["numpy generator"] = int(generator.integers(0, 2**62))
        unique["numpy bits"] = int(bits.random_raw())
        same["numpy fixed"] = int(fixed.integers(0, 2**62))
    return {"unique": unique, "same": same, "calls": calls}
