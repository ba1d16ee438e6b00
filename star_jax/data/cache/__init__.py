"""A teacher's cache: what it said of every target position of a file's rows, on the disk.

    build    rows + teacher --scoring--> shards of a folder, and their manifest
    reader   the folder --find, read--> (ids, logp, tail_logp, label_logp) of a row
    verify   a sample of the rows, scored again

The student is then distilled for as many epochs as one likes, and the teacher runs once. Reading
needs no jax; `build`, `scoring` and `verify` bring it along.
"""

from star_jax.data.cache.identity import teacher_hash
from star_jax.data.cache.manifest import Manifest
from star_jax.data.cache.reader import Cache, Read

__all__ = ["Cache", "Manifest", "Read", "teacher_hash"]
