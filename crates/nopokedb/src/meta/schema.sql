-- NoPokeDB's metadata cache. Everything here is a copy of what is in log/: deleting this file loses nothing, and
-- changing it has no effect but a rebuild. Look around with: sqlite3 meta.sqlite 'SELECT * FROM readable LIMIT 10'

-- One row per live record. lsn is the log's number of the operation that wrote it. hash covers the whole row. A record
-- with a text id has it as its key; its id is a negative number then, made of the text's hash.
CREATE TABLE records(
    lsn        INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL,
    id         INTEGER NOT NULL,
    key        TEXT,
    metadata   TEXT,
    document   TEXT,
    expires_ms INTEGER,
    hash       INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX records_by_id ON records(collection, id);

-- How many rows of each collection there are in records: a scan that finds another number has met damage.
CREATE TABLE collections(
    collection INTEGER PRIMARY KEY,
    rows       INTEGER NOT NULL,
    hash       INTEGER NOT NULL
) STRICT;

-- Which collections have a text index: the FTS5 table text_<collection>, made with the collection's first document. Its
-- rowid is the row's lsn, and it keeps no copy of the text: that is in records. text_<collection>_words lists its words.
CREATE TABLE texts(
    collection INTEGER PRIMARY KEY,
    tokenizer  TEXT NOT NULL,
    hash       INTEGER NOT NULL
) STRICT;

-- What the tables reflect: every operation of the log up to applied_lsn, and nothing after it.
CREATE TABLE state(
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    db_uuid        TEXT NOT NULL,
    applied_lsn    INTEGER NOT NULL,
    chain          TEXT NOT NULL,
    clean          INTEGER NOT NULL,
    hash           INTEGER NOT NULL
) STRICT;

CREATE VIEW readable AS
    SELECT collection, coalesce(key, id) AS id, metadata, document,
           strftime('%Y-%m-%d %H:%M:%f', expires_ms / 1000.0, 'unixepoch') AS expires, lsn
    FROM records
    ORDER BY collection, records.id;
