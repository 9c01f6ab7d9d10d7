//! How long to wait before the next attempt to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
/// A daemon on the same host: trying costs microseconds, and a tool waits for the answer.
const LONGEST: Duration = Duration::from_secs(2);
/// A connection that lived this long was a good one. One that did not is no reason to hurry: the daemon may break each at once.
const GOOD: Duration = Duration::from_secs(5);

pub struct Backoff {
    wait: Duration,
    jitter: f64,
}

impl Backoff {
    pub fn new() -> Self {
        // Up to a quarter more, so that the tools of a host do not all come at once. They differ in nothing as surely as their ids.
        Self { wait: FIRST, jitter: 1.0 + f64::from(std::process::id() % 64) / 256.0 }
    }

    pub fn broke_after(&mut self, lived: Duration) {
        if lived >= GOOD {
            self.wait = FIRST;
        }
    }

    /// How long to wait now. Twice as long the next time.
    pub fn next(&mut self) -> Duration {
        let wait = self.wait.mul_f64(self.jitter);
        self.wait = (self.wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_bound_and_starts_over_after_a_good_connection() {
        let mut backoff = Backoff { wait: FIRST, jitter: 1.0 };
        let waits: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        backoff.broke_after(Duration::from_millis(10));
        assert_eq!(backoff.next(), LONGEST, "a connection that broke at once is no success");
        backoff.broke_after(GOOD);
        assert_eq!(backoff.next(), FIRST);
    }

    #[test]
    fn processes_differ_by_a_quarter_at_the_most() {
        let Backoff { jitter, .. } = Backoff::new();
        assert!((1.0..1.25).contains(&jitter));
    }
}
