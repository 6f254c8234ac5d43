"""What the compiled module offers, for type checkers. tests/test_stubs.py compares it with the module."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Optional, SupportsFloat, SupportsIndex, TypedDict, Union, overload

from numpy import float32
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

__version__: str

_Metadata = Mapping[str, Any]
_Filter = Union[dict[str, Any], str]
_Tokenizer = Literal["unicode61", "porter", "trigram"]
_Id = Union[SupportsIndex, str]
_OnConflict = Literal["error", "skip", "replace"]
_Ttl = Union[SupportsFloat, timedelta]
_Instant = Union[datetime, SupportsFloat]
_Include = Iterable[Literal["metadata", "document", "vector", "snippet"]]
_RowInclude = Iterable[Literal["metadata", "document", "vector", "expires_at"]]
_Fusion = Union[Literal["rrf"], Mapping[Literal["k", "vector", "text"], SupportsFloat]]

class Hit(TypedDict):
    id: Union[int, str]
    metadata: Optional[dict[str, Any]]
    score: float
    distance: float

class FullHit(Hit, total=False):
    """A hit when `include`, `text`, `group_by` or `rerank` is given: it holds what they ask for."""

    document: Optional[str]
    vector: NDArray[float32]
    text_score: Optional[float]
    snippet: Optional[str]
    group: Union[str, int, float, bool, None]
    rerank_score: float

class Facet(TypedDict):
    value: Union[str, int, float, bool, None]
    count: int

class Row(TypedDict, total=False):
    id: Union[int, str]
    metadata: Optional[dict[str, Any]]
    document: Optional[str]
    vector: NDArray[float32]
    expires_at: Optional[datetime]

_Mmr = TypedDict("_Mmr", {"lambda": float, "fetch": Optional[int]}, total=False)
_Progress = Callable[[int, int], object]
_Rerank = Callable[[list[FullHit]], Iterable[Union[SupportsFloat, FullHit]]]

class NoPokeDBError(Exception): ...
class InvalidError(NoPokeDBError, ValueError): ...
class DimensionError(NoPokeDBError, ValueError): ...
class MetadataError(InvalidError): ...
class DuplicateIdError(InvalidError):
    ids: list[Union[int, str]]
class FilterError(InvalidError): ...
class EmptyError(NoPokeDBError, RuntimeError): ...
class LockedError(NoPokeDBError, RuntimeError): ...
class ClosedError(NoPokeDBError, RuntimeError): ...
class ReadOnlyError(NoPokeDBError, RuntimeError): ...
class StorageError(NoPokeDBError, OSError): ...
class StorageFullError(NoPokeDBError, OSError): ...
class CorruptionError(NoPokeDBError, RuntimeError): ...

class CheckReport:
    @property
    def ok(self) -> bool: ...
    @property
    def problems(self) -> list[str]: ...
    @property
    def rebuilt(self) -> list[str]: ...
    @property
    def collections(self) -> int: ...
    @property
    def segments(self) -> int: ...
    @property
    def log_bytes(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def graph_rows(self) -> int: ...
    @property
    def sqlite_rows(self) -> int: ...
    @property
    def images(self) -> int: ...
    def __bool__(self) -> bool: ...

class BackupReport:
    @property
    def lsn(self) -> int: ...
    @property
    def files_copied(self) -> int: ...
    @property
    def bytes_copied(self) -> int: ...
    @property
    def files_kept(self) -> int: ...

class Batch:
    def add(
        self,
        vector: ArrayLike,
        metadata: Optional[_Metadata] = None,
        *,
        id: Optional[_Id] = None,
        document: Optional[str] = None,
        on_conflict: _OnConflict = "error",
        ttl: Optional[_Ttl] = None,
        expires_at: Optional[_Instant] = None,
    ) -> Union[int, str]: ...
    def upsert(
        self,
        id: _Id,
        vector: Optional[ArrayLike] = None,
        metadata: Optional[_Metadata] = None,
        *,
        document: Optional[str] = None,
        ttl: Optional[_Ttl] = None,
        expires_at: Optional[_Instant] = None,
    ) -> None: ...
    def update(self, id: _Id, set: Optional[_Metadata] = None, *, remove: Union[str, Iterable[str]] = ()) -> None: ...
    def delete(self, id: _Id) -> None: ...
    def commit(self) -> list[bool]: ...
    @property
    def changed(self) -> Optional[list[bool]]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> Literal[True]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: Optional[type[BaseException]] = None,
        exc: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None: ...
    def __repr__(self) -> str: ...

class RepairReport:
    @property
    def path(self) -> str: ...
    @property
    def cause(self) -> Optional[str]: ...
    @property
    def rebuilt(self) -> list[str]: ...
    @property
    def rows(self) -> int: ...
    @property
    def lost(self) -> list[dict[str, Any]]: ...
    def __bool__(self) -> bool: ...

def repair(
    path: Union[str, os.PathLike[str]],
    into: Optional[Union[str, os.PathLike[str]]] = None,
    *,
    space: Optional[Literal["cosine", "l2", "ip"]] = None,
) -> RepairReport: ...

class NoPokeDB:
    def __init__(
        self,
        dim: Optional[SupportsIndex] = None,
        max_elements: SupportsIndex = 10000,
        path: Union[str, os.PathLike[str]] = "./data",
        space: Literal["cosine", "l2", "ip"] = "cosine",
        M: Optional[SupportsIndex] = None,
        ef_construction: Optional[SupportsIndex] = None,
        ef: SupportsIndex = 50,
        *,
        tokenizer: Optional[_Tokenizer] = None,
        model: Optional[str] = None,
        timeout: SupportsFloat = 0,
        force: bool = False,
        read_only: bool = False,
        progress: Union[bool, _Progress, None] = None,
    ) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def space(self) -> str: ...
    @property
    def tokenizer(self) -> str: ...
    @property
    def model(self) -> Optional[str]: ...
    @property
    def path(self) -> str: ...
    @property
    def M(self) -> int: ...
    @property
    def ef_construction(self) -> int: ...
    @property
    def ef(self) -> int: ...
    @ef.setter
    def ef(self, value: SupportsIndex) -> None: ...
    @property
    def max_elements(self) -> int: ...
    def add(
        self,
        vector: ArrayLike,
        metadata: Optional[_Metadata] = None,
        *,
        id: Optional[_Id] = None,
        document: Optional[str] = None,
        on_conflict: _OnConflict = "error",
        ttl: Optional[_Ttl] = None,
        expires_at: Optional[_Instant] = None,
    ) -> Union[int, str]: ...
    def add_many(
        self,
        vectors: Union[ArrayLike, Iterable[ArrayLike]],
        metadatas: Optional[Iterable[Optional[_Metadata]]] = None,
        *,
        ids: Optional[Iterable[_Id]] = None,
        documents: Optional[Iterable[Optional[str]]] = None,
        on_conflict: _OnConflict = "error",
        ttl: Union[_Ttl, Iterable[Optional[_Ttl]], None] = None,
        expires_at: Union[_Instant, Iterable[Optional[_Instant]], None] = None,
        progress: Union[bool, _Progress, None] = None,
    ) -> list[Union[int, str]]: ...
    def query(
        self,
        vector: Optional[ArrayLike] = None,
        k: SupportsIndex = 5,
        ef: Optional[SupportsIndex] = None,
        *,
        where: Optional[_Filter] = None,
        min_score: Optional[SupportsFloat] = None,
        max_distance: Optional[SupportsFloat] = None,
        offset: SupportsIndex = 0,
        include: Optional[_Include] = None,
        exact: bool = False,
        recall: Optional[SupportsFloat] = None,
        mmr: Union[SupportsFloat, _Mmr, None] = None,
        group_by: Optional[str] = None,
        group_size: SupportsIndex = 1,
        positive: Union[_Id, Iterable[_Id], None] = None,
        negative: Union[_Id, Iterable[_Id], None] = None,
        rerank: Optional[_Rerank] = None,
        rerank_factor: SupportsIndex = 4,
        explain: bool = False,
        text: Optional[str] = None,
        text_mode: Literal["any", "all"] = "any",
        text_syntax: Literal["plain", "fts5"] = "plain",
        fusion: _Fusion = "rrf",
        highlight: tuple[str, str] = ("**", "**"),
    ) -> list[FullHit]: ...
    def query_many(
        self,
        vectors: Union[ArrayLike, Iterable[ArrayLike]],
        k: SupportsIndex = 5,
        ef: Optional[SupportsIndex] = None,
        *,
        where: Union[_Filter, Sequence[Optional[_Filter]], None] = None,
        min_score: Optional[SupportsFloat] = None,
        max_distance: Optional[SupportsFloat] = None,
        offset: SupportsIndex = 0,
        include: Optional[_Include] = None,
        exact: bool = False,
        recall: Optional[SupportsFloat] = None,
        mmr: Union[SupportsFloat, _Mmr, None] = None,
        group_by: Optional[str] = None,
        group_size: SupportsIndex = 1,
        rerank: Optional[_Rerank] = None,
        rerank_factor: SupportsIndex = 4,
        text: Optional[str] = None,
        text_mode: Literal["any", "all"] = "any",
        text_syntax: Literal["plain", "fts5"] = "plain",
        fusion: _Fusion = "rrf",
        highlight: tuple[str, str] = ("**", "**"),
    ) -> list[list[FullHit]]: ...
    def count(self, where: Optional[_Filter] = None) -> int: ...
    def facets(self, field: str, where: Optional[_Filter] = None, *, limit: SupportsIndex = 100) -> list[Facet]: ...
    def scroll(
        self,
        where: Optional[_Filter] = None,
        *,
        limit: SupportsIndex = 100,
        after: Optional[_Id] = None,
        include: Optional[_RowInclude] = None,
    ) -> list[Row]: ...
    def delete_where(self, where: _Filter) -> int: ...
    @overload
    def get(self, id: Optional[_Id] = None, *, vid: Optional[_Id] = None) -> Optional[dict[str, Any]]: ...
    @overload
    def get(self, id: _Id, *, include: _RowInclude) -> Optional[Row]: ...
    @overload
    def get(self, id: Iterable[_Id]) -> list[Optional[dict[str, Any]]]: ...
    @overload
    def get(self, id: Iterable[_Id], *, include: _RowInclude) -> list[Optional[Row]]: ...
    def get_many(self, ids: Iterable[_Id], *, include: Optional[_RowInclude] = None) -> list[Optional[Row]]: ...
    def upsert(
        self,
        id: Optional[_Id] = None,
        vector: Optional[ArrayLike] = None,
        metadata: Optional[_Metadata] = None,
        *,
        document: Optional[str] = None,
        ttl: Optional[_Ttl] = None,
        expires_at: Optional[_Instant] = None,
        vid: Optional[_Id] = None,
    ) -> None: ...
    def update(self, id: _Id, set: Optional[_Metadata] = None, *, remove: Union[str, Iterable[str]] = ()) -> None: ...
    def batch(self) -> Batch: ...
    @overload
    def delete(self, id: Optional[_Id] = None, *, purge: bool = False, vid: Optional[_Id] = None) -> bool: ...
    @overload
    def delete(self, *, where: _Filter, purge: bool = False) -> int: ...
    def collection(
        self,
        name: str,
        dim: Optional[SupportsIndex] = None,
        space: Optional[Literal["cosine", "l2", "ip"]] = None,
        *,
        M: Optional[SupportsIndex] = None,
        ef_construction: Optional[SupportsIndex] = None,
        model: Optional[str] = None,
        tokenizer: Optional[_Tokenizer] = None,
    ) -> NoPokeDB: ...
    def create_collections(
        self,
        names: Iterable[str],
        dim: SupportsIndex,
        space: Optional[Literal["cosine", "l2", "ip"]] = None,
        *,
        M: Optional[SupportsIndex] = None,
        ef_construction: Optional[SupportsIndex] = None,
        model: Optional[str] = None,
        tokenizer: Optional[_Tokenizer] = None,
    ) -> list[str]: ...
    def collections(self) -> list[str]: ...
    def drop_collection(self, name: str) -> bool: ...
    def recall(
        self,
        k: SupportsIndex = 10,
        sample: SupportsIndex = 200,
        where: Optional[_Filter] = None,
        ef: Optional[SupportsIndex] = None,
        *,
        progress: Union[bool, _Progress, None] = None,
    ) -> float: ...
    def check(self) -> CheckReport: ...
    def backup(self, path: Union[str, os.PathLike[str]]) -> BackupReport: ...
    def save(self) -> None: ...
    def refresh(self) -> None: ...
    @property
    def read_only(self) -> bool: ...
    def close(self) -> None: ...
    def wait_indexed(
        self, timeout: Optional[SupportsFloat] = None, *, progress: Union[bool, _Progress, None] = None
    ) -> bool: ...
    def stats(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> Literal[True]: ...
    def __contains__(self, id: object, /) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: Optional[type[BaseException]] = None,
        exc: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None: ...
    def __repr__(self) -> str: ...
