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
    Batch,
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
    ReadOnlyError,
    RepairReport,
    StorageError,
    StorageFullError,
    __version__,
    repair,
)

# Type checkers know the name; importing `typing` takes longer than it is worth.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .aio import AsyncNoPokeDB
    from .hits import Hits

__all__ = [
    "AsyncNoPokeDB",
    "BackupReport",
    "Batch",
    "CheckReport",
    "ClosedError",
    "CorruptionError",
    "DimensionError",
    "DuplicateIdError",
    "EmptyError",
    "FilterError",
    "Hits",
    "InvalidError",
    "LockedError",
    "MetadataError",
    "NoPokeDB",
    "NoPokeDBError",
    "ReadOnlyError",
    "RepairReport",
    "StorageError",
    "StorageFullError",
    "__version__",
    "repair",
]


def __getattr__(name):
    # Imported when asked for: asyncio takes longer to import than all the rest.
    if name == "AsyncNoPokeDB":
        from .aio import AsyncNoPokeDB

        return AsyncNoPokeDB
    if name == "Hits":
        from .hits import Hits

        return Hits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
