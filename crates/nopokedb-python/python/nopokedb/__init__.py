"""NoPokeDB: an embedded vector database. One directory, no server, no upkeep, no acknowledged write lost.

>>> import numpy as np
>>> from nopokedb import NoPokeDB
>>> with NoPokeDB(dim=3, path="quickstart") as db:
...     ids = db.add_many(np.eye(3), [{"axis": name} for name in "xyz"])
...     best = db.query([0.1, 0.9, 0.0], k=1)[0]
>>> best["metadata"]
{'axis': 'y'}
"""

from ._nopokedb import (
    BackupReport,
    CheckReport,
    ClosedError,
    CorruptionError,
    DimensionError,
    DuplicateIdError,
    EmptyError,
    FilterError,
    InvalidError,
    LockedError,
    MetadataError,
    NoPokeDB,
    NoPokeDBError,
    StorageError,
    StorageFullError,
    __version__,
)

__all__ = [
    "BackupReport",
    "CheckReport",
    "ClosedError",
    "CorruptionError",
    "DimensionError",
    "DuplicateIdError",
    "EmptyError",
    "FilterError",
    "InvalidError",
    "LockedError",
    "MetadataError",
    "NoPokeDB",
    "NoPokeDBError",
    "StorageError",
    "StorageFullError",
    "__version__",
]
