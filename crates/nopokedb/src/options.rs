//! Options as plain structs. A value out of range is refused naming the limit, never capped quietly.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::types::{Metric, Tokenizer};

/// The largest dimension: it is stored in 16 bits, and 65,535 floats are already 256 KiB a row.
pub const MAX_DIM: usize = 65_535;

/// The longest name of a model, in bytes.
const MAX_MODEL: usize = 1_024;

/// How a database is opened. Build one with [`Options::new`] and change what you need.
///
/// ```
/// use nopokedb::{Metric, Options};
/// let options = Options { metric: Metric::L2, ef: 100, ..Options::new(384) };
/// assert_eq!(options.dim, 384);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Dimension of every vector, 1 to [`MAX_DIM`]. Must equal the stored one when the database exists; 0 takes over what is
    /// stored, metric included, where that is only read.
    pub dim: usize,
    /// Distance. Must equal the stored one when the database exists.
    pub metric: Metric,
    /// A hint of how many rows will come; never a limit.
    pub max_elements: usize,
    /// Links per node and layer of the graph (twice that on the ground layer), 2 to 256. `None` keeps the stored value,
    /// or 16 in a new database. Changing it rebuilds the graph in the background.
    pub m: Option<usize>,
    /// Beam width while building, 8 to 4,096. `None` keeps the stored value, or 200 in a new database.
    pub ef_construction: Option<usize>,
    /// Beam width of a query unless the query says otherwise, 1 to 65,536.
    pub ef: usize,
    /// How documents are cut into words for full-text search. `None` keeps the stored choice, or is
    /// [`Tokenizer::Unicode61`] in a new database. Changing it rebuilds the text index in the background.
    pub tokenizer: Option<Tokenizer>,
    /// The name of the model that makes the vectors: stored (also later, where there is none yet), compared at every opening that
    /// gives one, and named in errors about dimensions.
    pub model: Option<String>,
    /// How long to wait for another writer to let go, in milliseconds. 0 fails at once.
    pub timeout_ms: u64,
    /// Opens an existing database to read it only: takes no lock, changes no byte, and follows whoever writes it, in this process
    /// or another. Writes are refused; `M` and `ef_construction` are the stored ones.
    pub read_only: bool,
    /// Opens a directory on a network file system, whose locks and fsync cannot be trusted.
    pub force_network_fs: bool,
    /// Bytes of a log segment before the next one is begun, 64 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Threads that build the graph in the background; 0 is "as many as there are cores".
    pub build_threads: usize,
    /// The clock by which rows expire. Of several handles to one directory in one process the first one's counts.
    pub clock: Clock,
    /// Rows from which on a graph is built, where the default is not wanted. For tests.
    #[doc(hidden)]
    pub graph_from: Option<u32>,
    /// Payload bytes after which a batch goes on in another frame, where the default is not wanted. For tests.
    #[doc(hidden)]
    pub frame_bytes: Option<u64>,
}

impl Options {
    /// The defaults for vectors of dimension `dim`: cosine, M 16, ef_construction 200, ef 50.
    pub fn new(dim: usize) -> Self {
        Options {
            dim,
            metric: Metric::Cosine,
            max_elements: 10_000,
            m: None,
            ef_construction: None,
            ef: 50,
            tokenizer: None,
            model: None,
            timeout_ms: 0,
            read_only: false,
            force_network_fs: false,
            segment_bytes: 64 << 20,
            build_threads: 0,
            clock: Clock::system(),
            graph_from: None,
            frame_bytes: None,
        }
    }

    /// To read a database that exists, whatever its dimension and metric.
    ///
    /// ```
    /// assert!(nopokedb::Options::reading().read_only);
    /// ```
    pub fn reading() -> Self {
        Options { read_only: true, ..Options::new(0) }
    }

    /// Refuses values out of range, naming the limit.
    pub(crate) fn validate(&self) -> Result<()> {
        // Who only reads may leave it to what is stored.
        in_range("dim", self.dim, usize::from(!self.read_only), MAX_DIM)?;
        in_range("ef", self.ef, 1, 65_536)?;
        check_model(self.model.as_deref())?;
        if let Some(m) = self.m {
            in_range("M", m, 2, 256)?;
        }
        if let Some(ef_construction) = self.ef_construction {
            in_range("ef_construction", ef_construction, 8, 4_096)?;
        }
        let segment_bytes = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX);
        in_range("segment_bytes", segment_bytes, 64 << 10, 1 << 30)?;
        in_range("build_threads", self.build_threads, 0, 1_024)
    }
}

/// How a named collection is made. Build one with [`CollectionOptions::new`] and change what you need.
#[derive(Clone, Debug)]
pub struct CollectionOptions {
    /// Dimension of every vector, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// Distance.
    pub metric: Metric,
    /// Links per node and layer of the graph, 2 to 256; `None` is 16.
    pub m: Option<usize>,
    /// Beam width while building, 8 to 4,096; `None` is 200.
    pub ef_construction: Option<usize>,
    /// As in [`Options`].
    pub model: Option<String>,
    /// How documents are cut into words for full-text search. `None` keeps the stored choice, or is
    /// [`Tokenizer::Unicode61`] in a new collection.
    pub tokenizer: Option<Tokenizer>,
}

impl CollectionOptions {
    /// The defaults for vectors of dimension `dim`: cosine, M 16, ef_construction 200.
    pub fn new(dim: usize) -> Self {
        CollectionOptions { dim, metric: Metric::Cosine, m: None, ef_construction: None, model: None, tokenizer: None }
    }

    /// Refuses values out of range, naming the limit.
    pub(crate) fn validate(&self) -> Result<()> {
        let Self { dim, metric, m, ef_construction, .. } = *self;
        check_model(self.model.as_deref())?;
        Options { metric, m, ef_construction, ..Options::new(dim) }.validate()
    }
}

/// Refuses a model's name that is none.
fn check_model(model: Option<&str>) -> Result<()> {
    match model {
        Some(name) if name.is_empty() || name.len() > MAX_MODEL => {
            Err(Error::argument(format!("a model's name has 1 to {MAX_MODEL} bytes, got {}", name.len())))
        }
        _ => Ok(()),
    }
}

/// An option that validation holds far below 2^32.
pub(crate) fn narrow(option: usize) -> u32 {
    u32::try_from(option).unwrap_or(u32::MAX)
}

/// Refuses a `value` outside `[low, high]`.
pub(crate) fn in_range(name: &str, value: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::argument(format!("{name} must be between {low} and {high}, got {value}")))
}
