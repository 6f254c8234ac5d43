//! What time it is, as far as rows expire by it: the system's clock, or one that a test moves by hand.
//!
//! Invariants:
//! 1. It never goes back, whatever is done to the system's: a row that has expired stays so.
//! 2. An instant is in Unix milliseconds, and 0 is none: [`Expiry::resolve`] gives no other instant below 1.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// The end of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// The clock by which rows expire. Clones are the same clock.
///
/// ```
/// use nopokedb::Clock;
/// use std::time::{Duration, UNIX_EPOCH};
/// let clock = Clock::stopped(UNIX_EPOCH + Duration::from_secs(1_000));
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.now(), UNIX_EPOCH + Duration::from_secs(1_005));
/// ```
#[derive(Clone)]
pub struct Clock {
    is_stopped: bool,
    /// The latest instant that was told.
    latest_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock { is_stopped: false, latest_ms: Arc::new(AtomicI64::new(1)) }
    }

    /// A clock that stands still until it is advanced: for tests.
    pub fn stopped(at: SystemTime) -> Clock {
        Clock { is_stopped: true, latest_ms: Arc::new(AtomicI64::new(unix_ms(at))) }
    }

    /// Moves a stopped clock on; of the system's nothing changes.
    pub fn advance(&self, by: Duration) {
        if self.is_stopped {
            self.latest_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), SeqCst);
        }
    }

    /// What time it is.
    pub fn now(&self) -> SystemTime {
        instant(self.now_ms())
    }

    /// What time it is, in Unix milliseconds; at least 1.
    pub(crate) fn now_ms(&self) -> i64 {
        if self.is_stopped {
            return self.latest_ms.load(SeqCst);
        }
        let now = unix_ms(SystemTime::now());
        self.latest_ms.fetch_max(now, SeqCst).max(now)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_stopped { "Clock(stopped)" } else { "Clock(system)" })
    }
}

/// When a row expires: from that instant on no read returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It stays until it is deleted.
    Never,
    /// So long after the call that writes it.
    After(Duration),
    /// At that instant, to the millisecond. One that has passed makes a row that nobody sees.
    At(SystemTime),
}

impl Expiry {
    /// The instant in Unix milliseconds; 0 is never.
    pub(crate) fn resolve(self, clock: &Clock) -> Result<i64> {
        let ms = match self {
            Expiry::Never => return Ok(0),
            Expiry::At(at) => Some(unix_ms(at)),
            Expiry::After(time) => i64::try_from(time.as_millis()).ok().and_then(|ms| clock.now_ms().checked_add(ms)),
        };
        ms.filter(|&ms| ms <= LAST_MS).ok_or_else(|| Error::argument("a row can expire up to the year 9999, or never"))
    }
}

/// The instant of stored milliseconds; `None` for 0.
pub(crate) fn stored(expires_ms: i64) -> Option<SystemTime> {
    (expires_ms != 0).then(|| instant(expires_ms))
}

fn instant(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Whole milliseconds since 1970, at least 1.
fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_resolved_to_the_millisecond_and_never_to_none() {
        let clock = Clock::stopped(UNIX_EPOCH + Duration::from_secs(100));
        assert_eq!(Expiry::Never.resolve(&clock).unwrap(), 0);
        assert_eq!(Expiry::After(Duration::from_micros(2_900)).resolve(&clock).unwrap(), 100_002);
        assert_eq!(Expiry::At(UNIX_EPOCH).resolve(&clock).unwrap(), 1);
        assert_eq!(Expiry::At(UNIX_EPOCH - Duration::from_secs(9)).resolve(&clock).unwrap(), 1);
        assert!(Expiry::After(Duration::MAX).resolve(&clock).is_err());
        assert!(Expiry::At(UNIX_EPOCH + Duration::from_secs(1 << 40)).resolve(&clock).is_err());
    }

    #[test]
    fn a_clock_does_not_go_back() {
        let clock = Clock::system();
        let now = clock.now_ms();
        clock.latest_ms.store(now + 60_000, SeqCst);
        assert!(clock.now_ms() >= now + 60_000, "as if the system's had been set back");
        clock.advance(Duration::from_secs(3_600));
        assert!(clock.now_ms() < now + 120_000);
    }
}
