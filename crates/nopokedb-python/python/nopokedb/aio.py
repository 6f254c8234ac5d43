"""`AsyncNoPokeDB`: every method of `NoPokeDB` as a coroutine, run on threads of its own.

The engine releases Python's lock while it works, so calls of several tasks run at the same time, and the event loop goes on.
Imported when it is first asked for: asyncio takes longer to import than the rest of the package.
"""

from __future__ import annotations

import asyncio
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable

from ._nopokedb import Batch, ClosedError, NoPokeDB

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Optional, TypeVar

    from typing_extensions import Concatenate, ParamSpec, Self

    P = ParamSpec("P")
    R = TypeVar("R")


def _twin(
    method: Callable[Concatenate[NoPokeDB, P], R],
) -> Callable[Concatenate[AsyncNoPokeDB, P], Coroutine[Any, Any, R]]:
    """The coroutine that calls `method` on one of the threads."""

    @functools.wraps(method)
    async def call(self, *args, **kwargs):
        return await self.run(method, *args, **kwargs)

    call.__qualname__ = f"AsyncNoPokeDB.{method.__name__}"
    return call


class AsyncNoPokeDB:
    """`NoPokeDB` for asyncio: the same methods, with the same arguments and answers, each to be awaited.

    `async with AsyncNoPokeDB(dim=...) as db` opens and closes it; so do `await db.open()` and `await db.close()`. `len(db)`,
    `id in db` and attributes (`dim`, `ef`, ...) are as in `NoPokeDB`, without await.

    A call that is cancelled stops being waited for; what it does goes on to its end, so a write may still be written.

    Parameters
    ----------
    *args, **kwargs
        As in `NoPokeDB`.
    threads : int, optional
        How many calls may run at once; None is four more than there are cores, 32 at most.

    Raises
    ------
    ClosedError
        A method was called before it was opened, or after it was closed.

    Examples
    --------
    >>> import asyncio
    >>> from nopokedb import AsyncNoPokeDB
    >>> async def main():
    ...     async with AsyncNoPokeDB(dim=2, path="aio") as db:
    ...         ids = await db.add_many([[1, 0], [0, 1]], [{"name": "east"}, {"name": "north"}])
    ...         east, north = await asyncio.gather(db.query([1, 0], k=1), db.query([0, 1], k=1))
    ...         return len(db), east[0]["metadata"], north[0]["metadata"]
    >>> asyncio.run(main())
    (2, {'name': 'east'}, {'name': 'north'})
    """

    def __init__(self, *args: Any, threads: Optional[int] = None, **kwargs: Any) -> None:
        self._given = functools.partial(NoPokeDB, *args, **kwargs)
        self._threads = threads or min(32, (os.cpu_count() or 1) + 4)
        self._db: Optional[NoPokeDB] = None
        self._pool: Optional[ThreadPoolExecutor] = None
        self._of: Optional[AsyncNoPokeDB] = None

    async def open(self) -> Self:
        """Open the database; `async with` does it too. Opening again after `close` is allowed."""
        if self._db is None:
            if self._of is not None:
                raise ClosedError("this handle of a collection is closed; ask the database for another")
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix="nopokedb")
            try:
                self._db = await asyncio.get_running_loop().run_in_executor(pool, self._given)
            except BaseException:
                pool.shutdown(wait=False)
                raise
            self._pool = pool
        return self

    async def close(self) -> None:
        """Write the caches and let the directory go. Closing again does nothing; any other call raises ClosedError."""
        db, pool, self._db, self._pool = self._db, self._pool, None, None
        if db is None or pool is None:
            return
        if self._of is not None and self._of._pool is not pool:
            # The database was closed before, so there is nothing to wait for, and no thread to wait on.
            db.close()
            return
        try:
            await asyncio.get_running_loop().run_in_executor(pool, db.close)
        finally:
            if self._of is None:
                pool.shutdown(wait=False)

    async def run(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """`function(db, ...)` on one of the threads, with the `NoPokeDB` behind this: for what takes several calls."""
        call = functools.partial(function, self._opened(), *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def collection(self, *args: Any, **kwargs: Any) -> AsyncNoPokeDB:
        """A named collection, as in `NoPokeDB.collection`; it shares the threads of this."""
        made = AsyncNoPokeDB.__new__(AsyncNoPokeDB)
        made._given, made._threads, made._of = self._given, self._threads, self._of or self
        made._db = await self.run(NoPokeDB.collection, *args, **kwargs)
        made._pool = self._pool
        return made

    def batch(self) -> AsyncBatch:
        """Several writes as one, as in `NoPokeDB.batch`: `async with db.batch() as b: b.add(...)`. What is called on `b` only
        gathers the writes and is not awaited; they are written, on one of the threads, when the block ends."""
        return AsyncBatch(self)

    def _opened(self) -> NoPokeDB:
        if self._db is None:
            raise ClosedError("the database is not open; use it in `async with`, or await open() first")
        if self._of is not None and self._of._pool is not self._pool:
            raise ClosedError("the database was closed, and its collections with it; ask it for another after open()")
        return self._db

    add = _twin(NoPokeDB.add)
    add_many = _twin(NoPokeDB.add_many)
    collections = _twin(NoPokeDB.collections)
    count = _twin(NoPokeDB.count)
    delete = _twin(NoPokeDB.delete)
    delete_where = _twin(NoPokeDB.delete_where)
    drop_collection = _twin(NoPokeDB.drop_collection)
    facets = _twin(NoPokeDB.facets)
    get = _twin(NoPokeDB.get)
    get_many = _twin(NoPokeDB.get_many)
    query = _twin(NoPokeDB.query)
    query_many = _twin(NoPokeDB.query_many)
    recall = _twin(NoPokeDB.recall)
    save = _twin(NoPokeDB.save)
    scroll = _twin(NoPokeDB.scroll)
    stats = _twin(NoPokeDB.stats)
    update = _twin(NoPokeDB.update)
    upsert = _twin(NoPokeDB.upsert)
    wait_indexed = _twin(NoPokeDB.wait_indexed)

    def __len__(self) -> int:
        return len(self._opened())

    def __bool__(self) -> bool:
        return True

    def __contains__(self, id: object) -> bool:
        return id in self._opened()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._db!r}" if self._db is not None else "AsyncNoPokeDB(not open)"


class AsyncBatch:
    """What `AsyncNoPokeDB.batch` makes: an async context manager that gives a `Batch`."""

    def __init__(self, db: AsyncNoPokeDB) -> None:
        self._db = db
        self._batch: Optional[Batch] = None

    async def __aenter__(self) -> Batch:
        self._batch = await self._db.run(NoPokeDB.batch)
        return self._batch

    async def __aexit__(self, *exception: Any) -> None:
        batch = self._batch
        if batch is not None:
            await self._db.run(lambda _: batch.__exit__(*exception))


def _attribute(name: str) -> property:
    def read(self: AsyncNoPokeDB) -> Any:
        return getattr(self._opened(), name)

    def write(self: AsyncNoPokeDB, value: Any) -> None:
        setattr(self._opened(), name, value)

    return property(read, write, doc=getattr(NoPokeDB, name).__doc__)


# Attributes, and methods that the list above does not have yet.
for _name, _member in vars(NoPokeDB).items():
    if _name.startswith("_") or _name in vars(AsyncNoPokeDB):
        continue
    setattr(AsyncNoPokeDB, _name, _twin(_member) if callable(_member) else _attribute(_name))
